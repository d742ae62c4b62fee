package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/doctor"
)

func newDoctor(p Process, common *config.CommonFlags) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that eds needs",
		Long: `Checks the data directory, the disk, the configuration, the key, HQ, the schema,
the clock, NATS, and the destination, in which it creates, writes and drops a table
of its own. It prints one line per check, with a remedy for each problem. The flags
are those of eds server. The exit code is 0 if everything works, else 1.`,
		Example: "  eds doctor\n  eds doctor --url 'postgres://user:${PASSWORD}@host:5432/database' --json",
		Args:    noArgs,
	}
	flags := bindServer(common, cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, flags.common, "")
		var unread error
		if err != nil {
			// A faulty configuration file is one of the findings.
			if s, unread = beginWithoutFile(p, flags.common); unread != nil {
				return err
			}
			unread = err
		}
		defer s.close()
		o, err := flags.resolve(p, s)
		if err != nil {
			return err
		}
		running, notRunning := control.NewClient(s.common.DataDir).Status(cmd.Context())
		var checks []doctor.Check
		doctor.Run(cmd.Context(), doctor.Config{
			Options: o, Build: s.build, Lookup: p.Lookup, Logger: s.logger,
			Running: notRunning == nil, Warnings: running.Health.Warnings, Problem: unread,
		}, func(c doctor.Check) {
			checks = append(checks, c)
			if !asJSON {
				printCheck(out(cmd), c)
			}
		})
		if asJSON {
			if err := printJSON(out(cmd), checks); err != nil {
				return err
			}
		}
		for _, c := range checks {
			if c.Result == doctor.Failed {
				return printedError{errors.New("not everything works")}
			}
		}
		return nil
	}
	return cmd
}

// beginWithoutFile is like begin, but ignores the configuration file.
func beginWithoutFile(p Process, flags *config.CommonFlags) (*setup, error) {
	return beginWith(p, flags, "", func(string) (config.File, []string, error) { return config.File{}, nil, nil })
}

func printCheck(w io.Writer, c doctor.Check) {
	fmt.Fprintf(w, "%-8s  %-15s %s\n", c.Result, c.Name, c.Found)
	if c.Do != "" {
		fmt.Fprintf(w, "%-8s  %-15s -> %s\n", "", "", c.Do)
	}
}
