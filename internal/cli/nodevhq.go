//go:build use_custom_driver && !use_devhq

package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
)

func newDemo(Process) *cobra.Command { return withoutDevHQ("demo") }

func newHQ(Process, *config.CommonFlags) *cobra.Command { return withoutDevHQ("hq") }

// withoutDevHQ returns a command that accepts any arguments and fails, because this build has
// no HQ for development.
func withoutDevHQ(name string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Short:              "Not in this build; the build tag use_devhq adds it",
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("this build has no HQ for development: build eds with the tag use_devhq, or without use_custom_driver")
		},
	}
}
