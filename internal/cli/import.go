package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

func newImport(p Process, common *config.CommonFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Copy a snapshot of everything into the destination",
		Long: `Copies a snapshot of every table into the destination. Rows are loaded beside the
live tables, and put in their place once a table is whole; until then, and if
anything fails, the old rows stay. An import that was interrupted goes on where
it was when it is run again. Afterwards, eds server follows every change from
exactly the time of the snapshot.`,
		Example: `  eds import --url 'postgres://user:${PASSWORD}@host:5432/database'
  eds import --only order,customer --no-confirm
  eds import --validate-only`,
		Args: noArgs,
	}
	flags := config.BindImport(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, common, "import")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := flags.Resolve(s.common, config.Lookup(p.Lookup), s.file)
		if err != nil {
			return usage(err)
		}
		im := importer{p: p, s: s, o: o, out: out(cmd)}
		return im.run(cmd.Context())
	}
	return cmd
}

// importer is one run of "eds import".
type importer struct {
	what string // in lines of progress; "": import
	p    Process
	s    *setup
	o    config.Import
	out  io.Writer
	// watch, where set, draws the progress in the place of the usual display.
	watch func() (snapshot.Observer, func())
}

func (im *importer) run(ctx context.Context) error {
	client, err := connectHQ(im.s, im.o.HQ)
	if err != nil {
		return err
	}
	defer client.Close()
	if im.o.URL.IsZero() {
		return errNoDestination
	}
	dir, err := state.Open(im.s.common.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	destination, err := im.open(ctx)
	if err != nil {
		return err
	}
	defer destination.Close(hard(ctx))

	observe, finish := im.display()
	report, err := snapshot.Run(ctx, snapshot.Config{
		HQ: client, Schemas: schema.NewCatalogue(client, dir), Sink: destination, State: dir, Destination: sink.MaskURL(im.o.URL.Reveal()),
		Logger: im.s.logger, Observe: observe, Confirm: im.confirm, Present: client.Present, Options: im.options(),
	})
	finish()
	return im.conclude(report, err)
}

// open opens the destination. Here nothing is waited for: a person is.
func (im *importer) open(ctx context.Context) (sink.Sink, error) {
	_, destination, err := drivers.Open(ctx, im.o.URL.Reveal(), im.p.Lookup, sink.Env{
		Logger: im.s.logger, After: im.o.UpdateStrategy == config.After,
		Adjusted: func(table, column, rule string) {
			im.s.logger.Debug("a value was adjusted", "table", table, "column", column, "rule", rule)
		},
	})
	if err != nil {
		return nil, usageError{err}
	}
	return destination, nil
}

func (im *importer) options() snapshot.Options {
	o := im.o
	return snapshot.Options{
		Only: o.Only, CompanyIDs: o.CompanyIDs, LocationIDs: o.LocationIDs, TimeOffset: o.TimeOffset, SchemaOnly: o.SchemaOnly,
		ValidateOnly: o.ValidateOnly, DryRun: o.DryRun, NoDelete: o.NoDelete, NoCleanup: o.NoCleanup, JobID: o.JobID, Dir: o.Dir, Parallel: o.Parallel,
	}
}

// errDeclined ends an import that the user did not confirm.
var errDeclined = errors.New("not confirmed; nothing was changed")

// confirm asks before rows are replaced.
func (im *importer) confirm(plan snapshot.Plan) error {
	if im.o.NoConfirm || plan.Schema {
		return nil
	}
	left := 0
	for _, t := range plan.Tables {
		if !t.Done {
			left++
		}
	}
	verb, only := "replaces all rows of", ""
	switch {
	case plan.Mode == sink.Merge:
		verb = "writes over rows of"
	case len(im.o.LocationIDs) > 0:
		only = ", also those of other locations (--no-delete keeps them)"
	case len(im.o.CompanyIDs) > 0:
		only = ", also those of other companies (--no-delete keeps them)"
	}
	target := sink.MaskURL(im.o.URL.Reveal())
	if !isTerminal(im.p.Stdin) {
		return usagef("this %s %d tables in %s%s; pass --no-confirm to say that you want that, as there is no terminal to ask at", verb, left, target, only)
	}
	answer, err := newAsker(im.p).ask(fmt.Sprintf("This %s %d tables in %s%s.\nGo on? [y/N] ", verb, left, target, only))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return errDeclined
	}
	return nil
}

// conclude prints what was done, or would be.
func (im *importer) conclude(report snapshot.Report, err error) error {
	probe := new(snapshot.ProbeError)
	switch {
	case errors.As(err, &probe):
		return usageError{err}
	case err != nil && len(report.Tables) == 0:
		if fault.Of(err) == fault.Fatal && im.o.ValidateOnly {
			return usageError{err}
		}
		return err
	case im.o.ValidateOnly:
		_, err := fmt.Fprintln(im.out, "The key is accepted and the destination works.")
		return err
	case im.o.DryRun:
		return im.printPlan(report.Plan)
	}
	return errors.Join(im.printReport(report), err)
}

func (im *importer) printPlan(plan snapshot.Plan) error {
	what := "load"
	if plan.Schema {
		what = "make the tables of"
	}
	fmt.Fprintf(im.out, "An import would %s %d tables into %s", what, len(plan.Tables), sink.MaskURL(im.o.URL.Reveal()))
	switch {
	case plan.Schema:
	case plan.Mode == sink.Merge:
		fmt.Fprint(im.out, ", over the rows that are there")
	default:
		fmt.Fprint(im.out, ", in the place of all rows that are there")
	}
	if plan.Resumed {
		fmt.Fprintf(im.out, ", going on with job %s", plan.Job)
	}
	fmt.Fprint(im.out, ":\n\n")
	for _, t := range plan.Tables {
		state := ""
		switch {
		case t.Done:
			state = "  (done already)"
		case t.Files >= 0:
			state = fmt.Sprintf("  (%d files)", t.Files)
		}
		fmt.Fprintf(im.out, "  %s%s\n", t.Table, state)
	}
	_, err := fmt.Fprintln(im.out, "\nNothing was changed.")
	return err
}

func (im *importer) printReport(r snapshot.Report) error {
	t := tabwriter.NewWriter(im.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "table\trows\tfiles\tbytes\tresult\t")
	failed := 0
	for _, table := range r.Tables {
		result := "done"
		switch {
		case table.Err != nil:
			result = "failed"
			failed++
		case table.Earlier:
			result = "done before"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t\n", table.Table, table.Rows, table.Files, table.Bytes, result)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	rate := float64(r.Rows) / max(r.Elapsed.Seconds(), 0.001)
	_, err := fmt.Fprintf(im.out, "\n%d rows of %d tables in %v, %.0f rows/s.\n", r.Rows, len(r.Tables)-failed, r.Elapsed.Round(10*time.Millisecond), rate)
	if failed > 0 {
		fmt.Fprintf(im.out, "%d tables failed; the rows that they had stay. Run the import again to go on with them.\n", failed)
	}
	if r.Dir != "" {
		fmt.Fprintf(im.out, "The downloaded files are in %s.\n", r.Dir)
	}
	return err
}
