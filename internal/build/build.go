// Package build identifies the version of the program.
package build

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// unreleased is the version of a build without version information.
const unreleased = "0.0.0-dev"

// Info describes the build of the program.
type Info struct {
	Version   string // without a leading v
	Commit    string // commit of the sources, or "" if unknown; the suffix "-dirty" marks modified sources
	GoVersion string
}

// Read returns the build information. The argument is the version that the linker set with
// -ldflags, or "" if it set none. If the argument is "", Read uses the version that the Go tool
// recorded in the program.
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
