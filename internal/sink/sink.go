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

// Sink delivers batches to one destination. Calls are serial, in stream order.
//
// A nil error from Apply means that every change of the batch is durable at the
// destination. After an error Apply may be called again, with the same batch or with parts
// of it in order. It must converge to the same result, even if the batch was durable and
// only the response was lost. The caller owns the batch: a sink neither changes it nor keeps
// any part of it.
//
// Errors have a fault.Class: transient by default, poison if one of the batch's events can
// never be applied, fatal if only the operator can help. They name no value of a row and no
// secret.
type Sink interface {
	Apply(ctx context.Context, b *change.Batch) error
	// Probe reports whether the sink would work: the destination is reachable, takes the
	// credentials, and grants the permissions. It may write, but leaves nothing, even if
	// the table, file or topic that the sink writes to does not exist yet.
	Probe(ctx context.Context) error
	// BeginLoad begins the load of one table from a snapshot, or continues the load of
	// the same job that was interrupted. A sink that keeps rows stages them beside the
	// live table, which stays as it is until Finish. Loads of different tables, and of
	// different jobs, may run concurrently. If mode replaces, t has the columns that
	// Scope.Columns needs.
	BeginLoad(ctx context.Context, job string, t *schema.Table, mode LoadMode, scope Scope) (Load, error)
	// Close releases the destination. It flushes nothing: only applied batches are durable.
	Close(ctx context.Context) error
}

// Checkpointer is a sink that stores the last position of each batch in the batch's
// transaction. It stores none if Env.Consumer is "".
type Checkpointer interface {
	// Checkpoint returns the stored position, or the zero Position if there is none.
	Checkpoint(ctx context.Context) (cdc.Position, error)
	// ResetCheckpoint deletes the stored position.
	ResetCheckpoint(ctx context.Context) error
}

// Identifier is a sink that keeps events and whose destination can hold an id. A destination
// without the id is not the one that eds wrote to: it was emptied, or its file system is not
// mounted.
type Identifier interface {
	// ID returns the id that the destination holds, "" if it holds none. It writes
	// nothing.
	ID(ctx context.Context) (string, error)
	// SetID stores Env.ID in the destination, durably, if it holds no id.
	SetID(ctx context.Context) error
}

// FilterReader is a sink that knows which companies' changes its destination has.
type FilterReader interface {
	// OtherFilters returns the filters, other than Env.Filter, under which any
	// consumer has stored a checkpoint. A long filter may be a hash of it.
	OtherFilters(ctx context.Context) ([]string, error)
}

// Migrator is a sink whose tables follow the source's. Apply migrates the tables of its batch
// as well, but never creates an imported table again.
type Migrator interface {
	// Migrate prepares the destination for rows of every given table: it creates tables,
	// adds columns, widens types, and relaxes NOT NULL of columns that the source no longer
	// has. It never drops anything. It logs each change, and returns one line per change.
	// It is cheap if there is nothing to change.
	Migrate(ctx context.Context, tables []*schema.Table) ([]string, error)
}

// ErrForeign says that a table has rows, and another key or other columns than eds would
// create.
var ErrForeign = errors.New("the table was not made by eds")

// Adopter is a sink that recognises tables that eds did not create.
type Adopter interface {
	// Adopt returns ErrForeign if the destination has rows in a table with t's name
	// that eds would not have created. It changes nothing.
	Adopt(ctx context.Context, t *schema.Table) error
}

// LoadMode says how a load treats existing rows of a table.
type LoadMode uint8

const (
	// Replace removes the rows of the load's scope that were not loaded. A load without
	// rows does not remove all of them: Finish returns ErrWouldEmpty.
	Replace LoadMode = iota
	// Merge upserts the loaded rows. Others stay.
	Merge
	// ReplaceOrEmpty is Replace that also removes all rows of the scope.
	ReplaceOrEmpty
)

// Replaces reports whether the load removes rows that it did not load.
func (m LoadMode) Replaces() bool { return m != Merge }

// ErrWouldEmpty says that a load has no rows but its table has some. They stay, and the load
// can be discarded.
var ErrWouldEmpty = errors.New("the snapshot has no rows for the table, but the table has some")

// ErrLoadLost says that the staged rows of a load are gone, have changed, or no longer fit the
// table. The load is deleted and must begin again.
var ErrLoadLost = errors.New("the loaded rows are lost")

// Load is the load of one table. Its methods are called serially.
type Load interface {
	// Loaded reports whether this or an earlier run of the job loaded the file, and its
	// rows are still there.
	Loaded(file string) bool
	// LoadFile stages the rows of one file: all of them, or none after an error. A row is
	// valid until the next one is requested.
	LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error)
	// Finish puts the staged rows in place, in one transaction if the destination has
	// transactions, and deletes the load. It returns the number of rows, one per key; -1 if
	// the destination keeps events and does not count them. If rows of a loaded file are no
	// longer staged, it returns ErrLoadLost. After another error it may be called again: if
	// only the response was lost, it does nothing more.
	Finish(ctx context.Context) (rows int64, err error)
	// Discard deletes the load and its staged rows. The live table does not change.
	Discard(ctx context.Context) error
	// Close releases the load's resources and keeps the staged rows for a later run. It
	// may follow Finish and Discard.
	Close(ctx context.Context) error
}

// Resumer is a Load that puts the rows of a file in place before LoadFile returns, in a
// destination that does not record loaded files. Its caller records them.
type Resumer interface {
	// Resume reports the files that earlier runs of the job have loaded. It is called
	// once, before any other method.
	Resume(files []string)
}

// RowLoad is a Load that can leave out the rows of a file that the destination refuses.
type RowLoad interface {
	// LoadRows loads a file after LoadFile has refused one of its rows as poison. It leaves
	// such rows out, which takes longer, and returns how many rows it loaded. It calls
	// refused, in order, for each row that it leaves out. A file that fails does not count as
	// loaded, although rows of it may be staged; loading it again converges.
	LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused RefusedRow) (int64, error)
}

// RefusedRow receives a row that was left out: the row, which is valid during the call, its
// number within the file, from 1, and the reason. An error fails the file.
type RefusedRow = func(row *change.Row, number int64, reason error) error

// Reader is a sink whose rows can be read, to compare them with the source.
type Reader interface {
	// Read yields every row of the table, in any order, as raw JSON values by column slot
	// of t. A row is valid until the next one is requested. A column that the destination
	// lacks has no value.
	Read(ctx context.Context, t *schema.Table) iter.Seq2[*change.Row, error]
}

// RowError is an error of LoadFile about one row that the destination refuses. A sink returns
// it if it knows the row.
type RowError struct {
	Row int64 // number of the row within the file, from 1
	Err error
}

func (e *RowError) Error() string { return fmt.Sprintf("row %d: %v", e.Row, e.Err) }
func (e *RowError) Unwrap() error { return e.Err }

// Limits are the size of batches that suits a destination.
type Limits struct {
	Rows  int // maximum number of events in a batch
	Bytes int // maximum payload bytes of a batch
	// Age is how long a batch waits for more events, if few large batches are cheaper; 0: it
	// does not wait.
	Age time.Duration
	// Stable requires that a batch that a crash interrupted comes again with the same
	// events, because the sink names its output by the whole batch.
	Stable bool
	// Metered says that use of the destination costs money, so eds leaves an idle one alone.
	Metered bool
}

// Pacer is a sink with limits from its URL, which overrule its driver's.
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
	// Option is the option of the URL with the field's value; "": the value belongs elsewhere
	// in the URL.
	Option string
}

// FieldError is an error about the value of a field.
type FieldError struct {
	Field string `json:"field"`
	Error string `json:"error"`
}

// Driver describes a kind of destination: a value, never a live object.
type Driver struct {
	Name    string   // short and lower case, as in `eds server help <name>`
	Title   string   // for display
	Schemes []string // of its URLs; the first is the canonical one
	Example string   // a whole URL
	Summary string   // one sentence
	Help    string   // paragraphs: setup, permissions, guarantees
	Options []Option
	// OptionPrefix may precede the names of Options in a URL that has options of its own,
	// which the driver passes on; "": a URL has no others.
	OptionPrefix string
	Fields       []Field
	Limits       Limits
	// KeepsRows says that the sink applies Batch.Sets; otherwise it writes Batch.Events.
	KeepsRows bool

	// Borrows returns the part of target by which eds would send a secret of this machine to
	// the destination: an option, or a missing one; "" if there is none. Only the operator's
	// own URL may do that. Nil: no URL does.
	Borrows func(target *url.URL) string

	// Identity identifies the destination of target: every spelling of its URL has the same
	// identity, and another destination has another one. User, secrets and tuning options
	// are not part of it. It never fails; a URL that Open refuses may have any identity.
	Identity func(target *url.URL) string
	// URL builds a destination URL from the values of Fields.
	URL func(values map[string]string) (string, []FieldError)
	// Open connects, and changes nothing at the destination: the first call that writes
	// creates a missing schema, file, directory or topic. Placeholders of the URL are
	// expanded; its scheme is one of Schemes. Unknown options are errors. Errors are marked
	// unless they are transient.
	Open func(ctx context.Context, target *url.URL, env Env) (Sink, error)
}

// Env is the environment of a sink.
type Env struct {
	Logger *slog.Logger
	// Stream, Consumer and Filter identify the checkpoint. Consumer is "" if the sink is to
	// store none, as during an import.
	Stream, Consumer, Filter string
	// ID becomes the destination's if it has none. Epoch is the last epoch in which this data
	// directory wrote to it.
	ID    string
	Epoch int64
	// Writer is this process.
	Writer Writer
	// After restricts writes to rows with a newer clock than the destination's row
	// (update_strategy "after").
	After bool
	// Access renews secrets and decides what a refusal means; nil: the sink keeps the URL that
	// Open gets.
	Access *Access
	// Lookup finds environment variables that an option names; nil: there are none.
	Lookup Lookup
	// Tables returns one version of a table's schema, for sinks that keep events and need
	// the columns of their rows. If the source has none, the error is poison, or has a method
	// NotFound that returns true. It is safe for concurrent use. Nil: there are no schemas.
	Tables func(ctx context.Context, table, version string) (*schema.Table, error)
	// Adjusted is called for each value that a documented rule changed because the
	// destination's type cannot hold it, with the rule's name.
	Adjusted func(table, column, rule string)
}

// Complete returns e with a Logger, an Adjusted and an Access that do nothing in place of nil
// ones.
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
