// Package sink is the contract between eds and its destinations.
package sink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Sink delivers batches to one destination. The calls of Apply are serial, in stream order.
//
// If Apply returns nil, every change of the batch is durable at the destination. After an error,
// Apply may be called again with the same batch, or with consecutive parts of it, in order. The
// result must be the same, even if the first call was durable and only its response was lost. The
// caller owns the batch: a sink must not change it or keep any part of it.
//
// Errors have a fault.Class: transient by default, poison if one of the batch's events can never
// be applied, or fatal if only the operator can resolve the problem. Errors must not include a
// value of a row or a secret.
type Sink interface {
	Apply(ctx context.Context, b *change.Batch) error
	// Probe returns nil if the sink would work: the destination is reachable, accepts the
	// credentials, and grants the needed permissions. Probe may write to the destination, but
	// removes everything that it wrote. It must also work if the sink's table, file or topic does
	// not exist yet.
	Probe(ctx context.Context) error
	// BeginLoad starts to load one table from a snapshot, or resumes an interrupted load of the
	// same job. A sink that keeps rows stages them next to the live table, which does not change
	// until Finish. Loads of different tables, and of different jobs, may run concurrently. If
	// mode replaces rows, t must have the columns that Scope.Columns needs.
	BeginLoad(ctx context.Context, job string, t *schema.Table, mode LoadMode, scope Scope) (Load, error)
	// Close disconnects from the destination. It does not flush: only batches that Apply has
	// returned nil for are durable.
	Close(ctx context.Context) error
}

// Checkpointer is a sink that stores the last position of each batch in the same transaction as
// the batch. It stores no position if Env.Consumer is "".
type Checkpointer interface {
	// Checkpoint returns the stored position, or the zero Position if there is none.
	Checkpoint(ctx context.Context) (cdc.Position, error)
	// ResetCheckpoint deletes the stored position.
	ResetCheckpoint(ctx context.Context) error
}

// Identifier is a sink that keeps events, and whose destination can store an id. If the id is
// missing, this is not the destination that eds wrote to: for example, it was emptied, or the file
// system is not mounted.
type Identifier interface {
	// ID returns the id that the destination stores, or "" if it stores none. It writes nothing.
	ID(ctx context.Context) (string, error)
	// SetID stores Env.ID durably in the destination, unless the destination already has an id.
	SetID(ctx context.Context) error
}

// FilterReader is a sink that knows which companies' changes were applied to its destination.
type FilterReader interface {
	// OtherFilters returns the filters under which any consumer has stored a checkpoint, except
	// Env.Filter. A hash may replace a long filter.
	OtherFilters(ctx context.Context) ([]string, error)
}

// Migrator is a sink that keeps the columns of its tables up to date with the source. Apply also
// migrates the tables of its batch, but it never recreates a table that was imported before.
type Migrator interface {
	// Migrate prepares the destination for rows of the given tables. It creates tables, adds
	// columns, widens types, and drops the NOT NULL constraint of columns that the source no
	// longer has. It never drops a table or column. It logs each change, and returns one line per
	// change. Migrate is cheap if there is nothing to change.
	Migrate(ctx context.Context, tables []*schema.Table) ([]string, error)
}

// ErrForeign says that a table has rows, and that its key or columns differ from those that eds
// would create.
var ErrForeign = errors.New("the table was not made by eds")

// Adopter is a sink that recognizes tables that eds did not create.
type Adopter interface {
	// Adopt returns ErrForeign if the destination's table with t's name has rows and cannot have
	// been created by eds. It changes nothing.
	Adopt(ctx context.Context, t *schema.Table) error
}

// LoadMode says how a load treats the existing rows of a table.
type LoadMode uint8

const (
	// Replace removes the rows of the load's scope that were not loaded. If the load has no rows
	// but the table has some, Replace removes nothing, and Finish returns ErrWouldEmpty.
	Replace LoadMode = iota
	// Merge upserts the loaded rows, and keeps all other rows.
	Merge
	// ReplaceOrEmpty is like Replace, but a load without rows removes all rows of the scope.
	ReplaceOrEmpty
)

// Replaces reports whether a load with mode m removes rows of its scope that it did not load.
func (m LoadMode) Replaces() bool { return m != Merge }

// ErrWouldEmpty says that a load has no rows but its table has some. The table keeps its rows,
// and the caller can discard the load.
var ErrWouldEmpty = errors.New("the snapshot has no rows for the table, but the table has some")

// ErrLoadLost says that the staged rows of a load are gone, have changed, or no longer fit the
// table. The load has been deleted and must start again.
var ErrLoadLost = errors.New("the loaded rows are lost")

// Load is the load of one table. Its methods are called serially.
type Load interface {
	// Loaded reports whether this run or an earlier run of the job has loaded the file. It returns
	// false if the file's rows are no longer staged.
	Loaded(file string) bool
	// LoadFile stages all rows of one file, or none if it returns an error. It returns the number
	// of rows in the file. Each row is valid only until the next row is requested.
	LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error)
	// Finish puts the staged rows in place, in one transaction if the destination has
	// transactions, and deletes the load. It returns the number of rows, counting one per key, or
	// -1 if the destination keeps events and does not count rows. If rows of a loaded file are no
	// longer staged, it returns ErrLoadLost. After any other error, Finish may be called again.
	// If only the response to the first call was lost, the second call changes nothing.
	Finish(ctx context.Context) (rows int64, err error)
	// Discard deletes the load and its staged rows. The live table does not change.
	Discard(ctx context.Context) error
	// Close releases the load's resources, and keeps the staged rows for a later run. Close may
	// be called after Finish or Discard.
	Close(ctx context.Context) error
}

// Resumer is a Load whose LoadFile puts the rows of a file in place before it returns. Its
// destination does not record loaded files, so the caller records them.
type Resumer interface {
	// Resume tells the load which files earlier runs of the job have loaded. It is called once,
	// before any other method.
	Resume(files []string)
}

// RowLoad is a Load that can omit rows of a file that the destination refuses.
type RowLoad interface {
	// LoadRows loads a file after LoadFile has refused one of its rows as poison. LoadRows is
	// slower than LoadFile, because it finds and omits every such row. It calls refused for each
	// omitted row, in the order of the file, and returns the number of rows that it loaded. If
	// LoadRows fails, the file does not count as loaded, although some of its rows may be staged.
	// Loading the file again then gives the same result.
	LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused RefusedRow) (int64, error)
}

// RefusedRow is called with an omitted row, its number within the file, from 1, and the reason.
// The row is valid only during the call. If RefusedRow returns an error, loading the file fails.
type RefusedRow = func(row *change.Row, number int64, reason error) error

// Reader is a sink whose rows eds can read, to compare them with the source.
type Reader interface {
	// Read yields every row of the table, in any order. The values are raw JSON, by column slot
	// of t; a column that the destination lacks has no value. A row is valid only until the next
	// row is requested.
	Read(ctx context.Context, t *schema.Table) iter.Seq2[*change.Row, error]
}

// RowError is an error of LoadFile for one row that the destination refuses. A sink returns a
// RowError if it knows which row that is.
type RowError struct {
	Row int64 // number of the row within the file, from 1
	Err error
}

func (e *RowError) Error() string { return fmt.Sprintf("row %d: %v", e.Row, e.Err) }
func (e *RowError) Unwrap() error { return e.Err }

// Limits are the batch sizes that suit a destination.
type Limits struct {
	Rows  int // maximum number of events in a batch
	Bytes int // maximum payload bytes of a batch
	// Age is the time for which a batch waits for more events. It is set for a destination that
	// prefers few large batches. If Age is 0, a batch does not wait.
	Age time.Duration
	// Stable requires that a batch that was interrupted by a crash is delivered again with
	// exactly the same events, because the sink derives the name of its output from the whole
	// batch.
	Stable bool
	// Metered says that each use of the destination costs money, so eds does not contact it while
	// there are no changes.
	Metered bool
}

// Pacer is a sink whose URL sets limits, which override Driver.Limits.
type Pacer interface {
	Limits() Limits
}

// Field is one input of HQ's form for a destination.
type Field struct {
	Name        string
	Type        string // "string", "number" or "boolean"
	Format      string // "password" or ""
	Default     string
	Description string
	Required    bool
	// Option is the URL option that gets the field's value. If Option is "", the value belongs in
	// another part of the URL.
	Option string
}

// FieldError is an error about the value of a field.
type FieldError struct {
	Field string `json:"field"`
	Error string `json:"error"`
}

// Driver describes a kind of destination. It is a value without state, and holds no connection.
type Driver struct {
	Name    string   // short and lower case, as in `eds server help <name>`
	Title   string   // name for display
	Schemes []string // URL schemes; the first one is canonical
	Example string   // a complete URL
	Summary string   // one sentence
	Help    string   // paragraphs: setup, permissions, guarantees
	Options []Option
	// OptionPrefix may precede the names of Options in a URL. It is set if a URL can also have
	// options of the endpoint, which the driver passes on unchanged. It is "" if a URL can only
	// have Options.
	OptionPrefix string
	Fields       []Field
	Limits       Limits
	// KeepsRows says that the sink applies Batch.Sets. Otherwise the sink writes Batch.Events.
	KeepsRows bool

	// Borrows returns the part of target that would make eds send a secret of this machine to the
	// destination: an option, or the lack of one. It returns "" if there is no such part. Only
	// the operator's own URL may send such a secret. If Borrows is nil, no URL sends one.
	Borrows func(target *url.URL) string

	// Identity identifies the destination of target. All URLs of one destination have the same
	// identity, and two destinations have different identities. User names, secrets and tuning
	// options are not part of an identity. Identity never fails; its result for a URL that Open
	// refuses does not matter.
	Identity func(target *url.URL) string
	// URL builds a destination URL from the values of Fields.
	URL func(values map[string]string) (string, []FieldError)
	// Open connects to target, and changes nothing at the destination: the first call that writes
	// creates a missing schema, file, directory or topic. The placeholders of target are
	// expanded, and its scheme is one of Schemes. An unknown option is an error. Errors have a
	// fault.Class unless they are transient.
	Open func(ctx context.Context, target *url.URL, env Env) (Sink, error)
}

// Env is the environment of a sink.
type Env struct {
	Logger *slog.Logger
	// Stream, Consumer and Filter identify the checkpoint. Consumer is "" if the sink must not
	// store a checkpoint, as during an import.
	Stream, Consumer, Filter string
	// ID is the identity to store in a destination that has none. Epoch is the last epoch in
	// which this data directory wrote to the destination.
	ID    string
	Epoch int64
	// Writer is this process.
	Writer Writer
	// After makes the sink write a row only if the clock of the change is newer than the clock of
	// the destination's row (update_strategy "after").
	After bool
	// Access renews secrets, and decides how to treat a refusal. If Access is nil, the sink keeps
	// the URL that was passed to Open.
	Access *Access
	// Lookup finds environment variables that an option names. If Lookup is nil, there are no
	// variables.
	Lookup Lookup
	// Tables returns one version of a table's schema, for sinks that keep events and need the
	// columns of their rows. If the source has no such version, the error is poison, or has a
	// method NotFound that returns true. Tables is safe for concurrent use. If Tables is nil, no
	// schemas are available.
	Tables func(ctx context.Context, table, version string) (*schema.Table, error)
	// Adjusted is called for each value that was changed by a documented rule because the
	// destination's type cannot hold it. The parameter rule is the rule's name.
	Adjusted func(table, column, rule string)
}

// Complete returns e with defaults for the fields Logger, Adjusted and Access that are nil. The
// default Logger discards records, the default Adjusted does nothing, and the default Access
// keeps the URL.
func (e Env) Complete() Env {
	if e.Access == nil {
		e.Access = NewAccess(nil, false, nil)
	}
	if e.Logger == nil {
		e.Logger = slog.New(slog.DiscardHandler)
	}
	if e.Adjusted == nil {
		e.Adjusted = func(_, _, _ string) {}
	}
	return e
}
