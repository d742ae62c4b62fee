package sink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Recorder is a Checkpointer whose destination records its identity, its snapshots, the
// states of its tables, and who writes to it.
type Recorder interface {
	Checkpointer
	// Records reads the records. It makes their tables, but writes nothing into them.
	Records(ctx context.Context) (Records, error)
	// Begin takes the checkpoint over for this process, in one transaction, and returns
	// the epoch that it writes with from now on. It fails with a *ReopenError if the
	// records are not as Records returned them last.
	Begin(ctx context.Context, b Beginning) (epoch int64, err error)
	// Check makes sure that the checkpoint is still as this process left it, and
	// shows other processes that this one is alive. It is called while nothing is
	// applied. Its errors are those of Apply.
	Check(ctx context.Context) error
	// AwaitWriters returns a *WriterError if another process writes to the
	// destination: one that moves a checkpoint while it is watched. Processes that
	// follow other companies only do not count, nor does this one or one with Env.Epoch,
	// nor, unless own is set, any of Env.Consumer. An import, which has no consumer, counts
	// all others.
	AwaitWriters(ctx context.Context, own bool) error
	// FinishImport marks the snapshots of the imported tables that have the given scope,
	// and are not merged, as Whole. It forgets those of tables that are not in source,
	// which have left it.
	FinishImport(ctx context.Context, scope Scope, imported, source []string) error
	// ApplyTables is Apply that also records states of tables, in the same transaction. A
	// state of OK whose Applied is at or below the checkpoint deletes the record.
	ApplyTables(ctx context.Context, b *change.Batch, states []TableState) error
	// Advance applies changes of the tables of states, and records the states, in one
	// transaction that leaves the checkpoint's position alone. Batch b has no changes
	// of other tables. If every state's Applied is recorded already, it does nothing.
	Advance(ctx context.Context, b *change.Batch, states []TableState) error
}

// CheckEvery is how often Check is called.
const CheckEvery = 20 * time.Second

// Records is what a destination says about itself.
type Records struct {
	// ID identifies the destination wherever it is moved to or restored; "" if
	// nothing was written to it yet.
	ID string
	// Checkpoint is what has been applied of the changes that Env.Filter selects; nil
	// if nothing was begun.
	Checkpoint *Recorded
	// Snapshots are those of all tables.
	Snapshots []Snapshot
	// Tables are the states of those that are not as the checkpoint says.
	Tables []TableState
	// Unavailable says why the destination cannot keep records: the error names the
	// missing permission. The checkpoint is then all that there is.
	Unavailable error
}

// Recorded is a recorded checkpoint.
type Recorded struct {
	// Position is the last applied message, or the one before the first that is to be
	// read. Its Stored is 0 if the time is not known.
	Position cdc.Position
	// Followed is the generation up to which the stream was read from snapshots on.
	Followed int64
	// Epoch is the writer's, 0 if it is not known. Later writers have higher ones.
	Epoch int64
	// Added are subjects of Env.Filter that were added since the last whole import.
	Added []string
}

// Snapshot is the record of what a load put into a table.
type Snapshot struct {
	Table string
	Scope Scope
	// Merged reports whether rows that the snapshot lacks were kept.
	Merged bool
	// Whole reports whether the import loaded every table of the source.
	Whole bool
	// Clock is the source's time of the snapshot, which holds every change of its
	// scope up to and including it.
	Clock    cdc.Timestamp
	Rows     int64
	Job      string
	Imported time.Time
	// Generation numbers the snapshots of a destination in the order of their loads.
	Generation int64
	// Object identifies the table in the database that the rows were put into; "" if that
	// has no such ids, or they are not known.
	Object string
	// Applied is the position up to which the loaded rows have every change of the
	// stream as well. Zero: up to Clock only.
	Applied cdc.Position
}

// Complete reports whether the snapshot made up the whole table.
func (s *Snapshot) Complete() bool { return !s.Merged && s.Scope.All() }

// Replaces reports whether the snapshot made up all rows of the company in the table.
func (s *Snapshot) Replaces(company string) bool { return !s.Merged && s.Scope.Has(company) }

// Scope says which rows of a table a snapshot has. The zero Scope is all of them.
type Scope struct {
	Companies []string  `json:"companies,omitempty"` // ids, sorted; nil: all
	Locations []string  `json:"locations,omitempty"` // ids, sorted; nil: all
	Since     time.Time `json:"since,omitzero"`      // rows changed since then; zero: all
}

// All reports whether every row is in the scope.
func (s *Scope) All() bool { return s.Companies == nil && s.Locations == nil && s.Since.IsZero() }

// Has reports whether every row of the company is in the scope.
func (s *Scope) Has(company string) bool {
	return s.Locations == nil && s.Since.IsZero() && (s.Companies == nil || slices.Contains(s.Companies, company))
}

// ScopeColumn is a column that tells which rows are in a scope.
type ScopeColumn struct {
	Slot   int      // in the schema.Table
	Values []string // of the rows in the scope
}

// Columns returns the columns that tell which rows of t are in the scope: a row is in it
// if each of them has one of its values. It returns false if t lacks such a column.
func (s *Scope) Columns(t *schema.Table) (columns []ScopeColumn, ok bool) {
	if !s.Since.IsZero() {
		return nil, false
	}
	company := t.Slot([]byte("companyId"))
	if company < 0 && t.Name == "company" && t.Keys == 1 {
		company = 0
	}
	for _, limit := range []ScopeColumn{{company, s.Companies}, {t.Slot([]byte("locationId")), s.Locations}} {
		switch {
		case limit.Values == nil:
		case limit.Slot < 0:
			return nil, false
		default:
			columns = append(columns, limit)
		}
	}
	return columns, true
}

// Beginning is what Begin writes.
type Beginning struct {
	Position cdc.Position
	// Snapshots are those that other records than the destination's know of.
	Snapshots []Snapshot
	// Tables are the states of tables from now on. Others are forgotten.
	Tables []TableState
}

// SnapshotLoad is a Load that records what it puts in place.
type SnapshotLoad interface {
	// Record has Finish record s, in the transaction that puts the rows in place. The
	// load knows Rows and Generation. It returns false if the destination keeps no
	// records.
	Record(s Snapshot) bool
}

// Writer identifies a process that writes to a destination.
type Writer struct {
	Host, Version string
	Since         time.Time
}

// Same reports whether o is the same process as w, which is known.
func (w Writer) Same(o Writer) bool {
	return !w.Since.IsZero() && w.Host == o.Host && w.Version == o.Version && w.Since.Equal(o.Since)
}

func (w Writer) String() string {
	if w.Host == "" {
		return "a server of an earlier version"
	}
	return fmt.Sprintf("eds %s on host %s, since %s", w.Version, w.Host, w.Since.UTC().Format(time.RFC3339))
}

// WriterError says that another process writes to the destination, which this one has
// to leave alone.
type WriterError struct {
	Writer   Writer
	Consumer string // of the other process
}

func (e *WriterError) Error() string {
	return fmt.Sprintf("another server writes to the destination as consumer %q: %s; stop one of them", e.Consumer, e.Writer)
}

// ReopenError says that the destination is not as this process left it, as after a
// restore, a fail-over or an import. Reading has to begin again from its records.
type ReopenError struct {
	Reason   string
	Imported bool // an import is the reason, so nothing is wrong
}

func (e *ReopenError) Error() string {
	return e.Reason + "; reading again from what the destination records"
}
