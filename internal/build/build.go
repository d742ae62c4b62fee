// Package build knows which version of the program this is.
package build

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// unreleased is the version of a build that nobody has given one.
const unreleased = "0.0.0-dev"

// Info says what was built, from what, with what.
type Info struct {
	Version   string // without a leading v
	Commit    string // of the sources; "" where unknown, ending in "-dirty" where they had been changed
	GoVersion string
}

// Read returns what the linker stamped into the binary, else what the Go tool
// recorded there. The version is the one that main was given by -ldflags, or "".
func Read(version string) Info {
	recorded, ok := debug.ReadBuildInfo()
	if !ok {
		recorded = new(debug.BuildInfo)
	}
	return read(version, recorded)
}

func read(version string, recorded *debug.BuildInfo) Info {
	info := Info{Version: strings.TrimPrefix(version, "v"), GoVersion: runtime.Version()}
	if info.Version == "" && recorded.Main.Version != "(devel)" {
		info.Version = strings.TrimPrefix(recorded.Main.Version, "v")
	}
	if info.Version == "" {
		info.Version = unreleased
	}
	dirty := false
	for _, s := range recorded.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty && info.Commit != "" {
		info.Commit += "-dirty"
	}
	return info
}
