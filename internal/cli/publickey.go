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
		Short: "Print the PGP public key of releases",
		Long: `Prints the public key that is built into this program. eds download and eds upgrade
verify releases with it, and so can you with gpg.`,
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
