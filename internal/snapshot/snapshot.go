// Package snapshot copies a snapshot of the source into a destination. It requests an export of the
// tables from HQ, downloads the files, and loads their rows into staging tables. At the end, these
// rows replace the rows of the live tables. An import can be interrupted at any time, and the next
// run resumes it.
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

// Exporter is the part of HQ's API that exports snapshots.
type Exporter interface {
	StartExport(ctx context.Context, r hq.ExportRequest) (job string, err error)
	ExportStatus(ctx context.Context, job string) (hq.Export, error)
}

// Schemas provides the schemas of the source's tables. It requests them from HQ with the API key.
type Schemas interface {
	Latest(ctx context.Context) (map[string]*schema.Table, error)
}

// Sink is the destination of an import, with the contract of sink.Sink. If a sink implements the
// optional interfaces of package sink, the import uses them.
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
	// Dead receives rows that cannot be loaded. If Dead is nil, such a row fails its table, as with
	// Strict.
	Dead *dlq.Queue
	// Destination identifies the sink. A run resumes an interrupted import only if both have the
	// same destination.
	Destination state.DestinationKey
	// ID is the destination's id. It is used only if the destination itself records no id.
	ID string
	// HTTP is the client that downloads files. If nil, a client with the proxy settings of the
	// environment is used.
	HTTP    *http.Client
	Logger  *slog.Logger
	Observe Observer // called with the progress; may be nil
	// Confirm is called after all checks and before any change. If Confirm returns an error, the
	// import ends with that error. If Confirm is nil, no confirmation is needed.
	Confirm func(Plan) error
	// Present returns the current time of HQ's clock. If nil, time.Now is used.
	Present func() time.Time
	// Patience is how long requests to HQ, downloads, and calls to the destination are retried
	// while they fail without progress. The default is 5 minutes.
	Patience time.Duration
	// Poll is the wait between polls of an export, by default 1 to 15 s. Retry is the wait after a
	// failure, by default 0.1 to 30 s.
	Poll, Retry retry.Backoff
	// Stalled is called if a part of the import, such as one table, makes no progress for 30
	// seconds, and again later at growing intervals. The reason is "" when the part makes progress
	// again or ends. Calls for one part are serial. Stalled must not block. It may be nil.
	Stalled func(part, reason string)
	// BringForward is called for a table whose rows are replaced completely, after its last file
	// was loaded. The argument clock is the time of the loaded rows. BringForward applies later
	// changes of the stream to load, which is sealed. It returns the position up to which the rows
	// have every change, or zero if the rows have only the changes up to clock. The import calls
	// the result done when the load has ended. If the result err is not nil, done is nil.
	// BringForward may be nil.
	BringForward func(
		ctx context.Context, t *schema.Table, clock cdc.Timestamp, load sink.Advancer,
	) (applied cdc.Position, done func(), err error)

	Options
}

// Options are the options that the operator or HQ chooses for an import.
type Options struct {
	// Only are the names of the tables to import. If Only is empty, all tables are imported.
	Only []string
	// CompanyIDs and LocationIDs restrict the import to the rows of these companies and locations.
	// The destination keeps all other rows.
	CompanyIDs, LocationIDs []string
	// TimeOffset restricts the import to rows since that time. The zero time selects all rows. If
	// TimeOffset is set, the destination keeps rows that the snapshot lacks.
	TimeOffset time.Time
	// SchemaOnly creates the tables without rows, and records the current time as the time of their
	// snapshot.
	SchemaOnly bool
	// ValidateOnly ends the import after the destination has passed its probe and HQ has accepted
	// the API key.
	ValidateOnly bool
	// DryRun ends the import after the plan is made. It changes nothing, so it does not probe the
	// destination, and only reads the data directory.
	DryRun bool
	// NoDelete keeps rows of the destination that the snapshot lacks.
	NoDelete bool
	// OwnTables refuses tables that have rows and that eds has neither created nor imported before.
	// Without OwnTables, the operator must have agreed to replace such tables.
	OwnTables bool
	// AllowEmpty allows a snapshot without rows to empty a table. Otherwise, the table keeps its
	// rows.
	AllowEmpty bool
	// Strict fails a table if any of its rows cannot be loaded, and the table keeps its old rows.
	// Without Strict, such a row becomes a dead letter, and all other rows are imported.
	Strict bool
	// NoCleanup keeps the downloaded files.
	NoCleanup bool
	// JobID is the id of an existing export to import.
	JobID string
	// Dir is the path of a directory with export files to import. The import then downloads
	// nothing, and does not change the directory.
	Dir string
	// DownloadDir is the path of the directory into which files are downloaded. The files are kept,
	// and a later run continues the downloads. If "", files are downloaded into the data directory
	// and removed after loading.
	DownloadDir string
	// Parallel is the number of tables that are loaded at once. The default is 4.
	Parallel int
}

// Plan describes an import before it changes anything.
type Plan struct {
	Job     string    // id of the export; "" if it was not started yet
	Dir     string    // directory of the files; "" if it is unknown yet
	Resumed bool      // whether the import resumes an interrupted one
	Began   time.Time // start of the resumed import, else of this one
	Mode    sink.LoadMode
	Schema  bool        // whether the import only creates the tables
	Tables  []PlanTable // sorted by name
}

// PlanTable describes one table in a Plan.
type PlanTable struct {
	Table  string
	Done   bool  // whether the resumed import has finished the table
	Absent bool  // whether the export lacks the table, which is then not changed
	Files  int   // number of export files; -1 if unknown yet
	Bytes  int64 // size of the already downloaded files
}

// Report is the result of an import.
type Report struct {
	Plan    Plan
	Tables  []TableReport // sorted by name
	Rows    int64
	Refused int           // refused rows of tables that are in place
	Bytes   int64         // compressed size of the files
	Elapsed time.Duration // time since the confirmation; 0 if there was none
	Dir     string        // directory of the kept files; "" if files were not kept
}

// TableReport is the result of the import of one table.
type TableReport struct {
	Table string
	// Rows is the number of rows in place. If the destination keeps events, Rows is the number of
	// rows that this run and earlier runs of the import have loaded. If an earlier run was killed
	// just after a file was committed, that number omits the rows of the file.
	Rows    int64
	Refused int // number of rows that became dead letters
	Bytes   int64
	Files   int
	Clock   cdc.Timestamp // time of the snapshot; zero if Err is set
	Earlier bool          // whether an earlier run has imported the table
	Absent  bool          // whether the export lacks the table, which was not changed
	Kept    bool          // whether the table was not changed because the export has no rows of it; Err is set
	Final   bool          // whether another run would have the same result
	Err     error
}

// Count returns the number n followed by a noun. The noun is the second argument if n is 1, else
// the third argument.
func Count[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// RefusedError reports that rows could not be loaded and became dead letters.
type RefusedError struct{ Rows int }

func (e RefusedError) Error() string {
	return Count(e.Rows, "row", "rows") + " could not be loaded; the tables have all others; see: eds dlq list"
}

// TablesError reports the tables that were not imported. All other tables were imported.
type TablesError struct {
	Failed []TableReport
	Of     int // total number of tables
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

// Final reports whether another run would fail to import the same tables.
func (e *TablesError) Final() bool {
	return !slices.ContainsFunc(e.Failed, func(t TableReport) bool { return !t.Final })
}

// Unwrap returns the errors of the failed tables.
func (e *TablesError) Unwrap() []error {
	all := make([]error, len(e.Failed))
	for i, t := range e.Failed {
		all[i] = t.Err
	}
	return all
}

// ProbeError reports that the destination has not passed its probe.
type ProbeError struct{ Err error }

func (e *ProbeError) Error() string { return "test the destination: " + e.Err.Error() }
func (e *ProbeError) Unwrap() error { return e.Err }

// DirError reports that a directory in the options cannot be used for its purpose.
type DirError struct {
	Dir     string
	Problem string
}

func (e *DirError) Error() string { return fmt.Sprintf("directory %s: %s", e.Dir, e.Problem) }

// Run imports a snapshot. It first reads the directories in the options, probes the destination,
// and checks the API key with HQ. If a table cannot be imported, Run imports all other tables and
// returns a *TablesError. After an error or a kill, each live table is complete: it has either its
// old rows or its new rows. Another Run with the same configuration continues with the first file
// that is not loaded.
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

// confirm asks for confirmation of the plan. If it returns nil, the import starts.
func (r *importRun) confirm(p Plan) error {
	if r.cfg.Confirm != nil {
		if err := r.cfg.Confirm(p); err != nil {
			return err
		}
	}
	r.began = time.Now()
	return nil
}

// schemaOnly creates the tables without importing rows. If the destination already holds a snapshot
// of a table, that snapshot keeps its time, because later changes have yet to be applied.
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
	var fresh []state.ImportRecord
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
			s = state.ImportRecord{
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
