// Package snapshot copies a snapshot of the source into a destination: it has
// HQ export the tables, downloads the files, and loads their rows beside the
// live tables, which it replaces at the end. It can be ended at any moment and
// goes on where it was.
package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// Exporter is the part of HQ that makes snapshots.
type Exporter interface {
	StartExport(ctx context.Context, r hq.ExportRequest) (job string, err error)
	ExportStatus(ctx context.Context, job string) (hq.Export, error)
}

// Schemas knows the tables; it asks HQ, with the key.
type Schemas interface {
	Latest(ctx context.Context) (map[string]*schema.Table, error)
}

// Sink is what an import loads rows into, as sink.Sink describes it. The optional interfaces
// of a sink are used if it has them.
type Sink interface {
	Probe(ctx context.Context) error
	BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error)
}

// Config is what an import needs.
type Config struct {
	HQ      Exporter
	Schemas Schemas
	Sink    Sink
	State   *state.Dir
	// Dead takes the rows that cannot be loaded. If it is nil, such a row fails its table,
	// as it does with Strict.
	Dead *dlq.Queue
	// Destination is the sink's. An import into another one is another import.
	Destination state.Destination
	// ID is the destination's if it has none of its own.
	ID string
	// HTTP downloads files; nil means a client that heeds the proxy settings
	// of the environment.
	HTTP    *http.Client
	Logger  *slog.Logger
	Observe Observer // may be nil
	// Confirm, where set, is asked after everything was checked and before
	// anything is changed. Its error ends the import.
	Confirm func(Plan) error
	// Present returns the present time by HQ's clock; nil means time.Now.
	Present func() time.Time
	// Patience is how long HQ, downloads and the destination are waited for, after an
	// attempt has failed, while they bring nothing; 0 means 5 minutes.
	Patience time.Duration
	// Poll and Retry time the questions for an export's state and attempts
	// after errors. The zero values are 1 to 15 s, and 0.1 to 30 s.
	Poll, Retry retry.Backoff
	// Stalled, where set, is called when a part of the import, such as one table's, has made
	// no progress for 30 seconds, with what it waits for, and again later; with "" when it
	// goes on or ends. Calls for one part are serial. It must not block.
	Stalled func(what, reason string)
	// BringForward, where set, is called for a table that is to be replaced as a whole,
	// after its last file was loaded. The clock is that of the loaded rows. It applies
	// later changes of the stream to the load, which is sealed, and returns the position
	// up to which the rows have all of them; zero if it has none. When the load has ended,
	// done is called. It is nil if err is not.
	BringForward func(ctx context.Context, t *schema.Table, clock cdc.Timestamp, load sink.Advancer) (applied cdc.Position, done func(), err error)

	Options
}

// Options are a person's wishes.
type Options struct {
	// Only are the tables to import; none means all.
	Only []string
	// CompanyIDs and LocationIDs ask for their rows only. Other rows stay.
	CompanyIDs, LocationIDs []string
	// TimeOffset asks for a part of the rows, by time; zero is all. Rows that
	// the snapshot lacks then stay.
	TimeOffset time.Time
	// SchemaOnly makes the tables and records the present as their snapshot.
	SchemaOnly bool
	// ValidateOnly ends after the destination was probed and the key accepted.
	ValidateOnly bool
	// DryRun ends with the plan. It changes nothing anywhere, so the destination is
	// not probed. Of the state it only reads.
	DryRun bool
	// NoDelete keeps rows that the snapshot lacks.
	NoDelete bool
	// OwnTables leaves tables alone that have rows and that eds neither made nor has
	// imported into before. Without it the operator has agreed to have them replaced.
	OwnTables bool
	// AllowEmpty lets a snapshot without rows empty a table; else the table is kept.
	AllowEmpty bool
	// Strict fails a table of which a row cannot be loaded; its rows stay. Else the row
	// becomes a dead letter, and the table gets the others.
	Strict bool
	// NoCleanup keeps the downloaded files.
	NoCleanup bool
	// JobID is an export to load from, in the place of a new one.
	JobID string
	// Dir is a directory whose export files are loaded. Nothing is downloaded, and
	// nothing in it is changed.
	Dir string
	// DownloadDir is where files are downloaded to and stay, and where those of an
	// interrupted run are found; "" means a place in the data directory.
	DownloadDir string
	// Parallel is how many tables are loaded at once; 0 means 4.
	Parallel int
}

// Plan says what an import will do.
type Plan struct {
	Job     string    // "" where an export has yet to be started
	Dir     string    // from which files are taken and into which they are downloaded; "" where not yet known
	Resumed bool      // goes on with an import that was interrupted
	Began   time.Time // when that one, or this one, began
	Mode    sink.LoadMode
	Schema  bool        // makes tables, and loads nothing
	Tables  []PlanTable // by name
}

// PlanTable is a table of a plan.
type PlanTable struct {
	Table  string
	Done   bool  // by the import that is resumed
	Absent bool  // the export does not have it; it stays as it is
	Files  int   // -1 where not known yet
	Bytes  int64 // of the files that were downloaded already
}

// Report says what an import did.
type Report struct {
	Plan    Plan
	Tables  []TableReport // by name
	Rows    int64
	Refused int           // rows that could not be loaded, of tables that are in place
	Bytes   int64         // of files, compressed
	Elapsed time.Duration // since it was confirmed; 0 if nothing was begun
	Dir     string        // where files were kept; "" where they were not
}

// TableReport says what happened to one table.
type TableReport struct {
	Table string
	// Rows is how many rows were put in place. If the destination keeps events it
	// is how many this and earlier runs of the import loaded, less those of a file
	// that was committed just when an earlier run was killed.
	Rows    int64
	Refused int // rows that could not be loaded, and are dead letters
	Bytes   int64
	Files   int
	Clock   cdc.Timestamp // of the snapshot; zero if Err is set
	Earlier bool          // done by an earlier run
	Absent  bool          // the export does not have it; it stays as it is
	Kept    bool          // the export has no rows of it, and Err says that it stays as it is
	Final   bool          // to run the import again would change nothing
	Err     error
}

// Count returns n with the word that suits it.
func Count[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// RefusedError says that rows could not be loaded, and are dead letters.
type RefusedError struct{ Rows int }

func (e RefusedError) Error() string {
	return Count(e.Rows, "row", "rows") + " could not be loaded; the tables have all others; see: eds dlq list"
}

// TablesError says which tables were not imported. The others were.
type TablesError struct {
	Failed []TableReport
	Of     int // tables in all
}

func (e *TablesError) Error() string {
	text := fmt.Sprintf("%d of %s not imported:", len(e.Failed), Count(e.Of, "table was", "tables were"))
	for i, t := range e.Failed {
		if i > 0 {
			text += ";"
		}
		text += fmt.Sprintf(" %s: %v", t.Table, t.Err)
	}
	return text
}

// Final reports whether to run the import again would bring none of them.
func (e *TablesError) Final() bool {
	return !slices.ContainsFunc(e.Failed, func(t TableReport) bool { return !t.Final })
}

// Unwrap returns the errors of the tables.
func (e *TablesError) Unwrap() []error {
	all := make([]error, len(e.Failed))
	for i, t := range e.Failed {
		all[i] = t.Err
	}
	return all
}

// ProbeError says that the destination does not work.
type ProbeError struct{ Err error }

func (e *ProbeError) Error() string { return "test the destination: " + e.Err.Error() }
func (e *ProbeError) Unwrap() error { return e.Err }

// DirError says that a directory that was named is not of the kind that it was named for.
type DirError struct {
	Dir     string
	Problem string
}

func (e *DirError) Error() string { return fmt.Sprintf("directory %s: %s", e.Dir, e.Problem) }

// Run imports a snapshot. First of all it looks at the directories that were named,
// probes the destination and has HQ accept the key. A table that can't be imported does not keep the others from
// it; the error is then a *TablesError. After any error, and after the program
// was killed, live tables are whole, old or new, and another Run with the same
// configuration goes on at the first file that was not loaded.
func Run(ctx context.Context, c Config) (Report, error) {
	r := newRun(c)
	report, err := r.do(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the import was interrupted; run it again to go on: %w", context.Cause(ctx))
	}
	if !r.began.IsZero() {
		report.Elapsed = time.Since(r.began)
	}
	return report, err
}

func (r *run) do(ctx context.Context) (Report, error) {
	if !r.cfg.ValidateOnly && !r.cfg.SchemaOnly {
		if err := r.readDirs(); err != nil {
			return Report{}, err
		}
	}
	if err := r.check(ctx); err != nil || r.cfg.ValidateOnly {
		return Report{}, err
	}
	if err := r.awaitWriters(ctx); err != nil {
		return Report{}, err
	}
	if r.cfg.SchemaOnly {
		return r.schemaOnly(ctx)
	}
	if err := r.resolve(ctx); err != nil {
		return Report{}, err
	}
	report := Report{Plan: r.plan()}
	if r.cfg.DryRun {
		return report, nil
	}
	if err := r.confirm(report.Plan); err != nil {
		return report, err
	}
	err := r.execute(ctx)
	r.fill(&report)
	return report, err
}

// confirm asks whether to go on with the plan; the work begins when it returns nil.
func (r *run) confirm(p Plan) error {
	if r.cfg.Confirm != nil {
		if err := r.cfg.Confirm(p); err != nil {
			return err
		}
	}
	r.began = time.Now()
	return nil
}

// schemaOnly makes the tables. A table of which this destination holds a
// snapshot keeps that one's time, since the changes after it are still to come.
func (r *run) schemaOnly(ctx context.Context) (Report, error) {
	clock := cdc.At(r.cfg.Present())
	report := Report{Plan: r.plan()}
	if r.cfg.DryRun {
		return report, nil
	}
	if err := r.confirm(report.Plan); err != nil {
		return report, err
	}
	if err := r.makeTables(ctx); err != nil {
		return report, err
	}
	known, err := r.cfg.State.Snapshots(r.cfg.Destination)
	if err != nil {
		return report, err
	}
	var fresh []state.Snapshot
	failed := &TablesError{Failed: r.reserved, Of: len(r.wanted) + len(r.reserved)}
	report.Tables = append(report.Tables, r.reserved...)
	for _, table := range r.wanted {
		if err := r.refused[table]; err != nil {
			failed.Failed = append(failed.Failed, TableReport{Table: table, Err: err})
			report.Tables = append(report.Tables, TableReport{Table: table, Err: err})
			continue
		}
		s, ok := known[table]
		if !ok {
			s = state.Snapshot{Table: table, Clock: state.Clock{Timestamp: clock}, ImportedAt: time.Now().UTC(), Whole: len(r.cfg.Only) == 0}
			fresh = append(fresh, s)
		}
		report.Tables = append(report.Tables, TableReport{Table: table, Clock: s.Clock.Timestamp, Earlier: ok})
	}
	if err := r.cfg.State.RecordSnapshots(r.cfg.Destination, fresh...); err != nil {
		return report, err
	}
	if len(failed.Failed) > 0 {
		return report, failed
	}
	return report, nil
}
