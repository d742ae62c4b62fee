// Package sqlsink is the one SQL engine. A database joins it with a Dialect.
//
// The engine owns what is the same everywhere: the life of the connection, the
// catalogue of real tables, migration planning, the order of writes within the
// transaction of a batch, the checkpoint and what it means after a lost answer,
// metadata columns and the version guard, the bookkeeping of snapshot loads,
// and what an error class makes of all that. It implements sink.Sink,
// Checkpointer, Migrator, Prober, Loader and Reader.
//
// A Dialect contributes what differs: names, types, DDL texts, how the
// catalogue is read, how values are encoded, and the fastest way to write many
// rows. It sees rows as raw JSON values and writes them with bound or streamed
// values, never in SQL text. A Dialect decides nothing about order, retries,
// checkpoints or reconnecting: it reports errors and classifies them.
//
// The engine's own tables (the checkpoint, the record of loaded files) are
// ordinary schema.Tables, made and written through the same few methods.
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

// Dialect is all that a SQL database contributes. Its methods are pure but for
// Connect, and safe for concurrent use.
type Dialect interface {
	// Connect opens one session in the database and namespace (schema) of the
	// destination's URL. It changes nothing there: a namespace or file that does not
	// exist has no tables, and the session's first Exec or Begin makes it. The engine
	// keeps one session for Apply and opens one more for each concurrent load or read.
	Connect(ctx context.Context) (Conn, error)

	// Name returns the name under which the database keeps a table or column
	// that the source calls name: the same, unless it is too long or holds what
	// a name can not. It must be deterministic, and distinct names should stay
	// distinct. The engine never passes a name to the database that did not go
	// through Name, unless the catalogue gave it.
	Name(name string) string
	// FoldsCase reports whether the database takes column names that differ in
	// case only for the same.
	FoldsCase() bool

	// DDL returns the statements that carry out one step of a migration, or nil
	// where the database needs none for it, or can not do it: then the table
	// stays as it is and values that do not fit are dead-lettered one by one.
	DDL(step Step) []string

	// Classify says what an error of a Conn, a Tx or of Connect means. One of a
	// statement about one table is a *StatementError as well. It goes by
	// the database's own codes, never by words. A class that the error carries
	// already, as a fault.Error, overrules the verdict's, so that a value which
	// can not be encoded needs no case of its own.
	Classify(err error) Verdict
}

// Verdict is what an error means to the engine.
type Verdict struct {
	// Class is fault.Refused if the server does not accept the credentials, or is not
	// accepted itself.
	Class fault.Class
	// RetryAfter is how long the server asked to be left alone, or 0.
	RetryAfter time.Duration
	// Lost says that the connection can not be used any more.
	Lost bool
	// Stale says that the catalogue is not what it was when it was read: a
	// table or column is gone or of another type. The engine reads it anew,
	// migrates, and tries once more.
	Stale bool
	// Locked says that a lock which another session has was not to be had in time. Nothing
	// of the transaction stays.
	Locked bool
}

// StepKind is a kind of migration step.
type StepKind uint8

const (
	CreateTable StepKind = iota + 1 // of Columns, the first Keys of which are the primary key and NOT NULL
	AddColumn                       // Columns[0], nullable
	WidenColumn                     // Real, to hold values of To besides those it holds now, exactly; where it can not be, Classify calls the error poison
	RelaxColumn                     // Real, so that it takes NULL
)

// Step is one step of a migration. Names in it are the database's own.
type Step struct {
	Kind    StepKind
	Table   string
	Columns []NewColumn
	Keys    int
	Real    *Column
	To      schema.Type
	// Nullable says of WidenColumn that the column takes NULL, or was told to by
	// the step before: where a statement restates all of a column, Real is not
	// the latest word.
	Nullable bool
}

// NewColumn is a column to be made.
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
	// Other says what has the name if it is not a table that rows can be written to,
	// as "a view"; else "".
	Other string
	// Key are the names of the primary key's columns, nil where there is none.
	Key []string
	// Checks are what staged rows are checked by, beside the types of their columns. If
	// they change, the rows are staged again.
	Checks []string
	// Native is the dialect's own knowledge of the table, such as triggers and
	// unique indexes that decide how it may be written. The engine never looks.
	Native any
}

// Column is a real column.
type Column struct {
	Name string
	// Type is the database's own spelling of the type, for statements and messages.
	Type string
	// Holds is the schema type whose values the real type is made for: the
	// engine widens the column where the source's type asks for more. String
	// and the JSON types hold everything. 0 is a type that the engine leaves as
	// it is.
	Holds schema.Type
	// Narrow says that the real type holds only some values of that type, as a
	// VARCHAR(10) does of strings. The engine widens it to hold all of them. One
	// that holds Enum is wide enough for every enumeration, and becomes a String
	// where the source's column is one.
	Narrow   bool
	Nullable bool
	// Filled says that the database gives the column a value where none is
	// written: by a default, an identity, or an expression.
	Filled bool
	// Generated columns can not be written.
	Generated bool
	// Native is the dialect's own knowledge of the column. The engine never looks.
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

// Layout maps the columns of a schema.Table onto those of a real one. It is
// immutable and lives as long as neither changes, so it is what a dialect hangs
// its statements and encoders on.
type Layout struct {
	Table *schema.Table
	Real  *Table
	// Columns are what is written, each once: the key's first, in the key's
	// order. A column of the schema that the real table lacks, or that the
	// database generates, is not among them.
	Columns []Target
	Keys    int
	// Guard: write a row, or delete it, only where the real row's _eds_version
	// is null or not newer than the change's. Layouts with Guard have a
	// MetaVersion column.
	Guard bool
	// Soft: a delete sets the metadata columns, _eds_deleted to true, and leaves
	// the rest of the row. An upsert sets _eds_deleted to false. Reading passes
	// over deleted rows.
	Soft bool
	// Scope, of the live table of a load, limits which rows are counted and replaced:
	// those with one of the values in each of the columns. Nil: all rows.
	Scope []Within
	// Native is the dialect's, filled when it first meets the layout. Loads use
	// layouts of their own, so that it is never written concurrently.
	Native any
}

// ReadRow makes row of what the database holds in the layout's columns, in the
// memory of the row before. appendValue appends the raw JSON value of a column,
// given by its index in Columns, and nothing where that is null.
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

// Within says which values a column has, as texts. They are compared by their bytes.
type Within struct {
	Column *Column
	Values []string
}

// Target is one column that is written.
type Target struct {
	Slot int         // in the schema.Table and its rows; -1 of a metadata column
	Type schema.Type // of the source's column, or of the metadata column
	Meta Meta        // not 0: a metadata column
	// Key: the column is part of the primary key. A value of it is kept as it is
	// or refused with ErrKeyChanged, as a rule that changes values could make
	// two rows one.
	Key  bool
	Real *Column
}

// ErrKeyChanged says that a key's value can only be kept changed.
var ErrKeyChanged = errors.New("it is part of the key, and the column can not hold it unchanged")

// Write is what one batch does to one table. Its rows are the caller's and valid
// during the call.
type Write struct {
	Layout *Layout
	// Deletes are rows of key columns only, one a key at most, sorted by key.
	// They come before the upserts: a key in both was deleted and inserted
	// again, and nothing of the old row may stay.
	Deletes []change.Row
	// Upserts are whole rows, one a key at most, sorted by key. Columns of the
	// real table that the layout does not have keep their values, unless the
	// row is new or deleted before.
	Upserts []change.Row
	Synced  time.Time // the value of _eds_synced_at
}

// Checkpoint is a position stored under three names.
type Checkpoint struct {
	Stream, Consumer, Filter string
	Position                 cdc.Position
	// Epoch is 0 if the checkpoint has none. Otherwise the stored row must have this
	// Epoch and Generation, and gets Seen.
	Epoch, Generation, Seen int64
}

// New reports whether a checkpoint that moves to c from the given position has no row
// yet.
func (c *Checkpoint) New(from cdc.Position) bool { return c.Epoch == 0 && from == cdc.Position{} }

// ErrMoved says that the stored checkpoint is not the one that the transaction
// began from.
var ErrMoved = errors.New("the checkpoint was moved by someone else")

// Conn is one session. It is used by one goroutine at a time. After an error the
// session is either ready for the next call, with no transaction open, or
// Classify says that it is Lost.
type Conn interface {
	// Tables describes those of the named tables that exist. What is not a table is
	// described as Other, without columns, if the database keeps it among its tables.
	Tables(ctx context.Context, names []string) ([]*Table, error)
	// Objects describes those of the named objects that exist.
	Objects(ctx context.Context, names []string) ([]Object, error)
	// Empty returns the indexes of those of the named tables that have no row, deleted
	// softly or not. It reads one row of each at most, and waits for a lock on one for
	// ShortLockWait at most.
	Empty(ctx context.Context, names []string) ([]int, error)
	// Exec runs DDL statements in order, as one transaction where the database
	// has transactions for them. If readers wait behind a statement that waits for its lock, that
	// waits for ShortLockWait at most.
	Exec(ctx context.Context, statements []string) error
	// Begin begins a transaction. It need not speak to the database yet.
	Begin(ctx context.Context) (Tx, error)
	// Read yields every row of the layout's real table as raw JSON values by
	// slot of its schema.Table, in any order. A row is valid until the next is
	// asked for. Instants are RFC 3339 in UTC with up to six fractional digits.
	Read(ctx context.Context, l *Layout) iter.Seq2[*change.Row, error]
	// Stage makes an empty table for staging, with the columns of live's real
	// table, nullable where they can be, and no key or index unless the database
	// loads faster with one. Only eds sees it.
	Stage(ctx context.Context, live *Layout, name string) error
	// Count returns how many rows the layout's real table has in the layout's Scope.
	Count(ctx context.Context, l *Layout) (int64, error)
	// Seal makes a staging table that has all its rows ready to be put in
	// place, with whatever may take long and needs no transaction: its primary
	// key and indexes. If rows of one key keep it from that it returns a
	// *DuplicatesError, and the Tx is a Deduplicator. It may be called again for a
	// table that is sealed.
	Seal(ctx context.Context, stage, live *Layout) error
	// CanWrite returns nil if the session may create tables and write rows: the part
	// of a probe that only the dialect knows. It leaves nothing. What is missing is
	// named in the error, with the statement that grants it.
	CanWrite(ctx context.Context) error
	Close(ctx context.Context) error
}

// Owned is a Conn of a database that lets only its owner change a table.
type Owned interface {
	// Own returns the statement that makes the session's user own the table.
	Own(table string) string
}

// Tx is a transaction. A dialect may collect calls and send them with Commit:
// then errors surface there. After an error only Rollback is called.
type Tx interface {
	// Write applies w.Deletes, then w.Upserts.
	Write(ctx context.Context, w *Write) error
	// Checkpoint moves a stored checkpoint. Where the position stored in the
	// layout's table (CheckpointTable) under c's names is not from, or, if c is New,
	// there is a row at all, the transaction fails with ErrMoved, here or in Commit,
	// and nothing of it stays. The same holds if c has an Epoch and the row another
	// one, or another Generation.
	Checkpoint(ctx context.Context, l *Layout, from cdc.Position, c Checkpoint) error
	// Raise adds one to the generation of every row of CheckpointTable.
	Raise(ctx context.Context, l *Layout) error
	// Append adds rows to a staging table, which nobody else reads or writes,
	// and returns how many rows the table has more: fewer than it was given if the
	// stage keeps one row per key. The last row of a key stays. An error that rows
	// yields is returned as it is.
	Append(ctx context.Context, stage *Layout, rows iter.Seq2[*change.Row, error]) (added int64, err error)
	// Place puts the rows of a sealed staging table, one per key, in place of the
	// live table's (sink.Replace) or upserts them (sink.Merge), and drops the staging
	// table. It replaces only rows in the Scope of live. Of transactions that replace
	// rows of one table at the same time, the later one leaves nothing of the other.
	// Whatever hangs on the live table survives: grants, views, indexes, triggers,
	// comments. If readers wait behind a statement that waits for its lock, that waits for
	// ShortLockWait at most.
	Place(ctx context.Context, stage, live *Layout, mode sink.LoadMode) error
	// Drop drops a staging table, if it exists.
	Drop(ctx context.Context, table string) error
	// Commit makes the transaction durable. An error does not tell whether it
	// is, unless its class is poison or it is ErrMoved: then it is not.
	Commit(ctx context.Context) error
	// Rollback undoes the transaction. It follows an error or a change of mind,
	// and never Commit without an error.
	Rollback(ctx context.Context) error
}

// Deduplicator is a Tx whose staging tables take any number of rows per key.
type Deduplicator interface {
	// Deduplicate removes from a staging table all rows of a key but the one that
	// was appended last.
	Deduplicate(ctx context.Context, stage *Layout) error
}

// DuplicatesError says that a staging table has rows that Deduplicate has to remove
// before it can be sealed.
type DuplicatesError struct {
	Rows int64 // to be removed
}

func (e *DuplicatesError) Error() string {
	return fmt.Sprintf("%d of the staged rows have a key that was staged again later", e.Rows)
}
