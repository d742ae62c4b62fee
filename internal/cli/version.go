package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/drivers"
)

// version is the program's version. The linker sets it.
var version string

// versionReport is the output of "eds version --json".
type versionReport struct {
	Version   string   `json:"version"`
	Commit    string   `json:"commit,omitempty"` // ends in "-dirty" if the sources were modified
	GoVersion string   `json:"goVersion"`
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
	Drivers   []string `json:"drivers"`
}

func newVersion(Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    "Prints the version, or with --json all details of this build.",
		Example: "  eds version\n  eds version --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := build.Read(version)
			if !asJSON {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), info.Version)
				return err
			}
			r := versionReport{
				Version: info.Version, Commit: info.Commit, GoVersion: info.GoVersion, OS: runtime.GOOS,
				Arch: runtime.GOARCH,
			}
			for _, d := range drivers.All() {
				r.Drivers = append(r.Drivers, d.Name)
			}
			return printJSON(out(cmd), r)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all details of this build as JSON")
	return cmd
}
