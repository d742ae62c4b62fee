package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"strings"

	"golang.org/x/mod/semver"
)

// DefaultReleases is where releases are, each below its version.
const DefaultReleases = "https://github.com/shopmonkeyus/eds/releases/download"

const signatureSuffix = ".sig"

// Platform is what a program is built for, as Go names it.
type Platform struct{ OS, Arch string }

// ThisPlatform returns the platform that this program was built for.
func ThisPlatform() Platform { return Platform{runtime.GOOS, runtime.GOARCH} }

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Check returns an error where there are no releases for the platform.
func (p Platform) Check() error {
	switch p.OS {
	case "linux", "darwin", "windows":
	default:
		return fmt.Errorf("there are no releases for %q; want linux, darwin or windows", p.OS)
	}
	if p.Arch != "amd64" && p.Arch != "arm64" {
		return fmt.Errorf("there are no releases for %q; want amd64 or arm64", p.Arch)
	}
	return nil
}

// Program returns the name of the program's file in an archive.
func (p Platform) Program() string {
	if p.OS == "windows" {
		return "eds.exe"
	}
	return "eds"
}

// Archive returns the name of a release's archive: the system capitalised, the
// machine as uname -m names it.
func (p Platform) Archive() string {
	arch, suffix := p.Arch, ".tar.gz"
	if arch == "amd64" {
		arch = "x86_64"
	}
	if p.OS == "windows" {
		suffix = ".zip"
	}
	return "eds_" + strings.ToUpper(p.OS[:1]) + p.OS[1:] + "_" + arch + suffix
}

func (u *Updater) archiveURL(version string, p Platform) string {
	return u.o.Releases + "/v" + version + "/" + p.Archive()
}

// page returns where people find the releases, or "".
func (u *Updater) page() string {
	if page, ok := strings.CutSuffix(u.o.Releases, "/download"); ok {
		return page
	}
	return ""
}

// Newest returns the version of the newest release, as the page that lists them
// says. Nothing signs that: whoever could answer in its place might name an older
// release than the newest, but none that is older than the one that runs.
func (u *Updater) Newest(ctx context.Context) (string, error) {
	page := u.page()
	if page == "" {
		return "", fmt.Errorf("%s does not say which release is the newest: %w", u.o.Releases, ErrNoNewest)
	}
	u.o.Observe(Progress{Doing: "ask which release is the newest"})
	to, err := u.fetch.location(ctx, page+"/latest")
	if err != nil {
		return "", err
	}
	// As in .../releases/tag/v1.2.3
	_, tag, _ := strings.Cut(to, "/releases/tag/")
	version, err := ParseVersion(tag)
	if err != nil {
		return "", fmt.Errorf("%s/latest leads to no release: %w", page, ErrNoNewest)
	}
	return version, nil
}

// releasesURL checks where releases are to be had. What comes from there is
// verified, but what is asked for is nobody's business.
func releasesURL(raw string) (string, error) {
	raw = strings.TrimRight(strings.TrimSpace(raw), "/")
	if raw == "" {
		return DefaultReleases, nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		return "", errors.New("the url of the releases is none; want one like " + DefaultReleases)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the url of the releases must have no user name, query or fragment")
	case !private(u):
		return "", errors.New("the url of the releases must begin with https://, unless it is on this machine")
	}
	return raw, nil
}

// private reports whether what is asked of u is seen by nobody on the way.
func private(u *url.URL) bool {
	return u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ParseVersion reads a version like 1.2.3, v1.2.3 or 1.2.3-rc.1, and returns it
// without the v.
func ParseVersion(text string) (string, error) {
	v := "v" + strings.TrimPrefix(strings.TrimSpace(text), "v")
	// Short forms, and build metadata, which does not order, are no names of releases.
	if len(v) > 100 || !semver.IsValid(v) || semver.Canonical(v) != v {
		return "", fmt.Errorf("%.60q is not a version; want one like 1.2.3 or 1.2.3-rc.1", text)
	}
	return v[1:], nil
}

// compare checks that a version is newer than the one that runs, and reports
// whether it is older where that is allowed.
func (u *Updater) compare(version string) (older bool, err error) {
	running := "v" + strings.TrimPrefix(u.o.Version, "v")
	if !semver.IsValid(running) {
		if u.o.AllowDowngrade {
			return false, nil
		}
		return false, fmt.Errorf("%w: this is %q; allow a downgrade to replace it with %s all the same", ErrIncomparable, u.o.Version, version)
	}
	switch order := semver.Compare("v"+version, running); {
	case u.o.AllowDowngrade:
		return order < 0, nil
	case order == 0:
		return false, fmt.Errorf("%w: %s", ErrCurrent, version)
	case order < 0:
		return true, fmt.Errorf("%w: %s is older than %s; allow a downgrade if that is meant", ErrDowngrade, version, u.o.Version)
	}
	return false, nil
}
