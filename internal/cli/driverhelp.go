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

// newDriverHelp returns the command "eds server help", which describes one destination or lists
// all destinations.
func newDriverHelp(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "help [driver]",
		Short:   "Describe the destinations, or one of them",
		Example: "  eds server help\n  eds server help postgres\n  eds server help --json",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, d := range drivers.All() {
				names = append(names, cobra.CompletionWithDesc(d.Name, d.Title))
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes the name of one driver", cmd.CommandPath())
			}
			h := driverHelp{w: out(cmd), bold: p.bold()}
			if len(args) == 0 {
				if asJSON {
					return h.json(drivers.All())
				}
				return h.list()
			}
			d, err := drivers.Find(args[0])
			if err != nil {
				return usageError{err}
			}
			if asJSON {
				return h.json([]sink.Driver{d})
			}
			return h.describe(d)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, an array of the destinations")
	return cmd
}

// driverHelp writes descriptions of destinations.
type driverHelp struct {
	w    io.Writer
	bold bool // print headings in bold
}

func (h driverHelp) heading(text string) {
	if h.bold {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Fprintln(h.w, text)
}

func (h driverHelp) list() error {
	h.heading("Destinations and their URLs:")
	fmt.Fprintln(h.w)
	t := tabwriter.NewWriter(h.w, 0, 0, 2, ' ', 0)
	for _, d := range drivers.All() {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", d.Name, d.Summary, d.Example)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(h.w, "\nDetails of a destination: eds server help <name>\n")
	return err
}

func (h driverHelp) describe(d sink.Driver) error {
	h.heading(d.Title)
	fmt.Fprintf(h.w, "%s\n\n%s\n\n", strings.Repeat("=", len([]rune(d.Title))), d.Summary)
	h.heading("URL")
	fmt.Fprintf(h.w, "  %s\n", d.Example)
	if len(d.Schemes) > 1 {
		fmt.Fprintf(h.w, "  also: %s://\n", strings.Join(d.Schemes[1:], "://, "))
	}
	fmt.Fprintln(h.w, "  eds replaces ${NAME} by an environment variable, and ${file:/path} by the file's content.")
	if len(d.Options) > 0 {
		fmt.Fprintln(h.w)
		h.heading("Options, as ?name=value&name=value")
		t := tabwriter.NewWriter(h.w, 0, 0, 2, ' ', 0)
		for _, o := range sink.Listed(d.Options) {
			description := o.Description()
			if o.DefaultText() != "" {
				description += " (default " + o.DefaultText() + ")"
			}
			fmt.Fprintf(t, "  %s\t%s\n", o.Name, description)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(h.w, "\n%s\n", strings.TrimSpace(d.Help))
	return err
}

// driverReport describes a destination in "eds server help --json".
type driverReport struct {
	Name    string         `json:"name"`
	Title   string         `json:"title"`
	Summary string         `json:"summary"`
	Schemes []string       `json:"schemes"` // URL schemes; the first one is canonical
	Example string         `json:"example"` // a complete URL
	Options []optionReport `json:"options"`
	Help    string         `json:"help"`
}

type optionReport struct {
	Name        string `json:"name"`
	Default     string `json:"default,omitempty"`
	Description string `json:"description"`
}

func (h driverHelp) json(all []sink.Driver) error {
	reports := make([]driverReport, len(all))
	for i, d := range all {
		r := driverReport{
			Name: d.Name, Title: d.Title, Summary: d.Summary, Schemes: d.Schemes, Example: d.Example,
			Options: []optionReport{}, Help: strings.TrimSpace(d.Help),
		}
		for _, o := range sink.Listed(d.Options) {
			r.Options = append(r.Options, optionReport{Name: o.Name, Default: o.DefaultText(), Description: o.Description()})
		}
		reports[i] = r
	}
	return printJSON(h.w, reports)
}
