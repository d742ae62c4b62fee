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
	// Records reads the records. It creates their tables, but writes nothing into them.
	Records(ctx context.Context) (Records, error)
	// Begin takes the checkpoint over for this process, in one transaction, and returns
	// the epoch of its writes from now on. It fails with a *ReopenError if the records have
	// changed since Records returned them.
	Begin(ctx context.Context, b Beginning) (epoch int64, err error)
	// Check checks that the checkpoint is unchanged since the last write of this process,
	// and shows other processes that this one is alive. It is called while nothing is
	// applied. Its errors are those of Apply.
	Check(ctx context.Context) error
	// AwaitWriters watches the checkpoints for a while, and returns a *WriterError if
	// another process moves one. It ignores this process, processes with Env.Epoch, those
	// that follow other companies only, and, unless own is set, those of Env.Consumer. An
	// import has no consumer and ignores none of those.
	AwaitWriters(ctx context.Context, own bool) error
	// FinishImport marks the snapshots of the imported tables that have the given scope, and
	// are not merged, as Whole. It deletes the snapshots of tables that are not in source.
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

// Records are the records that a destination keeps about itself.
type Records struct {
	// ID identifies the destination, also after a move or a restore; "" if nothing was
	// written to it yet.
	ID string
	// Checkpoint is the checkpoint of the changes that Env.Filter selects; nil before Begin.
	Checkpoint *Recorded
	// Snapshots are those of all tables.
	Snapshots []Snapshot
	// Tables are the states of tables that differ from the checkpoint.
	Tables []TableState
	// Unavailable says why the destination cannot keep records, and names the missing
	// permission. It then has a checkpoint only. Nil: it keeps records.
	Unavailable error
}

// Recorded is a recorded checkpoint.
type Recorded struct {
	// Position is the last applied message, or the one before the first to read. Its
	// Stored is 0 if the time is unknown.
	Position cdc.Position
	// Followed is the generation of the latest snapshot from which the stream was read on.
	Followed int64
	// Epoch is the writer's, 0 if it is unknown. Later writers have higher ones.
	Epoch int64
	// Added are subjects of Env.Filter that were added since the last whole import.
	Added []string
}

// Snapshot is the record of a load that was put into a table.
type Snapshot struct {
	Table string
	Scope Scope
	// Merged reports whether rows that the snapshot lacks were kept.
	Merged bool
	// Whole reports whether the import loaded every table of the source.
	Whole bool
	// Clock is the source's time of the snapshot: it has every change of its scope up to and
	// including then.
	Clock    cdc.Timestamp
	Rows     int64
	Job      string
	Imported time.Time
	// Generation numbers the snapshots of a destination in the order of their loads.
	Generation int64
	// Object is the database's id of the table with the rows; "" if there is none, or it is
	// unknown.
	Object string
	// Applied is the position up to which the loaded rows have every change of the stream.
	// Zero: they have those up to Clock only.
	Applied cdc.Position
}

// Complete reports whether the snapshot replaced the whole table.
func (s *Snapshot) Complete() bool { return !s.Merged && s.Scope.All() }

// Replaces reports whether the snapshot replaced all rows of the company in the table.
func (s *Snapshot) Replaces(company string) bool { return !s.Merged && s.Scope.Has(company) }

// Scope selects the rows of a table in a snapshot. The zero Scope selects all.
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

// ScopeColumn is a column that decides which rows are in a scope.
type ScopeColumn struct {
	Slot   int      // in the schema.Table
	Values []string // of the rows in the scope
}

// Columns returns the columns that decide which rows of t are in the scope: a row is in it if
// each column has one of its Values. It returns false if t lacks such a column.
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

// Beginning is the state that Begin writes.
type Beginning struct {
	Position cdc.Position
	// Snapshots are snapshots that only the data directory has recorded.
	Snapshots []Snapshot
	// Tables are the states of tables from now on. Begin deletes all others.
	Tables []TableState
}

// SnapshotLoad is a Load that records its snapshot.
type SnapshotLoad interface {
	// Record lets Finish record s, in the transaction that puts the rows in place. The
	// load sets Rows and Generation. Record returns false if the destination keeps no
	// records.
	Record(s Snapshot) bool
}

// Writer identifies a process that writes to a destination.
type Writer struct {
	Host, Version string
	Since         time.Time
}

// Same reports whether w is known, and o is the same process.
func (w Writer) Same(o Writer) bool {
	return !w.Since.IsZero() && w.Host == o.Host && w.Version == o.Version && w.Since.Equal(o.Since)
}

func (w Writer) String() string {
	if w.Host == "" {
		return "a server of an earlier version"
	}
	return fmt.Sprintf("eds %s on host %s, since %s", w.Version, w.Host, w.Since.UTC().Format(time.RFC3339))
}

// WriterError says that another process writes to the destination, so this one must not.
type WriterError struct {
	Writer   Writer
	Consumer string // of the other process
}

func (e *WriterError) Error() string {
	return fmt.Sprintf("another server writes to the destination as consumer %q: %s; stop one of them", e.Consumer, e.Writer)
}

// ReopenError says that the destination has changed since the last write of this process, as
// by a restore, a fail-over or an import. Reading must begin again from its records.
type ReopenError struct {
	Reason   string
	Imported bool // an import is the reason, so nothing is wrong
}

func (e *ReopenError) Error() string {
	return e.Reason + "; reading again from what the destination records"
}
