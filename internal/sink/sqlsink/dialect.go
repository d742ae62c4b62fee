// Package sqlsink is the engine of all SQL destinations. A database plugs into it with a Dialect.
//
// The engine owns everything that all databases share: the connection's lifecycle, the catalogue
// of real tables, migration planning, the order of writes within a batch's transaction, the
// checkpoint and its meaning after a lost answer, metadata columns and the version guard, the
// records of snapshot loads, and the reaction to each class of error.
//
// A Dialect contributes the differences: names, types, DDL, reading the catalogue, encoding
// values, and the fastest way to write many rows. It receives rows as raw JSON values, and writes
// them as bound or streamed values, never in SQL text. A Dialect decides nothing about order,
// retries, checkpoints or reconnecting: it reports errors and classifies them.
//
// The engine's own tables (checkpoints, snapshots, states, loaded files) are ordinary
// schema.Tables. The engine creates and writes them with the same methods as the source's tables.
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

// Dialect is the part of the engine that differs for each SQL database. Its methods are safe for
// concurrent use. All of them except Connect are pure functions.
type Dialect interface {
	// Connect opens one session in the database and namespace (schema) of the destination's URL.
	// It changes nothing in the database: a namespace or file that does not exist counts as
	// empty, and the session's first Exec or Begin creates it. The engine keeps one session for
	// Apply, and opens one more for each concurrent load or read.
	Connect(ctx context.Context) (Conn, error)

	// Name returns the database's name for a table or column that the source calls name. It
	// changes only names that are too long or contain characters that the database does not
	// allow. It must be deterministic, and should return distinct names for distinct arguments.
	// Every name that the engine uses in the database comes from Name or from the catalogue.
	Name(name string) string
	// FoldsCase reports whether the database ignores the case of column names.
	FoldsCase() bool

	// DDL returns the statements for one step of a migration. It returns nil if the database
	// needs no statement, or does not support the step. An unsupported step leaves the table
	// unchanged, and values that do not fit are dead-lettered one by one.
	DDL(step MigrationStep) []string

	// Classify returns the meaning of an error of Connect, a Conn or a Tx. It uses the database's
	// error codes, never the text of the error. If the chain contains a fault.Error, the class of
	// that error overrides the verdict's class, so Classify need not handle values that cannot be
	// encoded. An error of a statement about one table is also a *StatementError.
	Classify(err error) Verdict
}

// Verdict is the meaning of an error for the engine.
type Verdict struct {
	// Class is the class of the error. It is fault.Refused if the server rejects the credentials,
	// or if eds does not trust the server.
	Class fault.Class
	// RetryAfter is the delay that the server asked for, or 0.
	RetryAfter time.Duration
	// Lost says that the connection is unusable.
	Lost bool
	// Stale says that the catalogue has changed since the engine read it: a table or column is
	// gone, or has another type. The engine reads the catalogue again, migrates, and retries
	// once.
	Stale bool
	// Locked says that another session did not release a lock in time. The transaction has no
	// effect.
	Locked bool
}

// StepKind is a kind of migration step.
type StepKind uint8

const (
	// CreateTable creates a table with Columns. The first Keys columns are NOT NULL and form the
	// primary key.
	CreateTable StepKind = iota + 1
	// AddColumn adds Columns[0] as a nullable column.
	AddColumn
	// WidenColumn changes the type of the column Real. The new type stores all values of type To
	// exactly, and all values that the column has now. If the database has no such type, Classify
	// must class the error as poison.
	WidenColumn
	// RelaxColumn makes the column Real nullable.
	RelaxColumn
)

// MigrationStep is one step of a migration. All its names are the database's names.
type MigrationStep struct {
	Kind    StepKind
	Table   string
	Columns []NewColumn
	Keys    int
	Real    *RealColumn
	To      schema.Type
	// Nullable, in a WidenColumn step, says that the column is nullable when the step runs. An
	// earlier step may have made it nullable after Real was read.
	Nullable bool
}

// NewColumn is a column to be created.
type NewColumn struct {
	Name string
	Type schema.Type
	Key  bool
	Meta Meta // not 0 for a metadata column of the engine
}

// RealTable is a real table, with the description that the catalogue gives.
type RealTable struct {
	Name    string
	Columns []RealColumn
	// Other is the kind of an object that is not a writable table, such as "a view". It is "" for
	// a table.
	Other string
	// Key lists the names of the primary key's columns, or is nil if there is no primary key.
	Key []string
	// Checks are the constraints, besides column types, that the database checks when rows are
	// staged. If the Checks change, a load stages its rows again.
	Checks []string
	// Native belongs to the dialect. For example, it stores triggers and unique indexes that
	// restrict how rows are written.
	Native any
}

// RealColumn is a real column.
type RealColumn struct {
	Name string
	// Type is the database's own spelling of the type, for statements and messages.
	Type string
	// Holds is the schema type whose values the real type is meant for. The engine widens the
	// column if the source's type has values that Holds lacks. String and the JSON types hold all
	// values. If Holds is 0, the engine never changes the column.
	Holds schema.Type
	// Narrow says that the real type stores only some values of Holds, such as VARCHAR(10). The
	// engine widens the column to store all of them. A narrow column that holds Enum stores the
	// values of every enumeration. The engine widens it to String if the source's column is a
	// String.
	Narrow   bool
	Nullable bool
	// Filled says that the database itself sets the column if no value is written: by a default,
	// an identity, or an expression.
	Filled bool
	// Generated says that the database computes the column, so eds cannot write it.
	Generated bool
	// Native belongs to the dialect.
	Native any
}

// Meta is a metadata column of the engine.
type Meta uint8

const (
	MetaOp      Meta = iota + 1 // _eds_op: INSERT, UPDATE or DELETE, as text
	MetaVersion                 // _eds_version: the change's clock, as sortable text
	MetaSynced                  // _eds_synced_at: when eds wrote the row
	MetaDeleted                 // _eds_deleted: whether the source has deleted the row
)

// Layout maps the columns of a schema.Table onto those of a real table. It is immutable, and
// remains in use until one of the two tables changes. Dialects keep their statements and encoders
// for the layout in Native.
type Layout struct {
	Table *schema.Table
	Real  *RealTable
	// Columns are the columns to write, each listed once. The key's columns come first, in the
	// order of the key. Columns that the real table lacks are omitted, and so are generated
	// columns.
	Columns []Target
	Keys    int
	// Guard says that a row may be written or deleted only if the real row's _eds_version is null
	// or not newer than the version of the change. A layout with Guard has a MetaVersion column.
	Guard bool
	// Soft says that a delete only marks a row: it sets the metadata columns, with _eds_deleted
	// true, and keeps the other columns. An upsert sets _eds_deleted to false. Read skips marked
	// rows.
	Soft bool
	// Scope limits the rows of a live table that a load counts and replaces. A row is in the
	// scope if each of these columns has one of its Values. If Scope is nil, all rows are in the
	// scope.
	Scope []Within
	// Native belongs to the dialect, which sets it when it first uses the layout. Each load has
	// its own layouts, so two goroutines never write the same Native.
	Native any
}

// ReadRow fills row with the values of the layout's columns, and reuses row's memory. The
// function appendValue appends the raw JSON value of a column, which is given by its index in
// Columns. For NULL, it appends nothing.
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

// Within limits a column to some values, compared as text, byte by byte.
type Within struct {
	Column *RealColumn
	Values []string
}

// Target is one column to write.
type Target struct {
	Slot int         // slot in the schema.Table and its rows, or -1 for a metadata column
	Type schema.Type // type of the source's column, or of the metadata column
	Meta Meta        // not 0 for a metadata column
	// Key says that the column is part of the primary key. Its values are stored unchanged, or
	// refused with ErrKeyChanged, because a changed key could match another row.
	Key  bool
	Real *RealColumn
}

// ErrKeyChanged says that a column of the key cannot store a value unchanged.
var ErrKeyChanged = errors.New("it is part of the key, and the column cannot hold it unchanged")

// Write has the changes of one batch to one table. The caller owns the rows, which are valid only
// during the call.
type Write struct {
	Layout *Layout
	// Deletes are rows that have only key columns, at most one per key, sorted by key. They are
	// applied before the upserts. If a key is in both Deletes and Upserts, its row was deleted and
	// inserted again, so no value of the old row may remain.
	Deletes []change.Row
	// Upserts are complete rows, at most one per key, sorted by key. Columns that are not in the
	// layout keep their values, unless the row is new or its key is also in Deletes.
	Upserts []change.Row
	Synced  time.Time // the value of _eds_synced_at
}

// Checkpoint is a position stored under stream, consumer and filter.
type Checkpoint struct {
	Stream, Consumer, Filter string
	Position                 cdc.Position
	// Epoch is 0 if the checkpoint has no epoch. Otherwise the stored row must have this Epoch
	// and this Generation, and its column "seen" is set to Seen.
	Epoch, Generation, Seen int64
}

// New reports whether c is the first checkpoint under its names, so that storing it inserts a
// row. The parameter from is the position before c.
func (c *Checkpoint) New(from cdc.Position) bool { return c.Epoch == 0 && from == cdc.Position{} }

// ErrMoved says that the stored checkpoint is not the one that the transaction expected.
var ErrMoved = errors.New("another process has moved the checkpoint")

// Conn is one session. It must not be used concurrently. After an error, either the session is
// ready for the next call, with no open transaction, or Classify reports that it is Lost.
type Conn interface {
	// Tables describes the named tables that exist. If one of the names belongs to another kind of
	// object, and the database lists that object among its tables, Tables also describes the
	// object, with Other set and no columns.
	Tables(ctx context.Context, names []string) ([]*RealTable, error)
	// Objects describes the named objects that exist.
	Objects(ctx context.Context, names []string) ([]Object, error)
	// Empty returns the indexes of the named tables that have no rows. A soft-deleted row counts
	// as a row. Empty reads at most one row of each table, and waits at most ShortLockWait for a
	// lock.
	Empty(ctx context.Context, names []string) ([]int, error)
	// Exec runs DDL statements in the given order, as one transaction if the database supports
	// that. A statement that blocks readers while it waits for its lock waits at most
	// ShortLockWait.
	Exec(ctx context.Context, statements []string) error
	// Begin starts a transaction. It need not contact the database yet.
	Begin(ctx context.Context) (Tx, error)
	// Read yields every row of the layout's real table, in any order, as raw JSON values by slot
	// of the layout's schema.Table. A row is valid only until the next one is yielded. Instants
	// are RFC 3339 in UTC, with up to six fractional digits.
	Read(ctx context.Context, l *Layout) iter.Seq2[*change.Row, error]
	// Stage creates an empty staging table with the columns of live's real table. The new columns
	// are nullable if possible. Stage adds a key or an index only if that makes loading faster.
	// Only eds uses the staging table.
	Stage(ctx context.Context, live *Layout, name string) error
	// Count returns the number of rows of the layout's real table that are in the layout's Scope.
	Count(ctx context.Context, l *Layout) (int64, error)
	// Seal prepares a complete staging table for Place. It does the slow work that needs no
	// transaction: it adds the primary key and the indexes. If several rows have the same key and
	// the database does not allow that, Seal returns a *DuplicatesError, and the session's Tx
	// must be a Deduplicator. Seal may be called again for a sealed table.
	Seal(ctx context.Context, stage, live *Layout) error
	// CanWrite returns nil if the session may create tables and write rows. It removes everything
	// that it creates. Its error names the missing privileges, and the statement that grants
	// them.
	CanWrite(ctx context.Context) error
	Close(ctx context.Context) error
}

// Owned is a Conn of a database that lets only the owner of a table change the table.
type Owned interface {
	// Own returns the statement that makes the session's user the owner of the table.
	Own(table string) string
}

// Tx is a transaction. A dialect may collect the calls and send them in Commit, which then
// returns their errors. After an error, the engine calls only Rollback.
type Tx interface {
	// Write applies w.Deletes, then w.Upserts.
	Write(ctx context.Context, w *Write) error
	// Checkpoint stores c in the layout's table (see CheckpointTable), in the row of c's stream,
	// consumer and filter. The parameter from is the position that the row must contain before this
	// call. The transaction fails with ErrMoved, either in Checkpoint or in Commit, and has no
	// effect, in these cases: the row contains a different position; c is New but a row is stored;
	// or c has an Epoch, and the stored row has another Epoch or Generation.
	Checkpoint(ctx context.Context, l *Layout, from cdc.Position, c Checkpoint) error
	// Raise increments the generation of every row of CheckpointTable by one.
	Raise(ctx context.Context, l *Layout) error
	// Append adds rows to a staging table, which no other session uses, and returns the increase of
	// the table's number of rows. If the staging table keeps only one row per key, the last row of
	// a key replaces earlier ones, so the result may be less than the number of rows. If the
	// sequence yields an error, Append returns that error unchanged.
	Append(ctx context.Context, stage *Layout, rows iter.Seq2[*change.Row, error]) (added int64, err error)
	// Place puts the rows of a sealed staging table, which has one row per key, into the live
	// table. In mode sink.Replace, they replace the live table's rows in its Scope. In mode
	// sink.Merge, they are upserted. Then Place drops the staging table. If two transactions
	// replace rows of one table at the same time, only the rows of the later transaction remain.
	// Grants, views, indexes, triggers and comments of the live table survive. A statement that
	// blocks readers while it waits for its lock waits at most ShortLockWait.
	Place(ctx context.Context, stage, live *Layout, mode sink.LoadMode) error
	// Drop drops a staging table, if it exists.
	Drop(ctx context.Context, table string) error
	// Commit makes the transaction durable. If Commit returns an error, the transaction may or
	// may not be durable. After ErrMoved, or an error of class poison, it is not durable.
	Commit(ctx context.Context) error
	// Rollback undoes the transaction. It is never called after a successful Commit.
	Rollback(ctx context.Context) error
}

// Deduplicator is a Tx of a database whose staging tables accept several rows with the same key.
type Deduplicator interface {
	// Deduplicate removes rows from a staging table, so that only the last appended row of each
	// key remains.
	Deduplicate(ctx context.Context, stage *Layout) error
}

// DuplicatesError says that Deduplicate must remove rows from a staging table before Seal can
// succeed.
type DuplicatesError struct {
	Rows int64 // number of rows to remove
}

func (e *DuplicatesError) Error() string {
	return fmt.Sprintf("%d of the staged rows have a key that a later row has, too", e.Rows)
}
