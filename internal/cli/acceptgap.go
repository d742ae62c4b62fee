package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
)

func newAcceptGap(p Process, common *config.CommonFlags) *cobra.Command {
	table := ""
	cmd := &cobra.Command{
		Use:   "accept-gap ID",
		Short: "Accept that tables miss some changes",
		Long: `Accepts a gap, changes that the stream no longer has, for the server that runs with
the data directory. Its tables stay incomplete in eds status, but no longer raise
alerts. To make a table complete instead, use: eds import --only TABLE`,
		Example: "  eds status                          # shows the ids of gaps\n  eds accept-gap 8f5b3f\n  eds " +
			"accept-gap 8f5b3f --table order",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("%s needs one argument, the id of a gap; see: eds status", cmd.CommandPath())
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&table, "table", "", "only this `table` of the gap (default: all of its tables)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("table") && table == "" {
			return usagef("--table: its value is empty; leave the flag out to accept all tables of the gap")
		}
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		tables, err := control.NewClient(s.common.DataDir).AcceptGap(cmd.Context(), args[0], table)
		if err != nil {
			return noAnswer(s.common.DataDir, err)
		}
		for _, name := range tables {
			fmt.Fprintf(out(cmd), "%s: incomplete, accepted\n", name)
		}
		return nil
	}
	return cmd
}
