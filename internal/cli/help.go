package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/shopmonkeyus/eds/internal/drivers"
)

// Ids of the groups in the list of commands.
const (
	groupStart = "start"
	groupWatch = "watch"
	groupSetUp = "set up"
	groupTry   = "try"
)

func groups() []*cobra.Group {
	return []*cobra.Group{
		{ID: groupStart, Title: "Import and follow:"},
		{ID: groupWatch, Title: "Operate a server:"},
		{ID: groupSetUp, Title: "Install and upgrade:"},
		{ID: groupTry, Title: "Try it:"},
	}
}

// in assigns commands to a group, and returns the commands.
func in(group string, commands ...*cobra.Command) []*cobra.Command {
	for _, c := range commands {
		c.GroupID = group
	}
	return commands
}

// newHelp returns the command "eds help", which describes one command or lists all commands.
func newHelp(p Process) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "help [command]",
		Short:   "Describe the commands, or one of them",
		Example: "  eds help\n  eds help import\n  eds help --json",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			of, err := named(cmd.Root(), args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, c := range children(of) {
				names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			of, err := named(cmd.Root(), args)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out(cmd), reportOf(of))
			}
			return newManual(p, out(cmd)).describe(of)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with all subcommands")
	return cmd
}

// named returns the descendant of cmd at the given path of command names.
func named(cmd *cobra.Command, names []string) (*cobra.Command, error) {
	for _, name := range names {
		below := child(cmd, name)
		if below == nil {
			if d, err := drivers.Find(name); err == nil {
				return nil, usagef("%q is a destination; run: eds server help %s", name, d.Name)
			}
			return nil, unknownCommand(cmd, name)
		}
		cmd = below
	}
	return cmd, nil
}

func child(cmd *cobra.Command, name string) *cobra.Command {
	for _, c := range cmd.Commands() {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// manualWriter writes descriptions of commands.
type manualWriter struct {
	w     io.Writer
	bold  bool // print headings in bold
	width int  // width of a line; 0 means unlimited
}

func newManual(p Process, w io.Writer) manualWriter {
	m := manualWriter{w: w, bold: p.bold()}
	if f, ok := w.(*os.File); ok {
		m.width, _, _ = term.GetSize(int(f.Fd())) // 0 if f is not a terminal
	}
	return m
}

func (m manualWriter) heading(text string) {
	if m.bold {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Fprintf(m.w, "\n%s\n", text)
}

func (m manualWriter) describe(cmd *cobra.Command) error {
	fmt.Fprintln(m.w, strings.TrimSpace(first(cmd.Long, cmd.Short+".")))
	m.heading("Usage:")
	if cmd.Runnable() && cmd.HasParent() {
		fmt.Fprintf(m.w, "  %s\n", cmd.UseLine())
	}
	below := children(cmd)
	if len(below) > 0 {
		fmt.Fprintf(m.w, "  %s command [flags]\n", cmd.CommandPath())
	}
	if cmd.Example != "" {
		m.heading("Examples:")
		fmt.Fprintln(m.w, cmd.Example)
	}
	for _, g := range cmd.Groups() {
		m.list(g.Title, below, g.ID)
	}
	m.list("Commands:", below, "")
	m.flags("Flags:", cmd.LocalFlags())
	m.flags("Flags of every command:", cmd.InheritedFlags())
	if len(below) > 0 {
		fmt.Fprintf(m.w, "\nDetails of a command: eds help%s <command>\n", strings.TrimPrefix(cmd.CommandPath(), "eds"))
	}
	return nil
}

// list prints the title, and below it the commands that belong to the group.
func (m manualWriter) list(title string, all []*cobra.Command, group string) {
	t := tabwriter.NewWriter(m.w, 14, 0, 2, ' ', 0)
	titled := false
	for _, c := range all {
		if c.GroupID != group {
			continue
		}
		if !titled {
			m.heading(title)
			titled = true
		}
		fmt.Fprintf(t, "  %s\t%s\n", c.Name(), c.Short)
	}
	_ = t.Flush() // a closed output is not an error here
}

func (m manualWriter) flags(title string, fs *pflag.FlagSet) {
	if fs.HasAvailableFlags() {
		m.heading(title)
		fmt.Fprint(m.w, fs.FlagUsagesWrapped(m.width))
	}
}

// commandReport describes a command in "eds help --json".
type commandReport struct {
	Name        string          `json:"name"`
	Summary     string          `json:"summary"`
	Description string          `json:"description,omitempty"`
	Usage       string          `json:"usage"`
	Example     string          `json:"example,omitempty"`
	Flags       []flagReport    `json:"flags"` // includes the flags of every command
	Commands    []commandReport `json:"commands,omitempty"`
}

type flagReport struct {
	Name        string `json:"name"`
	Short       string `json:"short,omitempty"`
	Type        string `json:"type"`
	Default     string `json:"default,omitempty"`
	Description string `json:"description"`
}

func reportOf(cmd *cobra.Command) commandReport {
	r := commandReport{
		Name: cmd.CommandPath(), Summary: cmd.Short, Description: strings.TrimSpace(cmd.Long),
		Usage: cmd.UseLine(), Example: cmd.Example, Flags: []flagReport{},
	}
	add := func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		_, description := pflag.UnquoteUsage(f)
		r.Flags = append(r.Flags, flagReport{f.Name, f.Shorthand, f.Value.Type(), f.DefValue, description})
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	for _, c := range children(cmd) {
		r.Commands = append(r.Commands, reportOf(c))
	}
	return r
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(value)
}
