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

// DefaultReleases is the base URL of releases. The files of a release are at this URL, followed
// by "/v" and the version.
const DefaultReleases = "https://github.com/shopmonkeyus/eds/releases/download"

const signatureSuffix = ".sig"

// Platform is an operating system and architecture, in Go's names.
type Platform struct{ OS, Arch string }

// ThisPlatform returns the platform that this program was built for.
func ThisPlatform() Platform { return Platform{runtime.GOOS, runtime.GOARCH} }

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Check returns an error if there are no releases for the platform.
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

// Archive returns the file name of a release's archive. The file name contains the capitalized name
// of the operating system, and the architecture as uname -m prints it.
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

// page returns the URL of the web page that lists the releases, or "" if it is unknown.
func (u *Updater) page() string {
	if page, ok := strings.CutSuffix(u.o.Releases, "/download"); ok {
		return page
	}
	return ""
}

// Newest returns the version of the newest release, according to the releases page. This
// information is not signed. An attacker who controls the page could name a release that is not
// the newest. But Plan refuses releases that are older than the running version.
func (u *Updater) Newest(ctx context.Context) (string, error) {
	page := u.page()
	if page == "" {
		return "", fmt.Errorf("%s does not name the newest release: %w", u.o.Releases, ErrNoNewest)
	}
	u.o.Observe(Progress{Doing: "find the newest release"})
	to, err := u.fetch.location(ctx, page+"/latest")
	if err != nil {
		return "", err
	}
	// The target of the redirect looks like .../releases/tag/v1.2.3.
	_, tag, _ := strings.Cut(to, "/releases/tag/")
	version, err := ParseVersion(tag)
	if err != nil {
		return "", fmt.Errorf("%s/latest does not lead to a release: %w", page, ErrNoNewest)
	}
	return version, nil
}

// releasesURL checks the base URL of releases, and returns it without a final slash. It requires
// https, except for a server on this machine. Downloads are verified in any case, but requests must
// not be visible on the network.
func releasesURL(raw string) (string, error) {
	raw = strings.TrimRight(strings.TrimSpace(raw), "/")
	if raw == "" {
		return DefaultReleases, nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		return "", errors.New("the url of the releases is invalid; want one like " + DefaultReleases)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the url of the releases must have no user name, query or fragment")
	case !private(u):
		return "", errors.New("the url of the releases must begin with https://, unless it is on this machine")
	}
	return raw, nil
}

// private reports whether requests to u cannot be read on the network.
func private(u *url.URL) bool {
	return u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ParseVersion reads a version like 1.2.3, v1.2.3 or 1.2.3-rc.1, and returns it without the
// leading v.
func ParseVersion(text string) (string, error) {
	v := "v" + strings.TrimPrefix(strings.TrimSpace(text), "v")
	// Releases use neither short forms like 1.2 nor build metadata, which would leave the order
	// of versions undefined.
	if len(v) > 100 || !semver.IsValid(v) || semver.Canonical(v) != v {
		return "", fmt.Errorf("%.60q is not a version; want one like 1.2.3 or 1.2.3-rc.1", text)
	}
	return v[1:], nil
}

// compare returns an error if the version is not newer than the running one, unless downgrades
// are allowed. It also reports whether the version is older than the running one.
func (u *Updater) compare(version string) (older bool, err error) {
	running := "v" + strings.TrimPrefix(u.o.Version, "v")
	if !semver.IsValid(running) {
		if u.o.AllowDowngrade {
			return false, nil
		}
		return false, fmt.Errorf("%w: this is %q; to replace it with %s, allow a downgrade", ErrIncomparable, u.o.Version, version)
	}
	switch order := semver.Compare("v"+version, running); {
	case u.o.AllowDowngrade:
		return order < 0, nil
	case order == 0:
		return false, fmt.Errorf("%w: %s", ErrCurrent, version)
	case order < 0:
		return true, fmt.Errorf("%w: %s is older than %s; allow a downgrade if you want that", ErrDowngrade, version, u.o.Version)
	}
	return false, nil
}
