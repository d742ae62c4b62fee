package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/durable"
)

// newMan returns the command that writes the manual pages for packages.
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

// writeManuals writes the manual pages of cmd and all its subcommands to dir.
func writeManuals(cmd *cobra.Command, dir string) error {
	if err := writeManual(cmd, filepath.Join(dir, pageName(cmd)+".1")); err != nil {
		return fmt.Errorf("write the manual page of %s: %w", cmd.CommandPath(), err)
	}
	for _, c := range children(cmd) {
		if err := writeManuals(c, dir); err != nil {
			return err
		}
	}
	return nil
}

// writeManual writes the manual page of one command, and appends the sections that cobra does
// not generate. The environment variable SOURCE_DATE_EPOCH sets the date of the page.
func writeManual(cmd *cobra.Command, path string) error {
	cmd.DisableAutoGenTag = true
	header := doc.GenManHeader{
		Title: strings.ToUpper(pageName(cmd)), Section: "1", Source: "eds " + build.Read(version).Version, Manual: "eds",
	}
	err := durable.Replace(path, ".man-*", func(w io.Writer) error {
		if err := doc.GenMan(cmd, &header, w); err != nil {
			return err
		}
		_, err := io.WriteString(w, environment)
		return err
	})
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

// environment is the text at the end of each page, in the man macros of troff.
const environment = `
.SH ENVIRONMENT
.TP
\fBSM_APIKEY\fP
The key of HQ's API, if --api-key is not given.
.TP
\fBPORT\fP
The port of health and metrics, if --port is not given.
.TP
\fBNO_COLOR\fP
If set, no colours.
.TP
\fBTERM\fP
If set to dumb, no colours, and lines of progress instead of bars.

.SH EXIT STATUS
.TP
0
Success.
.TP
1
An error; the last line describes it.
.TP
3
Wrong usage, or a destination that fails its test.
`

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// children returns the visible subcommands of cmd.
func children(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() })
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
