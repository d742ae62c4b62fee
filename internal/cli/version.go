package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/build"
)

// version is stamped by the linker.
var version string

func newVersion(Process) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), build.Read(version).Version)
			return err
		},
	}
}
