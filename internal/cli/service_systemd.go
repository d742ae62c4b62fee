package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// systemd is the service manager of Linux.
type systemd struct{ host }

func (m systemd) unit(name string) string {
	return filepath.Join(m.root, "/etc/systemd/system", name+".service")
}

func (systemd) check(s service) error {
	for _, path := range []string{s.DataDir, s.Program} {
		for _, home := range []string{"/home/", "/root/", "/run/user/"} {
			if strings.HasPrefix(path, home) {
				return fmt.Errorf(
					"the service cannot see home directories, so %s cannot be there; put the program in "+
						"/usr/local/bin or /opt, and the data in /var/lib",
					path,
				)
			}
		}
	}
	return nil
}

func (m systemd) install(ctx context.Context, s service) error {
	if err := m.makeDataDir(s); err != nil {
		return fmt.Errorf(
			"%w; if the user does not exist, create it: useradd --system --user-group --home-dir %s --shell /usr/sbin/nologin %s",
			err, s.DataDir, s.User,
		)
	}
	if err := m.define(m.unit(s.Name), systemdUnit(s)); err != nil {
		return err
	}
	_, err := m.run(ctx, "systemctl", "daemon-reload")
	if err == nil {
		_, err = m.run(ctx, "systemctl", "enable", s.Name+".service")
	}
	if err != nil {
		return errors.Join(err, os.Remove(m.unit(s.Name)))
	}
	return nil
}

func (m systemd) uninstall(ctx context.Context, name string) error {
	if _, err := os.Stat(m.unit(name)); err != nil {
		return missing(err)
	}
	if _, err := m.run(ctx, "systemctl", "disable", "--now", name+".service"); err != nil {
		return err
	}
	if err := os.Remove(m.unit(name)); err != nil {
		return err
	}
	_, err := m.run(ctx, "systemctl", "daemon-reload")
	return err
}

// missing returns errNotInstalled if err means that a file does not exist, and err otherwise.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errNotInstalled
	}
	return err
}

func (m systemd) start(ctx context.Context, name string) error {
	_, err := m.run(ctx, "systemctl", "start", name+".service")
	return err
}

func (m systemd) stop(ctx context.Context, name string) error {
	_, err := m.run(ctx, "systemctl", "stop", name+".service")
	return err
}

func (m systemd) status(ctx context.Context, name string) (string, bool, error) {
	output, err := m.run(ctx, "systemctl", "show", "--property=LoadState,ActiveState,SubState", name+".service")
	if err != nil {
		return "", false, err
	}
	properties := make(map[string]string)
	for line := range strings.Lines(output) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		properties[key] = value
	}
	if properties["LoadState"] == "not-found" {
		return "", false, errNotInstalled
	}
	active := properties["ActiveState"]
	return fmt.Sprintf("%s (%s)", active, properties["SubState"]), active == "active", nil
}

// systemdUnit returns the text of the unit file for a service.
func systemdUnit(s service) string {
	dirs := "ReadWritePaths=" + systemdWord(s.DataDir)
	if base := filepath.Base(s.DataDir); s.DataDir == "/var/lib/"+base {
		dirs = "StateDirectory=" + systemdWord(base) + "\nStateDirectoryMode=0700"
	}
	if s.Upgradable {
		dirs += "\nReadWritePaths=" + systemdWord(filepath.Dir(s.Program))
	}
	command := systemdWord(s.Program) + " server --data-dir " + systemdWord(s.DataDir)
	for _, a := range s.Args {
		command += " " + systemdWord(a)
	}
	return strings.NewReplacer(
		"{user}", s.User, "{name}", s.Name, "{dir}", strings.ReplaceAll(s.DataDir, "%", "%%"),
		"{dirs}", dirs, "{command}", command,
	).Replace(unitText)
}

// systemdWord escapes one word of a command line or a list in a unit file. In such words
// systemd expands variables and specifiers, and interprets quotes.
func systemdWord(text string) string {
	word := strings.NewReplacer(`%`, `%%`, `$`, `$$`, `\`, `\\`, `"`, `\"`).Replace(text)
	if text == "" || strings.ContainsAny(text, " '\"\\;") {
		return `"` + word + `"`
	}
	return word
}

// unitText is the template of unit files, which the deb and rpm packages also use.
const unitText = `[Unit]
Description=eds, which keeps a database equal to your Shopmonkey data
Documentation=man:eds-server(1) https://github.com/shopmonkeyus/eds
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
WorkingDirectory={dir}
{dirs}
EnvironmentFile=-/etc/eds/{name}.env
ExecStart={command} $EDS_ARGS

# The parent restarts a worker that crashes. If the parent gives up, a later start may
# work, but after exit code 3 the operator has to fix something first.
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=3
OOMPolicy=continue
# The parent passes the signal on, and waits until all received changes are applied.
KillMode=mixed
TimeoutStopSec=180
LimitNOFILE=65536

# The service can write to its state directory and to a private /tmp, and has no rights
# beyond those of its user. For files elsewhere: ReadWritePaths= in "systemctl edit {name}".
UMask=0077
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`
