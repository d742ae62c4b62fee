package cli_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/gopenpgp/v3/crypto"
	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cli"
	"github.com/shopmonkeyus/eds/internal/selfupdate"
)

// machine is one with a program of eds on it, and a server with releases.
type machine struct {
	t           *testing.T
	program     string
	key         *crypto.Key
	keyFile     string
	releasesURL string
	files       map[string][]byte
	newest      string // the release that the page names
	container   bool
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{
		t: t, program: filepath.Join(t.TempDir(), "eds"), keyFile: filepath.Join(t.TempDir(), "key.asc"),
		files: make(map[string][]byte),
	}
	m.write(m.program, says("0.0.0"))
	var err error
	if m.key, err = crypto.PGP().KeyGeneration().AddUserId("Own", "own@example.com").New().GenerateKey(); err != nil {
		t.Fatal(err)
	}
	armored, err := m.key.GetArmoredPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	m.write(m.keyFile, armored)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text, ok := m.files[r.URL.Path]; ok {
			_, _ = w.Write(text)
			return
		}
		if r.URL.Path == "/eds/releases/latest" {
			http.Redirect(w, r, "/eds/releases/tag/v"+m.newest, http.StatusFound)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	m.releasesURL = server.URL + "/eds/releases/download"
	m.release("9.0.0", selfupdate.ThisPlatform())
	return m
}

func says(version string) string { return "#!/bin/sh\necho " + version + "\n" }

func (m *machine) write(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// release publishes a signed archive for a platform with archives of tar.
func (m *machine) release(version string, p selfupdate.Platform) {
	m.t.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	w := tar.NewWriter(zipped)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p.Program(), Mode: 0o755, Size: int64(len(says(version)))})
	if err == nil {
		_, err = w.Write([]byte(says(version)))
	}
	if err = errors.Join(err, w.Close(), zipped.Close()); err != nil {
		m.t.Fatal(err)
	}
	signer, err := crypto.PGP().Sign().SigningKey(m.key).Detached().New()
	if err != nil {
		m.t.Fatal(err)
	}
	signature, err := signer.Sign(archive.Bytes(), crypto.Bytes)
	if err != nil {
		m.t.Fatal(err)
	}
	path := "/eds/releases/download/v" + version + "/" + p.Archive()
	m.files[path], m.files[path+".sig"] = archive.Bytes(), signature
}

// eds runs the command line as the program of the machine.
func (m *machine) eds(args ...string) (stdout, stderr string, code int) {
	m.t.Helper()
	var out, errs bytes.Buffer
	code = cli.Run(cli.Process{
		Args:   append(args, "--data-dir", m.t.TempDir(), "--key", m.keyFile, "--releases-url", m.releasesURL),
		Lookup: func(string) (string, bool) { return "", false },
		Stdout: &out, Stderr: &errs, Executable: m.program, Exists: func(string) bool { return m.container },
	})
	return out.String(), errs.String(), code
}

// inPlace returns the version of the program in place, and the names beside it.
func (m *machine) inPlace() (version, names string) {
	m.t.Helper()
	said, err := exec.CommandContext(m.t.Context(), m.program).Output()
	if err != nil {
		m.t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(m.program))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		names += " " + e.Name()
	}
	return strings.TrimSpace(string(said)), strings.TrimSpace(names)
}

func (m *machine) wantInPlace(version, names string) {
	m.t.Helper()
	gotVersion, gotNames := m.inPlace()
	if diff := cmp.Diff([]string{version, names}, []string{gotVersion, gotNames}); diff != "" {
		m.t.Error(diff)
	}
}

// want runs the command line and checks what it says.
func (m *machine) want(code int, says string, args ...string) {
	m.t.Helper()
	out, stderr, got := m.eds(args...)
	if got != code || !strings.Contains(out+stderr, says) {
		m.t.Errorf("eds %v: exit code %d, want %d and %q\n%s%s", args, got, code, says, out, stderr)
	}
}

func TestUpgrade_IsAcceptedOrRolledBack(t *testing.T) {
	m := newMachine(t)
	m.want(0, "Nothing was changed", "upgrade", "9.0.0", "--dry-run")
	m.wantInPlace("0.0.0", "eds")
	m.want(0, "Restart the server to run it.", "upgrade", "v9.0.0")
	m.wantInPlace("9.0.0", "eds eds.old eds.upgrade")
	m.want(1, "pass --accept or --rollback", "upgrade", "9.0.1")
	m.want(0, "Would keep 9.0.0", "upgrade", "--accept", "--dry-run")
	m.want(0, "eds 9.0.0 is kept", "upgrade", "--accept")
	m.want(0, "No upgrade is on probation", "upgrade", "--accept")
	m.wantInPlace("9.0.0", "eds eds.old")
	m.want(0, "Nothing was changed", "upgrade", "--rollback", "--dry-run")
	m.want(0, "is eds 0.0.0 again", "upgrade", "--rollback")
	m.wantInPlace("0.0.0", "eds eds.old")
	m.want(1, "no old program", "upgrade", "--rollback")
}

func TestUpgrade_TakesTheNewestByDefault(t *testing.T) {
	m := newMachine(t)
	t.Chdir(t.TempDir())
	m.newest = "9.0.0"
	m.want(0, "eds-9.0.0 is eds 9.0.0 for ", "download")
	m.want(0, "Would upgrade from 0.0.0-dev to 9.0.0", "upgrade", "--dry-run")
	m.wantInPlace("0.0.0", "eds")
	m.want(0, "is now eds 9.0.0", "upgrade")
	m.wantInPlace("9.0.0", "eds eds.old eds.upgrade")
	m.want(0, "is kept", "upgrade", "--accept")
	m.newest = "0.0.0-a"
	m.want(0, "Nothing to do: the newest release is 0.0.0-a, and this program is newer.", "upgrade")
	m.newest = "0.0.0-dev"
	m.want(0, "Nothing to do: this version runs already: 0.0.0-dev.", "upgrade")
	m.wantInPlace("9.0.0", "eds eds.old")
}

func TestUpgrade_PrintsItsSteps(t *testing.T) {
	m := newMachine(t)
	_, stderr, code := m.eds("upgrade", "9.0.0")
	archive := selfupdate.ThisPlatform().Archive()
	last := -1
	for _, want := range []string{
		"download " + archive + ".sig", "download " + archive + ": ", "verify the signature", "unpack eds",
		"check the program's version",
	} {
		at := strings.Index(stderr, want)
		if at <= last {
			t.Errorf("%q is not printed in its turn", want)
		}
		last = at
	}
	if code != 0 || t.Failed() {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	if _, stderr, code := newMachine(t).eds("upgrade", "9.0.0", "--silent"); code != 0 || stderr != "" {
		t.Errorf("silent: exit code %d, %q", code, stderr)
	}
}

func TestUpgrade_IsRefusedWithItsReason(t *testing.T) {
	m := newMachine(t)
	noKey := filepath.Join(t.TempDir(), "nokey")
	m.write(noKey, "no key")
	for says, c := range map[string]struct {
		code int
		args []string
	}{
		"takes one version":                       {3, []string{"upgrade", "1.0.0", "2.0.0"}},
		"take no version":                         {3, []string{"upgrade", "1.0.0", "--accept"}},
		"--rollback: it cannot be combined":       {3, []string{"upgrade", "--rollback", "--accept"}},
		"want one like 1.2.3":                     {3, []string{"upgrade", "latest"}},
		"pass --allow-downgrade":                  {3, []string{"upgrade", "0.0.0-a"}},
		"there is no such release: version 9.0.1": {1, []string{"upgrade", "9.0.1"}},
		`but got "c"`:                             {3, []string{"download", "1.0.0", "b", "c"}},
		"want linux, darwin or windows":           {3, []string{"download", "1.0.0", "b", "--os", "plan9"}},
		`did you mean "--allow-downgrade"?`:       {3, []string{"upgrade", "--allow-downgrad"}},
	} {
		m.want(c.code, says, c.args...)
	}
	m.want(3, "/eds/releases/latest does not lead to a release: give the version", "upgrade")
	m.releasesURL = strings.TrimSuffix(m.releasesURL, "/download")
	m.want(3, "does not name the newest release: give the version, as in 1.2.3", "upgrade")
	m.want(3, "give the version, as in 1.2.3", "download")
	m.container = true
	m.want(
		1, "a container is upgraded by its image, and this is one (/.dockerenv exists): run the image of 9.0.0 instead",
		"upgrade", "9.0.0",
	)
	m.keyFile = noKey
	m.want(3, "this is not a PGP public key", "upgrade", "9.0.0")
	m.keyFile = filepath.Join(t.TempDir(), "none")
	m.want(3, "--key: ", "download", "9.0.0")
	m.releasesURL = "http://example.com"
	m.keyFile = ""
	m.want(3, "must begin with https://", "upgrade", "9.0.0")
	m.wantInPlace("0.0.0", "eds")
}

func TestUpgrade_TrustsTheBuiltInKeyByDefault(t *testing.T) {
	m := newMachine(t)
	m.keyFile = ""
	m.want(1, "trusted is C994 6E99 DD65 5505 AD5F E9D2 FECF F491 5E7B F492", "upgrade", "9.0.0")
	m.wantInPlace("0.0.0", "eds")
}

func TestDownload_SavesAVerifiedProgram(t *testing.T) {
	m := newMachine(t)
	t.Chdir(t.TempDir())
	m.container = true // where it is allowed
	m.want(0, "eds-9.0.0 is eds 9.0.0 for ", "download", "v9.0.0")
	m.want(0, "saved is eds 9.0.0 for ", "download", "9.0.0", "saved")
	for _, file := range []string{"./eds-9.0.0", "./saved"} {
		if said, err := exec.CommandContext(t.Context(), file).Output(); err != nil || string(said) != "9.0.0\n" {
			t.Errorf("%s: %q, %v", file, said, err)
		}
	}
	m.wantInPlace("0.0.0", "eds")
}

func TestPublicKey_IsShopmonkeys(t *testing.T) {
	out, _, code := eds(t, nil, "publickey")
	keys, err := selfupdate.ParseKeys([]byte(out))
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	if diff := cmp.Diff([]string{"C994 6E99 DD65 5505 AD5F E9D2 FECF F491 5E7B F492"}, keys.Fingerprints()); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(out, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n") ||
		!strings.HasSuffix(out, "\n-----END PGP PUBLIC KEY BLOCK-----\n") {
		t.Errorf("%q", out)
	}
}
