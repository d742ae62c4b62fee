// Package build identifies the version of the program.
package build

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// unreleased is the version of a build without one.
const unreleased = "0.0.0-dev"

// Info describes the build.
type Info struct {
	Version   string // without a leading v
	Commit    string // of the sources; "" if unknown, with the suffix "-dirty" if they were modified
	GoVersion string
}

// Read returns the linker's stamp, else the build information of the Go tool. version is main's
// version, set with -ldflags, or "".
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
