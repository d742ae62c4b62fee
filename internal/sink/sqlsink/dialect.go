// Package sqlsink is the one SQL engine. A database joins it with a Dialect.
//
// The engine owns everything that all databases share: the connection's lifecycle, the catalogue of
// real tables, migration planning, the order of writes within a batch's transaction, the checkpoint
// and its meaning after a lost answer, metadata columns and the version guard, the records of
// snapshot loads, and the reaction to each class of error.
//
// A Dialect contributes the differences: names, types, DDL, reading the catalogue, encoding values,
// and the fastest way to write many rows. It gets rows as raw JSON values and writes them as bound
// or streamed values, never in SQL text. A Dialect decides nothing about order, retries,
// checkpoints or reconnecting: it reports errors and classifies them.
//
// The engine's own tables (checkpoints, snapshots, states, loaded files) are ordinary
// schema.Tables. The same methods create and write them.
package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Dialect is the contribution of one SQL database. Its methods are safe for concurrent use. All but
// Connect are pure.
type Dialect interface {
	// Connect opens one session in the database and namespace (schema) of the destination's URL. It
	// changes nothing there: a namespace or file that does not exist has no tables, and the
	// session's first Exec or Begin creates it. The engine keeps one session for Apply, and opens
	// one more for each concurrent load or read.
	Connect(ctx context.Context) (Conn, error)

	// Name returns the database's name for a table or column that the source calls name. It changes
	// only names that are too long or have characters that the database does not allow. It must be
	// deterministic, and distinct names should stay distinct. Every name in the database comes from
	// Name or from the catalogue.
	Name(name string) string
	// FoldsCase reports whether the database ignores the case of column names.
	FoldsCase() bool

	// DDL returns the statements for one step of a migration. It returns nil if the database needs
	// none, or does not support the step: then the table stays as it is, and values that do not fit
	// are dead-lettered one by one.
	DDL(step Step) []string

	// Classify says what an error of Connect, a Conn or a Tx means. It uses the database's own
	// codes, never the text. The class of a fault.Error in the chain overrides the verdict's, so
	// values that cannot be encoded need no case here. An error of a statement about one table is
	// also a *StatementError.
	Classify(err error) Verdict
}

// Verdict is what an error means to the engine.
type Verdict struct {
	// Class is fault.Refused if the server rejects the credentials, or if eds does not trust the
	// server.
	Class fault.Class
	// RetryAfter is the wait that the server asked for, or 0.
	RetryAfter time.Duration
	// Lost says that the connection is unusable.
	Lost bool
	// Stale says that the catalogue has changed since it was read: a table or column is gone or has
	// another type. The engine reads it again, migrates, and retries once.
	Stale bool
	// Locked says that another session did not release a lock in time. The transaction has no
	// effect.
	Locked bool
}

// StepKind is a kind of migration step.
type StepKind uint8

const (
	// CreateTable creates a table with Columns. The first Keys of them are the primary key, NOT
	// NULL.
	CreateTable StepKind = iota + 1
	// AddColumn adds Columns[0], nullable.
	AddColumn
	// WidenColumn changes the type of Real so that it stores values of To exactly, and all values
	// it has now. If that is impossible, Classify calls the error poison.
	WidenColumn
	// RelaxColumn lets Real be NULL.
	RelaxColumn
)

// Step is one step of a migration. Names in it are the database's own.
type Step struct {
	Kind    StepKind
	Table   string
	Columns []NewColumn
	Keys    int
	Real    *Column
	To      schema.Type
	// Nullable says of WidenColumn that the column may be NULL. The step before may have changed
	// that since Real was read.
	Nullable bool
}

// NewColumn is a column to be created.
type NewColumn struct {
	Name string
	Type schema.Type
	Key  bool
	Meta Meta // not 0: a metadata column of the engine
}

// Table is a real table as the catalogue describes it.
type Table struct {
	Name    string
	Columns []Column
	// Other names the kind of an object that is not a writable table, such as "a view"; else "".
	Other string
	// Key are the names of the primary key's columns; nil if there is none.
	Key []string
	// Checks are the constraints on staged rows besides their types. If they change, the rows are
	// staged again.
	Checks []string
	// Native belongs to the dialect, for example triggers and unique indexes that restrict how rows
	// are written.
	Native any
}

// Column is a real column.
type Column struct {
	Name string
	// Type is the database's own spelling of the type, for statements and messages.
	Type string
	// Holds is the schema type whose values the real type is meant for. The engine widens the
	// column if the source's type needs more. String and the JSON types hold everything. The engine
	// never changes a column with type 0.
	Holds schema.Type
	// Narrow says that the real type stores only some values of Holds, such as VARCHAR(10). The
	// engine widens it to store all of them. A narrow column that holds Enum stores every
	// enumeration, and becomes a String if the source's column is one.
	Narrow   bool
	Nullable bool
	// Filled says that the database sets the column if no value is written: by a default, an
	// identity, or an expression.
	Filled bool
	// Generated columns cannot be written.
	Generated bool
	// Native belongs to the dialect.
	Native any
}

// Meta is a metadata column of the engine.
type Meta uint8

const (
	MetaOp      Meta = iota + 1 // _eds_op: INSERT, UPDATE or DELETE, as text
	MetaVersion                 // _eds_version: the clock as sortable text
	MetaSynced                  // _eds_synced_at: when eds wrote the row
	MetaDeleted                 // _eds_deleted: whether the source has deleted the row
)

// Layout maps the columns of a schema.Table onto those of a real table. It is immutable, and in use
// until one of the two changes. Dialects keep their statements and encoders in Native.
type Layout struct {
	Table *schema.Table
	Real  *Table
	// Columns are the columns to write, each once. The key's come first, in the key's order.
	// Columns that the real table lacks and generated ones are left out.
	Columns []Target
	Keys    int
	// Guard: write or delete a row only if the real row's _eds_version is null or not newer than
	// the change's. Layouts with Guard have a MetaVersion column.
	Guard bool
	// Soft: a delete sets the metadata columns, with _eds_deleted true, and keeps the rest of the
	// row. An upsert sets _eds_deleted to false. Read skips deleted rows.
	Soft bool
	// Scope limits which rows of a live table a load counts and replaces: those with one of the
	// values in each of the columns. Nil: all rows.
	Scope []Within
	// Native belongs to the dialect, which sets it at the first use of the layout. Loads have
	// layouts of their own, so no two goroutines write it.
	Native any
}

// ReadRow fills row with the values of the layout's columns, and reuses its memory. appendValue
// appends the raw JSON value of a column, given by its index in Columns, and nothing for NULL.
func (l *Layout) ReadRow(row *change.Row, appendValue func(dst []byte, column int) ([]byte, error)) error {
	row.Image = row.Image[:0]
	row.Spans = slices.Grow(row.Spans[:0], len(l.Table.Columns))[:len(l.Table.Columns)]
	clear(row.Spans)
	for i, c := range l.Columns {
		if c.Slot < 0 {
			continue
		}
		start := len(row.Image)
		var err error
		if row.Image, err = appendValue(row.Image, i); err != nil {
			return fmt.Errorf("read %s.%s: %w", l.Table.Name, l.Table.Columns[c.Slot].Name, err)
		}
		if len(row.Image) > start {
			row.Spans[c.Slot] = rawjson.Span{Start: uint32(start), End: uint32(len(row.Image))}
		}
	}
	return nil
}

// Within limits a column to some values, as texts. They are compared byte by byte.
type Within struct {
	Column *Column
	Values []string
}

// Target is one column to write.
type Target struct {
	Slot int         // in the schema.Table and its rows; -1 for a metadata column
	Type schema.Type // of the source's column, or of the metadata column
	Meta Meta        // not 0: a metadata column
	// Key: the column is part of the primary key. Its values are stored unchanged or refused with
	// ErrKeyChanged, because a changed key could be that of another row.
	Key  bool
	Real *Column
}

// ErrKeyChanged says that a column of the key cannot store a value unchanged.
var ErrKeyChanged = errors.New("it is part of the key, and the column cannot hold it unchanged")

// Write is the changes of one batch to one table. The caller owns the rows; they are valid during
// the call.
type Write struct {
	Layout *Layout
	// Deletes are rows of key columns only, at most one per key, sorted by key. They come before
	// the upserts: a key in both was deleted and inserted again, and nothing of the old row may
	// stay.
	Deletes []change.Row
	// Upserts are whole rows, at most one per key, sorted by key. Columns that are not in the
	// layout keep their values, unless the row is new or among the deletes.
	Upserts []change.Row
	Synced  time.Time // the value of _eds_synced_at
}

// Checkpoint is a position stored under stream, consumer and filter.
type Checkpoint struct {
	Stream, Consumer, Filter string
	Position                 cdc.Position
	// Epoch is 0 if the checkpoint has none. Otherwise the stored row must have this
	// Epoch and Generation, and gets Seen.
	Epoch, Generation, Seen int64
}

// New reports whether a checkpoint that moves from the given position to c has no row yet.
func (c *Checkpoint) New(from cdc.Position) bool { return c.Epoch == 0 && from == cdc.Position{} }

// ErrMoved says that the stored checkpoint differs from the one that the transaction started with.
var ErrMoved = errors.New("another process has moved the checkpoint")

// Conn is one session. One goroutine at a time uses it. After an error the session is either ready
// for the next call, with no transaction open, or Classify says that it is Lost.
type Conn interface {
	// Tables describes those of the named tables that exist. An object of another kind, if the
	// database lists it among its tables, has Other and no columns.
	Tables(ctx context.Context, names []string) ([]*Table, error)
	// Objects describes those of the named objects that exist.
	Objects(ctx context.Context, names []string) ([]Object, error)
	// Empty returns the indexes of those of the named tables that have no row. Soft-deleted rows
	// count. It reads at most one row of each, and waits at most ShortLockWait for a lock.
	Empty(ctx context.Context, names []string) ([]int, error)
	// Exec runs DDL statements in order, as one transaction if the database supports that. If a
	// statement that waits for its lock blocks readers, it waits at most ShortLockWait.
	Exec(ctx context.Context, statements []string) error
	// Begin begins a transaction. It need not contact the database yet.
	Begin(ctx context.Context) (Tx, error)
	// Read yields every row of the layout's real table as raw JSON values by slot of its
	// schema.Table, in any order. A row is valid until the next one is yielded. Instants are RFC
	// 3339 in UTC with up to six fractional digits.
	Read(ctx context.Context, l *Layout) iter.Seq2[*change.Row, error]
	// Stage creates an empty staging table with the columns of live's real table, nullable if
	// possible. It has a key or an index only if the database then loads faster. Only eds uses it.
	Stage(ctx context.Context, live *Layout, name string) error
	// Count returns the number of rows of the layout's real table in the layout's Scope.
	Count(ctx context.Context, l *Layout) (int64, error)
	// Seal prepares a staging table that has all its rows for Place. It does the work that may take
	// long and needs no transaction: primary key and indexes. If several rows have one key and the
	// database does not allow that, it returns a *DuplicatesError, and the Tx is a Deduplicator. A
	// sealed table may be sealed again.
	Seal(ctx context.Context, stage, live *Layout) error
	// CanWrite returns nil if the session may create tables and write rows. It leaves nothing
	// behind. The error names missing privileges, with the statement that grants them.
	CanWrite(ctx context.Context) error
	Close(ctx context.Context) error
}

// Owned is a Conn of a database in which only the owner of a table may change it.
type Owned interface {
	// Own returns the statement that makes the session's user the owner of the table.
	Own(table string) string
}

// Tx is a transaction. A dialect may collect calls and send them with Commit, which then returns
// their errors. After an error only Rollback is called.
type Tx interface {
	// Write applies w.Deletes, then w.Upserts.
	Write(ctx context.Context, w *Write) error
	// Checkpoint moves the checkpoint that the layout's table (CheckpointTable) stores under c's
	// names. The transaction fails with ErrMoved, here or in Commit, and has no effect, if the
	// stored position is not from, if c is New and there is a row, or if c has an Epoch and the row
	// has another Epoch or Generation.
	Checkpoint(ctx context.Context, l *Layout, from cdc.Position, c Checkpoint) error
	// Raise adds one to the generation of every row of CheckpointTable.
	Raise(ctx context.Context, l *Layout) error
	// Append adds rows to a staging table, which no other session uses, and returns the number of
	// rows that the table has more. If the stage keeps one row per key, the last row of a key
	// stays, and the number may be lower than that of rows. Append returns an error of rows
	// unchanged.
	Append(ctx context.Context, stage *Layout, rows iter.Seq2[*change.Row, error]) (added int64, err error)
	// Place replaces the live table's rows in its Scope with the rows of a sealed staging table
	// (sink.Replace), or upserts these (sink.Merge). Then it drops the staging table. The stage has
	// one row per key. If two transactions replace rows of one table at the same time, only the
	// rows of the later one stay. Grants, views, indexes, triggers and comments of the live table
	// survive. If a statement that waits for its lock blocks readers, it waits at most
	// ShortLockWait.
	Place(ctx context.Context, stage, live *Layout, mode sink.LoadMode) error
	// Drop drops a staging table, if it exists.
	Drop(ctx context.Context, table string) error
	// Commit makes the transaction durable. After an error it may be durable or not. After ErrMoved
	// or an error of class poison it is not.
	Commit(ctx context.Context) error
	// Rollback undoes the transaction. It is never called after a successful Commit.
	Rollback(ctx context.Context) error
}

// Deduplicator is a Tx whose staging tables accept any number of rows per key.
type Deduplicator interface {
	// Deduplicate removes all rows of a key from a staging table, except the one appended last.
	Deduplicate(ctx context.Context, stage *Layout) error
}

// DuplicatesError says that Deduplicate must remove rows from a staging table before Seal.
type DuplicatesError struct {
	Rows int64 // to be removed
}

func (e *DuplicatesError) Error() string {
	return fmt.Sprintf("%d of the staged rows have a key that a later row has, too", e.Rows)
}
