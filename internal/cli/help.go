package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// newDriverHelp is "eds server help": the destinations, or all about one.
func newDriverHelp(Process) *cobra.Command {
	return &cobra.Command{
		Use:     "help [driver]",
		Short:   "Describe the destinations, or one of them",
		Example: "  eds server help\n  eds server help postgres",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, d := range drivers.All() {
				names = append(names, cobra.CompletionWithDesc(d.Name, d.Title))
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return listDrivers(out(cmd))
			case 1:
				d, err := drivers.Find(args[0])
				if err != nil {
					return usageError{err}
				}
				return describeDriver(out(cmd), d)
			}
			return usagef("%s takes the name of one driver", cmd.CommandPath())
		},
	}
}

func listDrivers(w io.Writer) error {
	fmt.Fprint(w, "Destinations, and what their URLs look like:\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, d := range drivers.All() {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", d.Name, d.Summary, d.Example)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, "\nAll about one: eds server help <name>\n")
	return err
}

func describeDriver(w io.Writer, d sink.Driver) error {
	fmt.Fprintf(w, "%s\n%s\n\n%s\n\nURL\n  %s\n", d.Title, strings.Repeat("=", len([]rune(d.Title))), d.Summary, d.Example)
	if len(d.Schemes) > 1 {
		fmt.Fprintf(w, "  also: %s://\n", strings.Join(d.Schemes[1:], "://, "))
	}
	fmt.Fprintln(w, "  ${NAME} in it is taken from the environment, ${file:/path} from a file.")
	if len(d.Options) > 0 {
		fmt.Fprint(w, "\nOptions, as ?name=value&name=value\n")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, o := range d.Options {
			description := o.Description
			if o.Default != "" {
				description += " (default " + o.Default + ")"
			}
			fmt.Fprintf(t, "  %s\t%s\n", o.Name, description)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(d.Help))
	return err
}
