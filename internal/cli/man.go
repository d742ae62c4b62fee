package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/durable"
)

// newMan is for those who make packages.
func newMan(Process) *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages of all commands to a directory",
		Example: "  eds man ./man/man1",
		Hidden:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s needs a directory", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return writeManuals(cmd.Root(), args[0])
		},
	}
}

// writeManuals writes the page of cmd and of all below it.
func writeManuals(cmd *cobra.Command, dir string) error {
	path := filepath.Join(dir, pageName(cmd)+".1")
	err := durable.Replace(path, ".man-*", func(w io.Writer) error {
		_, err := io.WriteString(w, manual(cmd))
		return err
	})
	if err == nil {
		err = os.Chmod(path, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the manual page of %s: %w", cmd.CommandPath(), err)
	}
	for _, c := range children(cmd) {
		if err := writeManuals(c, dir); err != nil {
			return err
		}
	}
	return nil
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// children returns the commands below cmd that users see.
func children(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() })
}

// manual returns the page of one command, as troff's man macros have it.
func manual(cmd *cobra.Command) string {
	var p page
	p.macro(".TH", strings.ToUpper(pageName(cmd)), "1", "", "eds "+build.Read(version).Version, "eds")
	p.section("NAME")
	p.text(pageName(cmd) + " - " + cmd.Short)
	p.section("SYNOPSIS")
	p.text(cmd.UseLine())
	p.section("DESCRIPTION")
	p.text(strings.TrimSpace(first(cmd.Long, cmd.Short+".")))
	if below := children(cmd); len(below) > 0 {
		p.section("COMMANDS")
		for _, c := range below {
			p.item(bold(c.CommandPath()), c.Short+". See "+pageName(c)+"(1).")
		}
	}
	p.section("OPTIONS")
	cmd.InitDefaultHelpFlag()
	cmd.LocalFlags().VisitAll(p.option)
	cmd.InheritedFlags().VisitAll(p.option)
	if cmd.Example != "" {
		p.section("EXAMPLES")
		p.verbatim(cmd.Example)
	}
	p.section("ENVIRONMENT")
	p.item(bold("SM_APIKEY"), "The key of HQ's API, where --api-key is not given.")
	p.item(bold("PORT"), "The port of health and metrics, where --port is not given.")
	p.item(bold("NO_COLOR"), "Set to anything: no colours.")
	p.item(bold("TERM"), "Set to dumb: no colours, and lines of progress instead of bars.")
	p.section("EXIT STATUS")
	p.item("0", "Done.")
	p.item("1", "An error, which the last line tells.")
	p.item("3", "Wrong usage, or a destination that fails its test.")
	if cmd.HasParent() {
		p.section("SEE ALSO")
		p.text(pageName(cmd.Parent()) + "(1)")
	}
	return p.String()
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// page is a manual page in the making.
type page struct{ strings.Builder }

func (p *page) macro(name string, args ...string) {
	p.WriteString(name)
	for _, a := range args {
		p.WriteString(` "` + strings.ReplaceAll(escape(a), `"`, `\(dq`) + `"`)
	}
	p.WriteString("\n")
}

func (p *page) section(title string) { p.macro(".SH", title) }

// text writes paragraphs that are separated by empty lines.
func (p *page) text(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			p.WriteString(".PP\n")
			continue
		}
		p.WriteString(escape(line) + "\n")
	}
}

// item writes a term, escaped already, and what it means.
func (p *page) item(term, meaning string) {
	p.WriteString(".TP\n" + term + "\n")
	p.text(meaning)
}

func (p *page) verbatim(text string) {
	p.WriteString(".nf\n")
	for line := range strings.Lines(text) {
		p.WriteString(escape(strings.TrimPrefix(strings.TrimRight(line, "\n"), "  ")) + "\n")
	}
	p.WriteString(".fi\n")
}

func (p *page) option(f *pflag.Flag) {
	if f.Hidden || f.Deprecated != "" {
		return
	}
	name, usage := pflag.UnquoteUsage(f)
	term := bold("--" + f.Name)
	if f.Shorthand != "" {
		term = bold("-"+f.Shorthand) + ", " + term
	}
	if name != "" {
		term += ` \fI` + escape(name) + `\fP`
	}
	if d := f.DefValue; !slices.Contains([]string{"", "0", "0s", "false", "[]"}, d) {
		usage += " (default " + d + ")"
	}
	p.item(term, usage)
}

func bold(text string) string { return `\fB` + escape(text) + `\fP` }

// escape returns a line of text such that troff sets it as it is.
func escape(line string) string {
	line = strings.NewReplacer(`\`, `\e`, `-`, `\-`, "'", `\(aq`, "`", `\(ga`).Replace(line)
	if strings.HasPrefix(line, ".") {
		line = `\&` + line
	}
	return line
}
