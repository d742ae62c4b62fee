package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/control"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/verify"
)

func newVerify(p Process, common *config.CommonFlags) *cobra.Command {
	asJSON, repair := false, false
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the destination with a fresh export",
		Long: `Compares the rows of the destination with a fresh export from HQ: their number, and a
checksum of each column of each row. It reports the keys of missing, extra and
different rows, up to ten of each kind per table, and changes nothing. A server may run
meanwhile: rows that differ are compared again with another export until they are
stable, at most five times.

With --repair, tables that differ are imported, as with eds import --only, and compared
again. HQ exports whole tables, so each is replaced whole. If a server runs with the
same data directory, it does the import.

The exit code is 0 if all rows are equal (with --repair, at the end), else 1.`,
		Example: `  eds verify
  eds verify --only order,customer
  eds verify --repair`,
		Args: noArgs,
	}
	flags := config.BindVerify(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&repair, "repair", false, "import the tables that differ, and compare them again")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		o, err := flags.Resolve(s.common, config.Lookup(p.Lookup), s.file)
		if err != nil {
			return usage(err)
		}
		v := verifier{im: importer{what: "verify", p: p, s: s, o: o, out: out(cmd)}, reports: make(map[string]verify.Report)}
		switch {
		case repair && !o.NoConfirm && !isTerminal(p.Stdin):
			return usagef(
				"--repair replaces all rows of the tables that differ; there is no terminal for a prompt, so pass " +
					"--no-confirm to confirm that",
			)
		case !repair && o.NoConfirm:
			return usagef("--no-confirm is for --repair; without it, nothing is changed")
		}
		if err := v.run(cmd.Context()); err != nil {
			return err
		}
		if !repair {
			v.notifyServer(cmd.Context())
			return v.conclude(asJSON)
		}
		log := out(cmd)
		if asJSON {
			log = p.Stderr
		}
		failed := v.repair(cmd.Context(), log)
		if failed != nil && !errors.As(failed, new(reportedTablesError)) {
			return failed
		}
		v.notifyServer(cmd.Context())
		return cmp.Or(failed, v.conclude(asJSON))
	}
	return cmd
}

// verifier is a sink that compares the rows of an export with the rows of the destination. The
// export is loaded into the verifier.
type verifier struct {
	im     importer
	reader sink.Reader
	// repaired becomes true when differing tables have been imported. A server may then still be
	// applying changes that are newer than the import.
	repaired bool
	began    time.Time // start of the first comparison
	whole    bool      // all tables are compared, with all their rows
	mu       sync.Mutex
	reports  map[string]verify.Report // by table; a table that cannot be compared has a report with an error
}

// maxRounds is the maximum number of times that differing rows are compared.
const maxRounds = 5

func (v *verifier) run(ctx context.Context) error {
	im := &v.im
	client, err := connectHQ(im.s, im.o.HQSettings)
	if err != nil {
		return err
	}
	defer client.Close()
	if im.o.URL.IsZero() {
		return errNoDestination
	}
	destination, err := im.open(ctx, im.env())
	if err != nil {
		return err
	}
	defer destination.Close(hard(ctx))
	if v.reader = destination.Reader; v.reader == nil {
		return usagef("%s keeps events, which cannot be compared or repaired", drivers.MaskURL(im.o.URL.Reveal()))
	}
	if v.began.IsZero() {
		v.began, v.whole = time.Now(), len(im.o.Only)+len(im.o.CompanyIDs)+len(im.o.LocationIDs) == 0
	}
	for round := 1; ; round++ {
		if err := v.compare(ctx, client); err != nil {
			return err
		}
		tables, rows := v.unstable()
		if len(tables) == 0 || round == maxRounds {
			return nil
		}
		im.s.logger.Info(
			"comparing the rows that differ again, because a server may have changed them meanwhile", "tables", len(tables),
			"rows", rows,
		)
		im.o.Only = tables
	}
}

// unstable returns two results: the tables with rows whose difference has changed since the last
// comparison, and the number of such rows. After a repair, all differing rows count as unstable. A
// table is left out if too many of its rows differ, because changes that a server is applying
// cannot be the reason.
func (v *verifier) unstable() (tables []string, rows int) {
	for name, r := range v.reports {
		if r.Equal() || r.Suspects == nil {
			continue
		}
		n := r.Suspects.Moved()
		if v.repaired {
			n = r.Suspects.Len()
		}
		if n > 0 {
			tables = append(tables, name)
			rows += n
		}
	}
	slices.Sort(tables)
	return tables, rows
}

// compare compares the tables with a fresh export. If a table cannot be compared, the other
// tables are still compared.
func (v *verifier) compare(ctx context.Context, client *hq.Client) (err error) {
	im := &v.im
	// Use a temporary directory for the state, because a running server uses the state in the
	// data directory.
	scratch, err := os.MkdirTemp("", "eds-verify-")
	if err != nil {
		return fmt.Errorf("make a directory for the export: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	dir, err := state.Open(scratch)
	if err != nil {
		return err
	}
	defer dir.Close()
	observe, finish := im.display()
	_, err = snapshot.Run(ctx, snapshot.Config{
		HQ: client, Schemas: schema.NewCatalogue(client, dir), Sink: v, State: dir,
		Destination: reconciler.Named(im.o.URL.Reveal(), im.p.Lookup),
		Logger:      im.s.logger, Observe: observe, Present: client.Present, Options: im.options(),
	})
	finish()
	failed := new(snapshot.TablesError)
	if ctx.Err() != nil || !errors.As(err, &failed) {
		return err
	}
	for _, t := range failed.Failed {
		if v.reports[t.Table].Error == "" {
			v.reports[t.Table] = verify.Report{Table: t.Table, Error: t.Err.Error()}
		}
	}
	return nil
}

// notifyServer does nothing if no server runs with the data directory. Otherwise it informs this
// server which tables were found equal, and the server then ends its warnings that these tables are
// unverified.
func (v *verifier) notifyServer(ctx context.Context) {
	all, bad := v.sorted()
	equal := reconciler.Verification{Began: v.began, All: v.whole && len(bad) == 0}
	for _, r := range all {
		if r.Equal() {
			equal.Tables = append(equal.Tables, r.Table)
		}
	}
	im := &v.im
	err := control.NewClient(im.s.common.DataDir).Verified(ctx, reconciler.Named(im.o.URL.Reveal(), im.p.Lookup).Identity, equal)
	if err != nil {
		im.s.logger.Debug("the result was not reported to a server", "error", err)
	}
}

// sorted returns two lists, which are both sorted by table: all reports, and the reports of tables
// that differ.
func (v *verifier) sorted() (all, bad []verify.Report) {
	for _, name := range slices.Sorted(maps.Keys(v.reports)) {
		r := v.reports[name]
		all = append(all, r)
		if !r.Equal() {
			bad = append(bad, r)
		}
	}
	return all, bad
}

// conclude prints the result, and returns an error if the destination differs.
func (v *verifier) conclude(asJSON bool) error {
	all, bad := v.sorted()
	if asJSON {
		if err := printJSON(v.im.out, all); err != nil {
			return err
		}
	} else if err := printReports(v.im.out, all, bad); err != nil {
		return err
	}
	if len(bad) > 0 {
		return printedError{errors.New("the destination differs from the source")}
	}
	return nil
}

func printReports(w io.Writer, all, bad []verify.Report) error {
	rows, unread := int64(0), 0
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "table\trows there\trows here\tmissing\textra\tdifferent\t")
	for _, r := range all {
		if r.Error != "" {
			unread++
			fmt.Fprintf(t, "%s\t?\t?\t?\t?\t?\t\n", r.Table)
			continue
		}
		rows += r.Want
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t\n", r.Table, r.Want, r.Got, r.Missing, r.Extra, r.Different)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(bad) == 0 {
		_, err := fmt.Fprintf(
			w, "\nAll %s of %s are equal.\n", snapshot.Count(rows, "row", "rows"),
			snapshot.Count(len(all), "table", "tables"),
		)
		return err
	}
	fmt.Fprintln(w)
	for _, r := range bad {
		fmt.Fprintln(w, r)
	}
	if unread > 0 {
		fmt.Fprintf(w, "\n%d of %d tables were not compared.\n", unread, len(all))
	}
	if len(bad) == unread {
		return nil
	}
	_, err := fmt.Fprintf(
		w, "\n%d of %d tables differ. Changes that a server has not applied yet count too; see the lag in eds status.\n",
		len(bad)-unread, len(all),
	)
	return err
}

// Probe does nothing, because the destination is only read.
func (v *verifier) Probe(context.Context) error { return nil }

// BeginLoad starts the comparison of a table.
func (v *verifier) BeginLoad(ctx context.Context, _ string, t *schema.Table, _ sink.LoadMode, _ sink.Scope) (sink.Load, error) {
	ctx, cancel := context.WithCancel(ctx)
	v.mu.Lock()
	among := v.reports[t.Name].Suspects // rows that differed in the last comparison; nil for the first comparison
	v.mu.Unlock()
	c := &comparison{v: v, rows: make(chan *change.Row), taken: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	go func() {
		defer close(c.done)
		c.report, c.err = verify.Compare(ctx, t, among, c.want(ctx), v.reader.Read(ctx, t))
	}()
	return c, nil
}

// comparison is a load that compares its rows with the rows of the destination.
type comparison struct {
	v      *verifier
	rows   chan *change.Row // each row is valid until taken receives
	taken  chan struct{}
	done   chan struct{} // closed when report or err is set
	cancel context.CancelFunc

	report verify.Report
	err    error
}

// want yields the rows that are loaded.
func (c *comparison) want(ctx context.Context) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		for {
			select {
			case row, ok := <-c.rows:
				if !ok {
					return
				}
				if !yield(row, nil) {
					return
				}
				select {
				case c.taken <- struct{}{}:
				case <-ctx.Done():
					yield(nil, context.Cause(ctx))
					return
				}
			case <-ctx.Done():
				yield(nil, context.Cause(ctx))
				return
			}
		}
	}
}

func (c *comparison) Loaded(string) bool { return false }

func (c *comparison) LoadFile(_ context.Context, _ string, rows iter.Seq2[*change.Row, error]) (n int64, err error) {
	for row, err := range rows {
		if err != nil {
			return n, err
		}
		select {
		case c.rows <- row:
			n++
		case <-c.done:
			return n, c.failure()
		}
		select {
		case <-c.taken:
		case <-c.done:
			return n, c.failure()
		}
	}
	return n, nil
}

// failure returns the reason why the comparison ended before all rows were loaded.
func (c *comparison) failure() error {
	if c.err == nil {
		return errors.New("the comparison ended early")
	}
	return c.err
}

// Finish completes the comparison and stores its report. If the destination was down, the error
// makes the caller start the load again.
func (c *comparison) Finish(context.Context) (int64, error) {
	close(c.rows)
	<-c.done
	if c.err != nil && fault.Of(c.err) == fault.Transient {
		return 0, fault.Mark(fault.Fatal, fmt.Errorf("%w: %w", sink.ErrLoadLost, c.err))
	}
	if c.err != nil {
		c.report = verify.Report{Table: c.report.Table, Error: c.err.Error()}
	}
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	c.v.reports[c.report.Table] = c.report
	return -1, c.err
}

func (c *comparison) Discard(ctx context.Context) error { return c.Close(ctx) }

func (c *comparison) Close(context.Context) error {
	c.cancel()
	<-c.done
	return nil
}
