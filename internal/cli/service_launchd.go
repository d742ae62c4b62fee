package cli

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// launchd is the service manager of macOS.
type launchd struct{ host }

func (launchd) label(name string) string {
	if name == "eds" {
		return "com.shopmonkey.eds"
	}
	return "com.shopmonkey.eds." + name
}

func (m launchd) plist(name string) string {
	return filepath.Join(m.root, "/Library/LaunchDaemons", m.label(name)+".plist")
}

func (launchd) check(s service) error {
	if s.User == "root" {
		return errors.New("--user: want a user other than root")
	}
	return nil
}

func (m launchd) install(_ context.Context, s service) error {
	if err := m.makeDataDir(s); err != nil {
		return err
	}
	return m.define(m.plist(s.Name), m.definition(s))
}

func (m launchd) uninstall(ctx context.Context, name string) error {
	if _, err := os.Stat(m.plist(name)); err != nil {
		return missing(err)
	}
	if _, runs, err := m.status(ctx, name); err != nil || runs {
		if err = errors.Join(err, m.stop(ctx, name)); err != nil {
			return err
		}
	}
	return os.Remove(m.plist(name))
}

// start loads the service into launchd, which then runs it.
func (m launchd) start(ctx context.Context, name string) error {
	if _, err := os.Stat(m.plist(name)); err != nil {
		return missing(err)
	}
	_, err := m.run(ctx, "launchctl", "bootstrap", "system", m.plist(name))
	return err
}

// stop unloads the service until the machine is started again. If the service were only
// stopped, launchd would restart it at once.
func (m launchd) stop(ctx context.Context, name string) error {
	_, err := m.run(ctx, "launchctl", "bootout", "system/"+m.label(name))
	return err
}

func (m launchd) status(ctx context.Context, name string) (string, bool, error) {
	if _, err := os.Stat(m.plist(name)); err != nil {
		return "", false, missing(err)
	}
	output, err := m.run(ctx, "launchctl", "print", "system/"+m.label(name))
	if err != nil {
		return "stopped", false, nil // launchd knows only loaded services
	}
	for line := range strings.Lines(output) {
		if state, ok := strings.CutPrefix(strings.TrimSpace(line), "state = "); ok {
			return state, state == "running", nil
		}
	}
	return "loaded", false, nil
}

// definition returns the property list of a service. After a failure, launchd restarts the service,
// but not within one minute of the last start. It does not restart the service after a clean
// shutdown.
func (m launchd) definition(s service) string {
	var b strings.Builder
	text := func(value string) string {
		var escaped strings.Builder
		_ = xml.EscapeText(&escaped, []byte(value)) // writing to a strings.Builder cannot fail
		return "<string>" + escaped.String() + "</string>"
	}
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
`)
	key := func(name, value string) { fmt.Fprintf(&b, "\t<key>%s</key>\n\t%s\n", name, value) }
	key("Label", text(m.label(s.Name)))
	arguments := "<array>\n"
	// The log file has all records. Standard error gets only errors, because launchd does not
	// rotate its file.
	for _, a := range append([]string{s.Program, "server", "--data-dir", s.DataDir, "--silent"}, s.Args...) {
		arguments += "\t\t" + text(a) + "\n"
	}
	key("ProgramArguments", arguments+"\t</array>")
	key("UserName", text(s.User))
	key("WorkingDirectory", text(s.DataDir))
	key("StandardErrorPath", text(filepath.Join(s.DataDir, "service.log")))
	key("RunAtLoad", "<true/>")
	key("KeepAlive", "<dict>\n\t\t<key>SuccessfulExit</key>\n\t\t<false/>\n\t</dict>")
	key("ThrottleInterval", "<integer>60</integer>")
	key("ExitTimeOut", "<integer>180</integer>")
	key("Umask", "<integer>63</integer>") // 0077
	b.WriteString("</dict>\n</plist>\n")
	return b.String()
}
