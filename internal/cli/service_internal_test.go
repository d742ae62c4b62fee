package cli

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// machine is a host of nothing but a directory, which notes what tools are called.
type machine struct {
	host
	calls []string
	says  map[string]string // by the call
	fails map[string]bool   // by the call
}

func newMachine(t *testing.T, system string) *machine {
	t.Helper()
	m := &machine{says: make(map[string]string), fails: make(map[string]bool)}
	m.host = host{system: system, root: t.TempDir()}
	m.host.run = func(_ context.Context, program string, args ...string) (string, error) {
		call := strings.ReplaceAll(program+" "+strings.Join(args, " "), m.root, "")
		m.calls = append(m.calls, call)
		if m.fails[call] {
			return "", errors.New("it fails")
		}
		return m.says[call], nil
	}
	m.own = func(path, name string) error {
		if name == "nobody-of-that-name" {
			return user.UnknownUserError(name)
		}
		m.calls = append(m.calls, "own "+strings.TrimPrefix(path, m.root)+" "+name)
		return nil
	}
	for _, dir := range []string{"/run/systemd/system", "/etc/systemd/system", "/Library/LaunchDaemons"} {
		if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// eds runs eds service with arguments on the machine and returns what it prints,
// and the error that decides the exit code.
func (m *machine) eds(t *testing.T, args ...string) (string, error) {
	t.Helper()
	m.calls = nil
	p := Process{Executable: "/opt/eds/eds", Lookup: func(name string) (string, bool) {
		return map[string]string{"SUDO_USER": "alice"}[name], name == "SUDO_USER"
	}}
	cmd := serviceCommand(p, m.host)
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func (m *machine) read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mustDo(t *testing.T, m *machine, want []string, args ...string) string {
	t.Helper()
	out, err := m.eds(t, args...)
	if err != nil {
		t.Fatalf("eds service %q: %v", args, err)
	}
	if diff := cmp.Diff(want, m.calls); diff != "" {
		t.Errorf("eds service %q calls (-want +got)\n%s", args, diff)
	}
	return out
}

func TestService_HasTheUnitOfThePackages(t *testing.T) {
	made := systemdUnit(service{Name: "eds", Program: "/usr/bin/eds", DataDir: "/var/lib/eds", User: "eds"})
	kept, err := os.ReadFile("../../packaging/eds.service")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, string(kept)); diff != "" {
		t.Errorf("packaging/eds.service (-want +kept)\n%s", diff)
	}
}

func TestService_RunsUnderSystemd(t *testing.T) {
	m := newMachine(t, "linux")
	out := mustDo(
		t, m, []string{"own /var/lib/shop eds", "systemctl daemon-reload", "systemctl enable shop.service"}, "install",
		"--name", "shop", "--self-upgrade", "--", "--port", "9090", "--url", "postgres://eds:${PASSWORD}@db/a%20b",
		"--log-label", `it's "1"`,
	)
	if !strings.Contains(out, "eds service start --name shop") {
		t.Errorf("it does not say how to go on: %s", out)
	}
	golden.Compare(t, "service/shop.service", m.read(t, "/etc/systemd/system/shop.service"))
	info, err := os.Stat(filepath.Join(m.root, "/var/lib/shop"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory: %v, %v", info, err)
	}

	mustDo(t, m, []string{"systemctl start shop.service"}, "start", "--name", "shop")
	show := "systemctl show --property=LoadState,ActiveState,SubState shop.service"
	m.says[show] = "LoadState=loaded\nActiveState=active\nSubState=running"
	if out := mustDo(t, m, []string{show}, "status", "--name", "shop"); out != "active (running)\n" {
		t.Errorf("status: %q", out)
	}
	mustDo(t, m, []string{"systemctl stop shop.service"}, "stop", "--name", "shop")
	m.says[show] = "LoadState=loaded\nActiveState=inactive\nSubState=dead"
	if out, err := m.eds(t, "status", "--name", "shop"); out != "inactive (dead)\n" || exitCode(err) != exitError {
		t.Errorf("status of a service that is stopped: %q, %v", out, err)
	}
	mustDo(t, m, []string{"systemctl disable --now shop.service", "systemctl daemon-reload"}, "uninstall", "--name", "shop")
	if _, err := os.Stat(filepath.Join(m.root, "/etc/systemd/system/shop.service")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unit is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.root, "/var/lib/shop")); err != nil {
		t.Errorf("the data are gone: %v", err)
	}
	m.says[show] = "LoadState=not-found\nActiveState=inactive\nSubState=dead"
	for _, args := range [][]string{{"uninstall", "--name", "shop"}, {"status", "--name", "shop"}} {
		if _, err := m.eds(t, args...); !errors.Is(err, errNotInstalled) {
			t.Errorf("eds service %q of none: %v", args, err)
		}
	}
}

func TestService_RunsUnderLaunchd(t *testing.T) {
	m := newMachine(t, "darwin")
	mustDo(t, m, []string{"own /usr/local/var/eds alice"}, "install", "--", "--log-label", "<1>")
	const plist, label = "/Library/LaunchDaemons/com.shopmonkey.eds.plist", "system/com.shopmonkey.eds"
	golden.Compare(t, "service/com.shopmonkey.eds.plist", m.read(t, plist))

	mustDo(t, m, []string{"launchctl bootstrap system " + plist}, "start")
	m.says["launchctl print "+label] = label + " = {\n\tactive count = 1\n\tstate = running\n}"
	if out := mustDo(t, m, []string{"launchctl print " + label}, "status"); out != "running\n" {
		t.Errorf("status: %q", out)
	}
	mustDo(t, m, []string{"launchctl print " + label, "launchctl bootout " + label}, "uninstall")
	if _, err := m.eds(t, "start"); !errors.Is(err, errNotInstalled) {
		t.Errorf("start of none: %v", err)
	}

	mustDo(t, m, nil, "install", "--user", "bob")
	m.fails["launchctl print "+label] = true
	if out, err := m.eds(t, "status"); out != "stopped\n" || exitCode(err) != exitError {
		t.Errorf("status of a service that is not loaded: %q, %v", out, err)
	}
}

func TestService_RefusesDefinitionsThatCannotRun(t *testing.T) {
	for name, c := range map[string]struct {
		system string
		args   []string
		want   string
	}{
		"a flag that the server has not":  {"linux", []string{"--", "--prot", "1"}, "unknown flag: --prot"},
		"a flag of the server before --":  {"linux", []string{"--port", "1"}, "unknown flag: --port"},
		"an argument before --":           {"linux", []string{"server"}, "after --"},
		"the data directory behind --":    {"linux", []string{"--", "--data-dir", "/var/lib/eds"}, "before --"},
		"a key that all could read":       {"linux", []string{"--", "--api-key", "geheim"}, "eds enroll"},
		"a password that all could read":  {"linux", []string{"--", "--url", "postgres://eds:geheim@db/eds"}, "${PASSWORD}"},
		"a relative data directory":       {"linux", []string{"--data-dir", "data"}, "absolute"},
		"data that the service can't see": {"linux", []string{"--data-dir", "/home/alice/eds"}, "/var/lib"},
		"a line break":                    {"linux", []string{"--", "--log-label", "a\nUser=root"}, "line break"},
		"a name that is none":             {"linux", []string{"--name", "../eds"}, "--name"},
		"root":                            {"darwin", []string{"--user", "root"}, "--user"},
	} {
		m := newMachine(t, c.system)
		_, err := m.eds(t, append([]string{"install"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
		if len(m.calls) > 0 {
			t.Errorf("%s: something is done all the same: %q", name, m.calls)
		}
	}
	m := newMachine(t, "plan9")
	if _, err := m.eds(t, "install"); err == nil || !strings.Contains(err.Error(), "plan9") {
		t.Errorf("a system without a manager: %v", err)
	}
	m = newMachine(t, "linux")
	if err := os.Remove(filepath.Join(m.root, "/run/systemd/system")); err != nil {
		t.Fatal(err)
	}
	for _, do := range []string{"install", "status", "start", "uninstall"} {
		if _, err := m.eds(t, do); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "does not run systemd") ||
			len(m.calls) > 0 {
			t.Errorf("%s on a Linux without systemd: %v, calls %q", do, err, m.calls)
		}
	}
}

func TestService_LeavesNothingAfterAFailedInstallation(t *testing.T) {
	const unit = "/etc/systemd/system/eds.service"
	m := newMachine(t, "linux")
	if _, err := m.eds(t, "install", "--user", "nobody-of-that-name"); err == nil || !strings.Contains(err.Error(), "useradd") {
		t.Errorf("a user who does not exist: %v", err)
	}
	m.fails["systemctl enable eds.service"] = true
	if _, err := m.eds(t, "install"); err == nil {
		t.Error("systemctl fails, and the installation does not")
	}
	if _, err := os.Stat(filepath.Join(m.root, unit)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unit: %v", err)
	}
	m.fails = nil
	mustDo(t, m, []string{"systemctl daemon-reload", "systemctl enable eds.service"}, "install")
	before := m.read(t, unit)
	if _, err := m.eds(t, "install", "--", "--port", "1"); err == nil || !strings.Contains(err.Error(), "uninstall") {
		t.Errorf("a second installation: %v", err)
	}
	if m.read(t, unit) != before {
		t.Error("the second installation has changed the first")
	}
}

func TestService_RunsItselfOnWindowsOnly(t *testing.T) {
	m := newMachine(t, "linux")
	m.service = thisHost().service
	if _, err := m.eds(t, "run", "--", "--port", "1"); exitCode(err) != exitUsage {
		t.Errorf("eds service run: %v", err)
	}
}
