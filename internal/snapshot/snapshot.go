// Package snapshot copies a snapshot of the source into a destination. It requests an export of
// the tables from HQ, downloads the files, and loads their rows beside the live tables, which it
// replaces at the end. It can be interrupted at any time, and resumes.
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

// Schemas returns the tables of the source. It requests them from HQ with the API key.
type Schemas interface {
	Latest(ctx context.Context) (map[string]*schema.Table, error)
}

// Sink is what an import loads rows into, as sink.Sink describes it. The optional interfaces
// of a sink are used if it has them.
type Sink interface {
	Probe(ctx context.Context) error
	BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error)
}

// Config configures an import.
type Config struct {
	HQ      Exporter
	Schemas Schemas
	Sink    Sink
	State   *state.Dir
	// Dead receives rows that cannot be loaded. If it is nil, such a row fails its table, as with
	// Strict.
	Dead *dlq.Queue
	// Destination identifies the sink. An import into another destination is another import.
	Destination state.Destination
	// ID is the id of the destination if it records none itself.
	ID string
	// HTTP downloads files; nil: a client that uses the proxy settings of the environment.
	HTTP    *http.Client
	Logger  *slog.Logger
	Observe Observer // may be nil
	// Confirm is called after all checks and before any change. Its error ends the import. Nil:
	// no confirmation.
	Confirm func(Plan) error
	// Present returns the current time of HQ's clock; nil: time.Now.
	Present func() time.Time
	// Patience is how long the import retries HQ, downloads and the destination after a failure
	// without progress; 0: 5 minutes.
	Patience time.Duration
	// Poll is the wait between polls of an export; zero: 1 to 15 s. Retry is the wait after a
	// failure; zero: 0.1 to 30 s.
	Poll, Retry retry.Backoff
	// Stalled is called if a part of the import, such as one table, makes no progress for 30
	// seconds, and again later. The reason is "" when there is progress again or the part ends.
	// Calls for one part are serial. It must not block. Nil: not called.
	Stalled func(part, reason string)
	// BringForward is called for a table that is replaced as a whole, after its last file was
	// loaded. The clock is that of the loaded rows. It applies later changes of the stream to
	// the sealed load, and returns the position up to which the rows have every change; zero if
	// there is none. done is called when the load has ended; it is nil if err is not. Nil: not
	// called.
	BringForward func(
		ctx context.Context, t *schema.Table, clock cdc.Timestamp, load sink.Advancer,
	) (applied cdc.Position, done func(), err error)

	Options
}

// Options are the options of an import.
type Options struct {
	// Only are the tables to import; none: all.
	Only []string
	// CompanyIDs and LocationIDs select the rows of these companies or locations. Other rows
	// stay.
	CompanyIDs, LocationIDs []string
	// TimeOffset selects rows by time; zero: all. If it is set, rows that the snapshot lacks
	// stay.
	TimeOffset time.Time
	// SchemaOnly creates the tables and records the current time as that of their snapshot.
	SchemaOnly bool
	// ValidateOnly ends after the destination has passed its probe and HQ has accepted the key.
	ValidateOnly bool
	// DryRun ends with the plan. It changes nothing, so it does not probe the destination, and
	// it only reads the state.
	DryRun bool
	// NoDelete keeps rows that the snapshot lacks.
	NoDelete bool
	// OwnTables refuses tables that have rows and that eds neither created nor imported before.
	// Without it, the operator has agreed to replace them.
	OwnTables bool
	// AllowEmpty allows a snapshot without rows to empty a table. Otherwise the table is kept.
	AllowEmpty bool
	// Strict fails a table if a row cannot be loaded. The table keeps its rows. Otherwise the
	// row becomes a dead letter, and the table gets the others.
	Strict bool
	// NoCleanup keeps the downloaded files.
	NoCleanup bool
	// JobID is an existing export to load.
	JobID string
	// Dir is a directory whose export files are loaded. The import downloads nothing, and does
	// not change the directory.
	Dir string
	// DownloadDir is a directory into which files are downloaded. They are kept, and resumed by
	// a later run. "": a directory in the data directory.
	DownloadDir string
	// Parallel is the number of tables that are loaded at once; 0: 4.
	Parallel int
}

// Plan describes an import before it begins.
type Plan struct {
	Job     string    // "" if the export is not started yet
	Dir     string    // directory of the files; "" if it is not known yet
	Resumed bool      // whether it resumes an interrupted import
	Began   time.Time // when the resumed import, or this one, began
	Mode    sink.LoadMode
	Schema  bool        // whether it creates tables and loads nothing
	Tables  []PlanTable // sorted by name
}

// PlanTable is a table of a plan.
type PlanTable struct {
	Table  string
	Done   bool  // by the resumed import
	Absent bool  // the export does not have it; it is not changed
	Files  int   // -1 if it is not known yet
	Bytes  int64 // size of the downloaded files
}

// Report is the result of an import.
type Report struct {
	Plan    Plan
	Tables  []TableReport // sorted by name
	Rows    int64
	Refused int           // refused rows of tables that are in place
	Bytes   int64         // of files, compressed
	Elapsed time.Duration // since the confirmation; 0 if nothing was begun
	Dir     string        // directory of the kept files; "" if files were not kept
}

// TableReport is the result of the import of one table.
type TableReport struct {
	Table string
	// Rows is the number of rows in place. If the destination keeps events, it is the number
	// that this and earlier runs of the import have loaded, without those of a file that was
	// committed just when an earlier run was killed.
	Rows    int64
	Refused int // rows that could not be loaded, and are dead letters
	Bytes   int64
	Files   int
	Clock   cdc.Timestamp // of the snapshot; zero if Err is set
	Earlier bool          // an earlier run has done it
	Absent  bool          // the export does not have it; it is not changed
	Kept    bool          // the export has no rows of it, so it is not changed; Err says so
	Final   bool          // another run would not change the result
	Err     error
}

// Count returns n with its noun, in the singular or plural.
func Count[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// RefusedError says that rows could not be loaded and are dead letters.
type RefusedError struct{ Rows int }

func (e RefusedError) Error() string {
	return Count(e.Rows, "row", "rows") + " could not be loaded; the tables have all others; see: eds dlq list"
}

// TablesError contains the tables that were not imported. The others were.
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

// Final reports whether another run would import none of them.
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

// ProbeError is a failed probe of the destination.
type ProbeError struct{ Err error }

func (e *ProbeError) Error() string { return "test the destination: " + e.Err.Error() }
func (e *ProbeError) Unwrap() error { return e.Err }

// DirError says that a directory of the options cannot be used for its purpose.
type DirError struct {
	Dir     string
	Problem string
}

func (e *DirError) Error() string { return fmt.Sprintf("directory %s: %s", e.Dir, e.Problem) }

// Run imports a snapshot. It first reads the directories of the options, probes the destination, and
// checks the key with HQ. If a table cannot be imported, Run imports the others and returns a
// *TablesError. After any error, and after a kill, each live table is complete, with its old or its
// new rows. Another Run with the same configuration continues with the first file that is not loaded.
func Run(ctx context.Context, c Config) (Report, error) {
	r := newImportRun(c)
	report, err := r.do(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the import was interrupted; run it again to continue: %w", context.Cause(ctx))
	}
	if !r.began.IsZero() {
		report.Elapsed = time.Since(r.began)
	}
	return report, err
}

func (r *importRun) do(ctx context.Context) (Report, error) {
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
	r.fillReport(&report)
	return report, err
}

// confirm asks for confirmation of the plan. If it returns nil, the import begins.
func (r *importRun) confirm(p Plan) error {
	if r.cfg.Confirm != nil {
		if err := r.cfg.Confirm(p); err != nil {
			return err
		}
	}
	r.began = time.Now()
	return nil
}

// schemaOnly creates the tables. If the destination already holds a snapshot of a table, the
// snapshot keeps its time, because the changes after it are still to be applied.
func (r *importRun) schemaOnly(ctx context.Context) (Report, error) {
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
			s = state.Snapshot{
				Table: table, Clock: state.Clock{Timestamp: clock}, ImportedAt: time.Now().UTC(), Whole: len(r.cfg.Only) == 0,
			}
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
