package selfupdate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan_DescribesAnUpgradeWithoutTheNetwork(t *testing.T) {
	w := newWorld(t)
	u := w.updater()
	got, err := u.Plan(newer)
	if err != nil {
		t.Fatal(err)
	}
	archive := w.options.Releases + "/v1.3.0/eds_Linux_x86_64.tar.gz"
	want := Plan{
		From: running, To: newer, Archive: archive, Signature: archive + ".sig", Program: w.target, Old: w.target + ".old",
		Signers: w.options.Keys.Fingerprints(), Page: strings.TrimSuffix(w.options.Releases, "/download"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(w.requests) > 0 {
		t.Errorf("it requested %v", w.requests)
	}
	w.untouched()
}

func TestPlatform_NamesArchives(t *testing.T) {
	var got []string
	for _, system := range []string{"linux", "darwin", "windows"} {
		for _, arch := range []string{"amd64", "arm64"} {
			p := Platform{system, arch}
			if err := p.Check(); err != nil {
				t.Error(err)
			}
			got = append(got, p.Archive()+" "+p.Program())
		}
	}
	want := []string{
		"eds_Linux_x86_64.tar.gz eds", "eds_Linux_arm64.tar.gz eds", "eds_Darwin_x86_64.tar.gz eds", "eds_Darwin_arm64.tar.gz eds",
		"eds_Windows_x86_64.zip eds.exe", "eds_Windows_arm64.zip eds.exe",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := (Platform{"linux", "riscv64"}).Check(); err == nil {
		t.Error("riscv64 is accepted")
	}
}

func TestPlan_RefusesVersionsThatAreNotNewer(t *testing.T) {
	for _, c := range []struct {
		running, asked string
		allow          bool
		want           error
		older          bool
	}{
		{"1.2.3", "1.2.4", false, nil, false},
		{"1.2.3", "v1.10.0", false, nil, false},
		{"1.2.3", "1.2.3", false, ErrCurrent, false},
		{"1.2.3", "1.2.2", false, ErrDowngrade, false},
		{"1.2.3", "1.2.2", true, nil, true},
		{"1.2.3", "1.2.3", true, nil, false},
		{"1.2.3", "1.2.3-rc.1", false, ErrDowngrade, false},
		{"1.2.3-rc.1", "1.2.3", false, nil, false},
		{"1.2.3-rc.9", "1.2.3-rc.10", false, nil, false},
		{"0.0.0-dev", "0.1.0", false, nil, false},
		{"4a5b6c7", "1.0.0", false, ErrIncomparable, false},
		{"4a5b6c7", "1.0.0", true, nil, false},
	} {
		w := newWorld(t)
		w.options.Version, w.options.AllowDowngrade = c.running, c.allow
		plan, err := w.updater().Plan(c.asked)
		if !errors.Is(err, c.want) || err == nil && plan.Downgrade != c.older {
			t.Errorf("%s over %s: %+v, %v, want %v", c.asked, c.running, plan, err, c.want)
		}
	}
}

func TestParseVersion_RefusesShortForms(t *testing.T) {
	for text, want := range map[string]string{
		"1.2.3": "1.2.3", " v1.2.3-rc.1\n": "1.2.3-rc.1", "1.2": "", "": "", "latest": "", "1.2.3+build": "", "../1.2.3": "",
		"1.2.3/..": "", "vv1.2.3": "", "01.2.3": "",
	} {
		if got, err := ParseVersion(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestPlan_RefusesContainers(t *testing.T) {
	for name, arrange := range map[string]func(*Options){
		"KUBERNETES_SERVICE_HOST is set": func(o *Options) {
			o.Lookup = func(name string) (string, bool) { return "10.0.0.1", name == "KUBERNETES_SERVICE_HOST" }
		},
		"container is set": func(o *Options) {
			o.Lookup = func(name string) (string, bool) { return "podman", name == "container" }
		},
		"/.dockerenv exists":        func(o *Options) { o.Exists = func(path string) bool { return path == "/.dockerenv" } },
		"/run/.containerenv exists": func(o *Options) { o.Exists = func(path string) bool { return path == "/run/.containerenv" } },
	} {
		w := newWorld(t)
		arrange(&w.options)
		_, err := w.updater().Stage(t.Context(), newer)
		if !errors.Is(err, ErrContainer) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if len(w.requests) > 0 {
			t.Errorf("%s: it requested %v", name, w.requests)
		}
		w.untouched()
	}
}

func TestPlan_AllowsContainersThatKeepTheirDisk(t *testing.T) {
	w := newWorld(t)
	w.options.Lookup = func(name string) (string, bool) { return "true", name == "EDS_UPGRADE_IN_CONTAINER" }
	w.options.Exists = func(path string) bool { return path == "/.dockerenv" }
	if _, err := w.updater().Plan(newer); err != nil {
		t.Error(err)
	}
}

func TestPlan_ReportsADirectoryThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	u := w.updater()
	// Not even root can write to a file as a directory.
	file := filepath.Join(w.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	u.target = filepath.Join(file, "eds")
	if err := u.writable(); !errors.Is(err, ErrNotWritable) || !strings.Contains(err.Error(), "sudo") {
		t.Error(err)
	}
}

func TestNew_RefusesReleasesWithoutTLS(t *testing.T) {
	for raw, ok := range map[string]bool{
		"": true, "https://mirror.example.com/eds/": true, "http://localhost:8080/x": true, "http://127.0.0.1/x": true,
		"http://[::1]:1/x":              true,
		"http://mirror.example.com/eds": false, "ftp://x/y": false, "https://": false, "https://u:p@host/x": false,
		"https://host/x?a=b": false, "http://localhost.example.com": false,
	} {
		if _, err := releasesURL(raw); (err == nil) != ok {
			t.Errorf("%q: %v", raw, err)
		}
	}
	_, err := New(Options{Executable: os.Args[0], Keys: newWorld(t).options.Keys, Releases: "http://u:SECRET@host/x"})
	if err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Error(err)
	}
}
