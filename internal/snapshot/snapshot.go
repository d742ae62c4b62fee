// Package snapshot copies a snapshot of the source into a destination: it has
// HQ export the tables, downloads the files, and loads their rows beside the
// live tables, which it replaces at the end. It can be ended at any moment and
// goes on where it was.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
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

// Config is what an import needs.
type Config struct {
	HQ      Exporter
	Schemas Schemas
	Sink    sink.Sink
	State   *state.Dir
	// Destination is the sink's masked URL. An import into another one is
	// another import.
	Destination string
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
	// Patience is how long HQ, downloads and the destination are waited for
	// while they bring nothing; 0 means 5 minutes.
	Patience time.Duration
	// Poll and Retry time the questions for an export's state and attempts
	// after errors. The zero values are 1 to 15 s, and 0.1 to 30 s.
	Poll, Retry fault.Backoff

	Options
}

// Options are a person's wishes.
type Options struct {
	// Only are the tables to import; none means all.
	Only                    []string
	CompanyIDs, LocationIDs []string
	// TimeOffset asks for a part of the rows, by time; zero is all. Rows that
	// the snapshot lacks then stay.
	TimeOffset time.Time
	// SchemaOnly makes the tables and records the present as their snapshot.
	SchemaOnly bool
	// ValidateOnly ends after the destination was probed and the key accepted.
	ValidateOnly bool
	// DryRun ends with the plan.
	DryRun bool
	// NoDelete keeps rows that the snapshot lacks.
	NoDelete bool
	// NoCleanup keeps the downloaded files.
	NoCleanup bool
	// JobID is an export to load from, in the place of a new one.
	JobID string
	// Dir is where downloads go, and where those of an earlier run are found;
	// "" means a place in the data directory. Nothing is removed from it.
	Dir string
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
	Table string
	Done  bool  // by the import that is resumed
	Files int   // -1 where not known yet
	Bytes int64 // of the files that were downloaded already
}

// Report says what an import did.
type Report struct {
	Plan    Plan
	Tables  []TableReport // by name
	Rows    int64
	Bytes   int64 // of files, compressed
	Elapsed time.Duration
	Dir     string // where files were kept; "" where they were not
}

// TableReport says what happened to one table.
type TableReport struct {
	Table string
	// Rows counts what this and earlier runs of the import loaded. Of a file
	// that was committed just when an earlier run was killed it is not known.
	Rows    int64
	Bytes   int64
	Files   int
	Clock   cdc.Timestamp // of the snapshot; zero where Err is set
	Earlier bool          // done by an earlier run
	Absent  bool          // the export does not have it; it stays as it is
	Err     error
}

// TablesError says which tables were not imported. The others were.
type TablesError struct {
	Failed []TableReport
	Of     int // tables in all
}

func (e *TablesError) Error() string {
	text := fmt.Sprintf("%d of %d tables were not imported:", len(e.Failed), e.Of)
	for i, t := range e.Failed {
		if i > 0 {
			text += ";"
		}
		text += fmt.Sprintf(" %s: %v", t.Table, t.Err)
	}
	return text
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

// Run imports a snapshot. First of all it probes the destination and has HQ
// accept the key. A table that can't be imported does not keep the others from
// it; the error is then a *TablesError. After any error, and after the program
// was killed, live tables are whole, old or new, and another Run with the same
// configuration goes on at the first file that was not loaded.
func Run(ctx context.Context, c Config) (Report, error) {
	began := time.Now()
	r := newRun(c)
	report, err := r.do(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the import was interrupted; run it again to go on: %w", context.Cause(ctx))
	}
	report.Elapsed = time.Since(began)
	return report, err
}

func (r *run) do(ctx context.Context) (Report, error) {
	if err := r.check(ctx); err != nil || r.cfg.ValidateOnly {
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

func (r *run) confirm(p Plan) error {
	if r.cfg.Confirm == nil {
		return nil
	}
	return r.cfg.Confirm(p)
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
	var err error
	if r.refused, err = r.migrate(ctx, r.wanted); err != nil {
		return report, err
	}
	known, err := r.cfg.State.Snapshots()
	if err != nil {
		return report, err
	}
	var fresh []state.Snapshot
	failed := &TablesError{Of: len(r.wanted)}
	for _, table := range r.wanted {
		if err := r.refused[table]; err != nil {
			failed.Failed = append(failed.Failed, TableReport{Table: table, Err: err})
			report.Tables = append(report.Tables, TableReport{Table: table, Err: err})
			continue
		}
		s, ok := known[table]
		if !ok || s.Destination != r.cfg.Destination {
			s = state.Snapshot{Table: table, Destination: r.cfg.Destination, Clock: state.Clock{Timestamp: clock}, ImportedAt: time.Now().UTC()}
			fresh = append(fresh, s)
		}
		report.Tables = append(report.Tables, TableReport{Table: table, Clock: s.Clock.Timestamp, Earlier: ok})
	}
	if err := r.cfg.State.RecordSnapshots(fresh...); err != nil {
		return report, err
	}
	if len(failed.Failed) > 0 {
		return report, failed
	}
	return report, nil
}

// errNoLoader says that a destination takes no snapshots.
var errNoLoader = errors.New("this destination can't take a snapshot; import the schema only, with --schema-only")
