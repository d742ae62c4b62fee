package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/selfupdate"
)

func newPublicKey(Process) *cobra.Command {
	return &cobra.Command{
		Use:   "publickey",
		Short: "Print the PGP public key that releases are signed by",
		Long: `Prints the key that is built into this program. eds download and eds upgrade check
releases with it; with it you can check them by gpg, too.`,
		Example: `  eds publickey | gpg --import
  gpg --verify eds_Linux_x86_64.tar.gz.sig eds_Linux_x86_64.tar.gz`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := selfupdate.PublicKey()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(out(cmd), strings.TrimSpace(key))
			return err
		},
	}
}
