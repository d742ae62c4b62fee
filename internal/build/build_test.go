package build

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead_PrefersTheStampedVersion(t *testing.T) {
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	for name, c := range map[string]struct {
		stamped  string
		recorded debug.BuildInfo
		want     Info
	}{
		"nothing known": {"", debug.BuildInfo{}, Info{Version: "0.0.0-dev"}},
		"go run":        {"", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, Info{Version: "0.0.0-dev"}},
		"go install":    {"", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, Info{Version: "1.2.3"}},
		"release":       {"v2.0.0", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, Info{Version: "2.0.0"}},
		"changed sources": {"2.0.0", debug.BuildInfo{Settings: []debug.BuildSetting{
			setting("vcs.modified", "true"),
			setting("vcs.revision", "abc"),
		}}, Info{Version: "2.0.0", Commit: "abc-dirty"}},
		"clean sources": {"2.0.0", debug.BuildInfo{Settings: []debug.BuildSetting{
			setting("vcs.revision", "abc"),
			setting("vcs.modified", "false"),
		}}, Info{Version: "2.0.0", Commit: "abc"}},
	} {
		c.want.GoVersion = runtime.Version()
		if diff := cmp.Diff(c.want, read(c.stamped, &c.recorded)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
