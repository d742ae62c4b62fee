package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/reconciler"
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
live table, and replace it once the table is complete; until then, and if anything
fails, the old rows stay. If an import is interrupted, run it again and it resumes.
Afterwards, eds server follows every change from the exact time of the snapshot.

A row that cannot be loaded, because of a bad value or a constraint of yours, becomes
a dead letter; see eds dlq list. The exit code is then 1. With --strict, or if more
than 100 of 1,000 rows are bad, the table fails and keeps its old rows.

If a server runs with the same data directory, it does the import, and this command
shows its progress. Ctrl-C ends only the command: --watch ID shows the import again,
and --cancel ID ends it.`,
		Example: `  eds import --url 'postgres://user:${PASSWORD}@host:5432/database'
  eds import --only order,customer --no-confirm
  eds import --validate-only
  eds import --dry-run`,
		Args: noArgs,
	}
	flags := config.BindImport(cmd.Flags())
	watch, cancel := "", ""
	cmd.Flags().StringVar(&watch, "watch", "", "show the running server's import with this `id`")
	cmd.Flags().StringVar(&cancel, "cancel", "", "cancel the running server's import with this `id`; tables keep their rows")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		log := "import"
		if flags.ReadOnly() {
			log = ""
		}
		s, err := begin(p, common, log)
		if err != nil {
			return err
		}
		defer s.close()
		s.looks = flags.ReadOnly()
		o, err := flags.Resolve(s.common, config.Lookup(p.Lookup), s.file)
		if err != nil {
			return usage(err)
		}
		im := importer{p: p, s: s, o: o, out: out(cmd), urlGiven: cmd.Flags().Changed("url")}
		running, err := im.findServer(cmd.Context())
		other := others(cmd, "watch", "cancel", "no-confirm")
		switch given := cmd.Flags().Changed; {
		case err != nil:
			return err
		case given("watch") && given("cancel"):
			return usagef("--watch shows an import, and --cancel cancels it; leave one out")
		case (given("watch") || given("cancel")) && other != "":
			return usagef("--%s is for a new import; --watch and --cancel are for an import that was already requested", other)
		case running == nil && (given("watch") || given("cancel")):
			return fmt.Errorf(
				"%w with the data directory %s; choose the server's directory with --data-dir", control.ErrNoServer,
				s.common.DataDir,
			)
		case given("watch"):
			return running.watch(cmd.Context(), watch)
		case given("cancel"):
			return running.cancel(cmd.Context(), cancel)
		case running != nil:
			return running.run(cmd.Context())
		}
		return im.run(cmd.Context())
	}
	return cmd
}

// others returns the name of a flag that is set on the command line and is not among the given
// names. If there is none, it returns "".
func others(cmd *cobra.Command, names ...string) (name string) {
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && !slices.Contains(names, f.Name) {
			name = f.Name
		}
	})
	return name
}

// importer is one run of "eds import".
type importer struct {
	what string // label of progress lines; "" means "import"
	p    Process
	s    *setup
	o    config.ImportSettings
	out  io.Writer
	// urlGiven reports whether the destination was set with --url.
	urlGiven bool
}

func (im *importer) run(ctx context.Context) error {
	client, err := connectHQ(im.s, im.o.HQSettings)
	if err != nil {
		return err
	}
	defer client.Close()
	if im.o.URL.IsZero() {
		return errNoDestination
	}
	open := state.Open
	if im.s.looks {
		open = state.Look
	}
	dir, err := open(im.s.common.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	at := reconciler.Named(im.o.URL.Reveal(), im.p.Lookup)
	env, err := reconciler.Identify(im.env(), dir, at.Identity, version, time.Now())
	if err != nil {
		return err
	}
	destination, err := im.open(ctx, env)
	if err != nil {
		return err
	}
	defer destination.Close(hard(ctx))
	var dead *dlq.Queue
	if !im.s.looks {
		if dead, err = dlq.Open(dir.Path("dlq")); err != nil {
			return err
		}
	}

	observe, finish := im.display()
	report, err := snapshot.Run(ctx, snapshot.Config{
		HQ: client, Schemas: schema.NewCatalogue(client, dir), Sink: destination, State: dir, Dead: dead,
		Destination: at, ID: env.ID,
		Logger: im.s.logger, Observe: observe, Confirm: im.confirm, Present: client.Present, Options: im.options(),
	})
	finish()
	return im.conclude(report, err)
}

func (im *importer) env() sink.Env {
	return sink.Env{
		Logger: im.s.logger, After: im.o.UpdateStrategy == config.After,
		Adjusted: func(table, column, rule string) {
			im.s.logger.Debug("a value was adjusted", "table", table, "column", column, "rule", rule)
		},
	}
}

// open opens the destination. If the destination is down, open fails immediately instead of
// retrying, because the operator is waiting.
func (im *importer) open(ctx context.Context, env sink.Env) (*sink.Opened, error) {
	_, destination, err := drivers.Open(ctx, im.o.URL.Reveal(), im.p.Lookup, env)
	if err != nil {
		return nil, usageError{err}
	}
	return destination, nil
}

func (im *importer) options() snapshot.Options {
	o := im.o
	return snapshot.Options{
		Only: o.Only, CompanyIDs: o.CompanyIDs, LocationIDs: o.LocationIDs, TimeOffset: o.TimeOffset, SchemaOnly: o.SchemaOnly,
		ValidateOnly: o.ValidateOnly, DryRun: o.DryRun, NoDelete: o.NoDelete, AllowEmpty: o.AllowEmpty, Strict: o.Strict,
		NoCleanup: o.NoCleanup, JobID: o.JobID, Dir: o.Dir, DownloadDir: o.DownloadDir, Parallel: o.Parallel,
	}
}

// errDeclined is returned if the operator does not confirm an import.
var errDeclined = errors.New("not confirmed; nothing was changed")

// confirm prompts the operator before the import replaces rows.
func (im *importer) confirm(plan snapshot.Plan) error {
	if plan.Schema {
		return nil
	}
	left := 0
	for _, t := range plan.Tables {
		if !t.Done && !t.Absent {
			left++
		}
	}
	return im.ask(plan.Mode, fmt.Sprintf("%d tables", left), drivers.MaskURL(im.o.URL.Reveal()))
}

// ask prompts the operator before rows are replaced. The prompt contains the given descriptions
// of the tables and of the target that has the tables.
func (im *importer) ask(mode sink.LoadMode, tables, target string) error {
	if im.o.NoConfirm {
		return nil
	}
	verb := "replaces " + im.rows() + " of"
	if mode == sink.Merge {
		verb = "writes over rows of"
	}
	if !isTerminal(im.p.Stdin) {
		return usagef("this %s %s in %s; there is no terminal for a prompt, so pass --no-confirm to confirm that", verb, tables, target)
	}
	answer, err := newPrompter(im.p).ask(fmt.Sprintf("This %s %s in %s.\nContinue? [y/N] ", verb, tables, target))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return errDeclined
	}
	return nil
}

// rows returns a description of the rows that the import replaces.
func (im *importer) rows() string {
	switch {
	case len(im.o.LocationIDs) > 0:
		return "all rows of the given locations"
	case len(im.o.CompanyIDs) > 0:
		return "all rows of the given companies"
	}
	return "all rows"
}

// conclude prints the outcome of an import, or the plan of a dry run. It returns the error with
// which the command ends, or nil.
func (im *importer) conclude(report snapshot.Report, err error) error {
	probe, dir := new(snapshot.ProbeError), new(snapshot.DirError)
	switch {
	case errors.As(err, &probe), errors.As(err, &dir):
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
	switch {
	case err != nil:
		err = reportedTablesError{err}
	case report.Refused > 0:
		err = reportedTablesError{snapshot.RefusedError{Rows: report.Refused}}
	}
	return errors.Join(im.printReport(report), err)
}

func (im *importer) printPlan(plan snapshot.Plan) error {
	what := "load"
	if plan.Schema {
		what = "make the tables of"
	}
	there := 0
	for _, t := range plan.Tables {
		if !t.Absent {
			there++
		}
	}
	fmt.Fprintf(im.out, "An import would %s %d tables into %s", what, there, drivers.MaskURL(im.o.URL.Reveal()))
	switch {
	case plan.Schema:
	case plan.Mode == sink.Merge:
		fmt.Fprint(im.out, ", over the existing rows")
	default:
		fmt.Fprintf(im.out, ", replacing %s", im.rows())
	}
	if plan.Resumed {
		fmt.Fprintf(im.out, ", resuming job %s", plan.Job)
	}
	fmt.Fprint(im.out, ":\n\n")
	for _, t := range plan.Tables {
		state := ""
		switch {
		case t.Done:
			state = "  (done already)"
		case t.Absent:
			state = "  (not in the export; it stays unchanged)"
		case t.Files >= 0:
			state = fmt.Sprintf("  (%d files)", t.Files)
		}
		fmt.Fprintf(im.out, "  %s%s\n", t.Table, state)
	}
	_, err := fmt.Fprintln(im.out, "\nNothing was changed. To test whether the destination can be written, use --validate-only.")
	return err
}

func (im *importer) printReport(r snapshot.Report) error {
	t := tabwriter.NewWriter(im.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "table\trows\tfiles\tbytes\tresult\t")
	failed, kept, absent := 0, 0, 0
	for _, table := range r.Tables {
		result := "done"
		switch {
		case table.Kept:
			result = "kept"
			kept++
		case table.Err != nil:
			result = "failed"
			failed++
		case table.Absent:
			result = "not in the export"
			absent++
		case table.Earlier:
			result = "done before"
		}
		if table.Refused > 0 {
			result += ", " + snapshot.Count(table.Refused, "row refused", "rows refused")
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t\n", table.Table, table.Rows, table.Files, table.Bytes, result)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	rate := float64(r.Rows) / max(r.Elapsed.Seconds(), 0.001)
	rows, tables := snapshot.Count(r.Rows, "row", "rows"), snapshot.Count(len(r.Tables)-failed-kept-absent, "table", "tables")
	_, err := fmt.Fprintf(im.out, "\n%s of %s in %v, %.0f rows/s.\n", rows, tables, r.Elapsed.Round(10*time.Millisecond), rate)
	if r.Refused > 0 {
		fmt.Fprintln(im.out, snapshot.Count(r.Refused, "row", "rows")+
			" could not be loaded. eds dlq list shows file, line and reason; fix the reason, then use eds dlq replay.")
	}
	if failed > 0 {
		fmt.Fprintln(im.out, snapshot.Count(failed, "table", "tables")+" failed; the old rows stay. Run the import again to retry.")
	}
	if kept > 0 {
		fmt.Fprintln(im.out, snapshot.Count(kept,
			"table was kept, because the snapshot has no rows for it; --allow-empty empties it.",
			"tables were kept, because the snapshot has no rows for them; --allow-empty empties them."))
	}
	if absent > 0 {
		fmt.Fprintln(im.out, snapshot.Count(absent,
			"table is not in the export; it stays unchanged.", "tables are not in the export; they stay unchanged."))
	}
	if r.Dir != "" && im.o.Dir == "" {
		fmt.Fprintf(im.out, "The downloaded files are in %s.\n", r.Dir)
	}
	return err
}
