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

// Recorder is a Checkpointer whose destination stores records about itself: its identity, its
// snapshots, the states of its tables, and the processes that write to it.
type Recorder interface {
	Checkpointer
	// Records reads the destination's records. If tables for the records are missing, it creates
	// them without rows.
	Records(ctx context.Context) (Records, error)
	// Begin makes this process the owner of the checkpoint, in one transaction. It returns the
	// epoch that this process uses for all later writes. If the records have changed since Records
	// returned them, Begin fails with a *ReopenError.
	Begin(ctx context.Context, b Beginning) (epoch int64, err error)
	// Check returns an error if the checkpoint has changed since the last write of this process.
	// It also shows other processes that this process is alive. Check is called while no batch is
	// being applied. Its errors are those of Apply.
	Check(ctx context.Context) error
	// AwaitWriters watches the checkpoints for a while. It returns a *WriterError if another
	// process moves one of them. It ignores this process, processes with the epoch Env.Epoch, and
	// processes that follow only other companies. If the parameter own is false, it also ignores
	// processes with the consumer Env.Consumer. An import has no consumer, so for an import no
	// process has that consumer.
	AwaitWriters(ctx context.Context, own bool) error
	// FinishImport marks a snapshot of an imported table as Whole if the snapshot has the given
	// scope and is not merged. It deletes the snapshots of tables that are not in source.
	FinishImport(ctx context.Context, scope Scope, imported, source []string) error
	// ApplyTables is like Apply, but also records the given states of tables, in the same
	// transaction. If a state is OK and its Applied is not above the checkpoint, ApplyTables
	// deletes the table's record instead.
	ApplyTables(ctx context.Context, b *change.Batch, states []TableState) error
	// Advance applies the changes in b and records the given states, in one transaction. All of
	// the changes belong to the tables of these states. The checkpoint's position does not change.
	// If the Applied of every state is already recorded, Advance does nothing.
	Advance(ctx context.Context, b *change.Batch, states []TableState) error
}

// CheckEvery is the interval between calls of Check.
const CheckEvery = 20 * time.Second

// Records are the records that a destination keeps about itself.
type Records struct {
	// ID identifies the destination, even after it was moved or restored. It is "" if eds has not
	// written to the destination yet.
	ID string
	// Checkpoint is the checkpoint for the changes that Env.Filter selects. It is nil before the
	// first Begin.
	Checkpoint *Recorded
	// Snapshots are the snapshots of all tables.
	Snapshots []LoadRecord
	// Tables are the states of all tables except those that are OK and not ahead of the
	// checkpoint.
	Tables []TableState
	// Unavailable says why the destination cannot keep records, and names the missing permission.
	// The destination then has only a checkpoint. If Unavailable is nil, the destination keeps
	// records.
	Unavailable error
}

// Recorded is a checkpoint that the destination has recorded.
type Recorded struct {
	// Position is the position of the last applied message. If no message was applied yet, it is
	// the position before the first message to read. Its Stored is 0 if the time is unknown.
	Position cdc.Position
	// Followed is the generation of the latest snapshot from which a server has continued with
	// the stream.
	Followed int64
	// Epoch is the epoch of the process that wrote the checkpoint, or 0 if unknown. Later
	// processes have higher epochs.
	Epoch int64
	// Added are the subjects that were added to Env.Filter since the last whole import.
	Added []string
}

// LoadRecord records that a load's rows were put into a table.
type LoadRecord struct {
	Table string
	Scope Scope
	// Merged says that the load kept existing rows of the table that were not in the snapshot.
	Merged bool
	// Whole says that the import loaded every table of the source.
	Whole bool
	// Clock is the source's time at which the snapshot was taken. The snapshot includes every
	// change of its scope up to and including this time.
	Clock    cdc.Timestamp
	Rows     int64
	Job      string
	Imported time.Time
	// Generation numbers the snapshots of a destination in the order of their loads: a later load
	// has a higher number.
	Generation int64
	// Object is the database's id of the table that received the rows. It is "" if the table has
	// no id, or the id is unknown.
	Object string
	// Applied is the position up to which the loaded rows include every change of the stream. If
	// Applied is zero, the rows include only the changes up to Clock.
	Applied cdc.Position
}

// Complete reports whether the snapshot replaced the whole table.
func (s *LoadRecord) Complete() bool { return !s.Merged && s.Scope.All() }

// Replaces reports whether the snapshot replaced all rows of the company in the table.
func (s *LoadRecord) Replaces(company string) bool { return !s.Merged && s.Scope.Has(company) }

// Scope selects the rows of a table that a snapshot includes. The zero Scope selects all rows.
type Scope struct {
	Companies []string  `json:"companies,omitempty"` // sorted ids; nil for all
	Locations []string  `json:"locations,omitempty"` // sorted ids; nil for all
	Since     time.Time `json:"since,omitzero"`      // only rows changed since this time; zero for all
}

// All reports whether every row is in the scope.
func (s *Scope) All() bool { return s.Companies == nil && s.Locations == nil && s.Since.IsZero() }

// Has reports whether every row of the company is in the scope.
func (s *Scope) Has(company string) bool {
	return s.Locations == nil && s.Since.IsZero() && (s.Companies == nil || slices.Contains(s.Companies, company))
}

// ScopeColumn is a column that decides which rows are in a scope.
type ScopeColumn struct {
	Slot   int      // of the column in the schema.Table
	Values []string // the column's values in the rows of the scope
}

// Columns returns the columns that decide which rows of t are in the scope: a row is in the scope
// if each of these columns has one of its Values. The result ok is false if t lacks such a column,
// or if the scope depends on the time of a change.
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

// Beginning is the state that Begin writes to the destination.
type Beginning struct {
	Position cdc.Position
	// Snapshots are snapshots that the data directory has recorded and the destination has not.
	Snapshots []LoadRecord
	// Tables are the new states of tables. Begin deletes all other states.
	Tables []TableState
}

// SnapshotLoad is a Load that can record its snapshot at the destination.
type SnapshotLoad interface {
	// Record asks Finish to store s in the records, in the same transaction that puts the rows in
	// place. The load sets s.Rows and s.Generation. Record returns false if the destination keeps
	// no records.
	Record(s LoadRecord) bool
}

// Writer identifies a process that writes to a destination.
type Writer struct {
	Host, Version string
	Since         time.Time
}

// Same reports whether w and o are the same process. It returns false if w is unknown.
func (w Writer) Same(o Writer) bool {
	return !w.Since.IsZero() && w.Host == o.Host && w.Version == o.Version && w.Since.Equal(o.Since)
}

func (w Writer) String() string {
	if w.Host == "" {
		return "a server of an earlier version"
	}
	return fmt.Sprintf("eds %s on host %s, since %s", w.Version, w.Host, w.Since.UTC().Format(time.RFC3339))
}

// WriterError says that another process writes to the destination, so this process must not.
type WriterError struct {
	Writer   Writer
	Consumer string // the other process's consumer
}

func (e *WriterError) Error() string {
	return fmt.Sprintf("another server writes to the destination as consumer %q: %s; stop one of them", e.Consumer, e.Writer)
}

// ReopenError says that the destination has changed since the last write of this process, for
// example by a restore, a fail-over or an import. The caller must read the records and the stream
// again.
type ReopenError struct {
	Reason   string
	Imported bool // an import is the reason, which is normal
}

func (e *ReopenError) Error() string {
	return e.Reason + "; reading again from what the destination records"
}
