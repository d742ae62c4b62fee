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
// destination. After an error Apply may be called again, with the same batch or
// with parts of it in order, and must converge to the same result: also where
// the batch was durable and only the answer was lost. The batch is the caller's;
// a sink neither changes it nor keeps any of it.
//
// Errors carry a fault.Class: transient unless marked otherwise, poison where
// one of the batch's events can never be applied, fatal where only a person can
// help. They name no value of a row and no secret.
type Sink interface {
	Apply(ctx context.Context, b *change.Batch) error
	// Probe reports whether the sink would work: the destination is reachable, takes the
	// credentials, and grants the permissions. It may write, but leaves nothing, even if
	// the table, file or topic that the sink writes to does not exist yet.
	Probe(ctx context.Context) error
	// BeginLoad begins the load of one table from a snapshot, or continues the load of
	// the same job that was interrupted. A sink that keeps rows stages them beside the
	// live table, which stays as it is until Finish. Loads of different tables, and of
	// different jobs, may run concurrently. If mode replaces, t has the columns that tell
	// the rows of the scope.
	BeginLoad(ctx context.Context, job string, t *schema.Table, mode LoadMode, scope Scope) (Load, error)
	// Close releases the destination. It flushes nothing: what was not applied
	// is not promised.
	Close(ctx context.Context) error
}

// Checkpointer is a sink that stores, in the transaction of each batch, the
// position that the batch reached. It stores none where Env.Consumer is "".
type Checkpointer interface {
	// Checkpoint returns the stored position, or the zero Position where there
	// is none.
	Checkpoint(ctx context.Context) (cdc.Position, error)
	// ResetCheckpoint forgets it.
	ResetCheckpoint(ctx context.Context) error
}

// Identifier is a sink that keeps events, and whose destination can hold an id. A
// destination that lost its id is not the one that was written to: it was emptied, or
// its file system is not mounted.
type Identifier interface {
	// ID returns the id that the destination holds, "" if it holds none. It writes
	// nothing.
	ID(ctx context.Context) (string, error)
	// SetID has the destination hold Env.ID if it holds none, durably.
	SetID(ctx context.Context) error
}

// FilterReader is a sink that tells whose changes its destination has seen.
type FilterReader interface {
	// OtherFilters returns the filters, other than Env.Filter, under which any
	// consumer has stored a checkpoint. A long filter may be a hash of it.
	OtherFilters(ctx context.Context) ([]string, error)
}

// Migrator is a sink that has tables to keep in step with the source's. Apply migrates the
// tables of its batch as well, but never makes one again that was imported.
type Migrator interface {
	// Migrate makes the destination able to hold rows of every given table:
	// it creates tables, adds columns, widens types, and relaxes NOT NULL of
	// columns that have left. It never drops anything. It logs each change that it
	// made, and returns one line per change. A destination that is in step costs
	// little.
	Migrate(ctx context.Context, tables []*schema.Table) ([]string, error)
}

// ErrForeign says that a table has rows, and another key or other columns than eds would
// have made.
var ErrForeign = errors.New("the table was not made by eds")

// Adopter is a sink that recognises tables that are not eds's.
type Adopter interface {
	// Adopt returns ErrForeign if the destination has rows in a table with t's name
	// that eds would not have made. It changes nothing.
	Adopt(ctx context.Context, t *schema.Table) error
}

// LoadMode says what a load does with the rows that a table has already.
type LoadMode uint8

const (
	// Replace removes the rows of the load's scope that were not loaded. A load without
	// rows does not remove all of them: Finish returns ErrWouldEmpty.
	Replace LoadMode = iota
	// Merge upserts the loaded rows; others stay.
	Merge
	// ReplaceOrEmpty is Replace that also removes all rows of the scope.
	ReplaceOrEmpty
)

// Replaces reports whether rows that are not loaded go.
func (m LoadMode) Replaces() bool { return m != Merge }

// ErrWouldEmpty says that a load has no rows and its table has some, which stay. The
// load can be discarded.
var ErrWouldEmpty = errors.New("the snapshot has no rows for the table, but the table has some")

// ErrLoadLost says that what a load staged is gone, or is not what was staged, or no
// longer fits the table. The load is forgotten: it has to begin again.
var ErrLoadLost = errors.New("the loaded rows are lost")

// Load is the load of one table. Its methods are called serially.
type Load interface {
	// Loaded reports whether the file was loaded by this or an earlier run of
	// the job, and still is.
	Loaded(file string) bool
	// LoadFile stages the rows of one file: all of them, or, on any error, none.
	// A yielded row is valid until the next one is asked for.
	LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error)
	// Finish puts the staged rows in place, in one transaction if the destination
	// has them, and forgets the load. It returns how many rows that were, one per
	// key; -1 if the destination keeps events and does not count them. It first
	// makes sure that the rows of every loaded file are still staged: if not, it
	// returns ErrLoadLost. After another error it may be called again: if only the
	// answer was lost, it does nothing more.
	Finish(ctx context.Context) (rows int64, err error)
	// Discard forgets the load and what it staged; the live table stays as it is.
	Discard(ctx context.Context) error
	// Close releases the load's resources and keeps what is staged for a later
	// run. It may follow Finish and Discard.
	Close(ctx context.Context) error
}

// Resumer is a Load that puts the rows of a file in place for good before LoadFile
// returns, into a destination that remembers no files. So its caller remembers them.
type Resumer interface {
	// Resume tells which files earlier runs of the job have loaded. It is called
	// once, before any other method.
	Resume(files []string)
}

// RowLoad is a Load that can leave out the rows of a file that the destination refuses.
type RowLoad interface {
	// LoadRows is LoadFile for a file of which LoadFile has refused a row as poison: it
	// loads the others, which takes longer. It calls refused, in order, with each row
	// that it leaves out, the row's number within the file, from 1, and why. The row is
	// valid during the call, and an error that refused returns fails the file. Of a file
	// that fails rows may be staged, but it does not count as loaded, and loading it
	// again converges. It returns how many rows were loaded.
	LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused func(row *change.Row, number int64, reason error) error) (int64, error)
}

// Reader is a sink whose rows can be read back, to be compared with the source.
type Reader interface {
	// Read yields every row of the table, in any order, as raw JSON values by
	// column slot of t. A row is valid until the next one is asked for. A
	// column that the destination lacks has no value.
	Read(ctx context.Context, t *schema.Table) iter.Seq2[*change.Row, error]
}

// RowError is an error of LoadFile that is about one row, which the destination
// refuses. Where a sink knows the row it says so; the caller knows its line.
type RowError struct {
	Row int64 // number of the row within the file, from 1
	Err error
}

func (e *RowError) Error() string { return fmt.Sprintf("row %d: %v", e.Row, e.Err) }
func (e *RowError) Unwrap() error { return e.Err }

// Limits say what size of batch suits a destination.
type Limits struct {
	Rows  int // events a batch at most
	Bytes int // payload bytes a batch at most
	// Age is how long a batch waits for more, where each one costs so much that
	// freshness is worth less; 0 where a batch is written as soon as may be.
	Age time.Duration
	// Stable asks that a batch which a crash interrupted comes again as it was,
	// because what is written of it is named by the whole of it.
	Stable bool
	// Metered reports whether the destination is paid for by use, so that an idle one
	// is left alone.
	Metered bool
}

// Pacer is a sink whose URL says what size of batch it wants; its limits stand
// for its driver's.
type Pacer interface {
	Limits() Limits
}

// Field is one input of the form in which HQ configures a destination.
type Field struct {
	Name        string
	Type        string // "string", "number" or "boolean"
	Format      string // "password" or ""
	Default     string
	Description string
	Required    bool
	// Option is the option of the URL that has the field's value; "": the driver's URL puts it elsewhere.
	Option string
}

// FieldError says what is wrong with the value of a field.
type FieldError struct {
	Field string `json:"field"`
	Error string `json:"error"`
}

// Driver describes a kind of destination: a value, never a live object.
type Driver struct {
	Name    string   // short and lower case, as in `eds server help <name>`
	Title   string   // as a person writes it
	Schemes []string // of its URLs; the first is the canonical one
	Example string   // a whole URL
	Summary string   // one sentence
	Help    string   // paragraphs: set-up, permissions, guarantees
	Options []Option
	// OptionPrefix may precede the names of Options in a URL that has options of its own,
	// which the driver passes on; "": a URL has no others.
	OptionPrefix string
	Fields       []Field
	Limits       Limits
	// KeepsRows is true where the sink applies Batch.Sets, false where it
	// writes Batch.Events.
	KeepsRows bool

	// Borrows says which secret of this machine target has eds send to the destination:
	// an option, or what is missing; "" if none. Only a URL of the operator may do that;
	// nil: no URL does.
	Borrows func(target *url.URL) string

	// Identity says which destination target names: every spelling of its URL has the
	// same identity, another destination has another one. User, secrets and options that
	// tune the work are not part of it. It never fails; a URL that Open refuses has any
	// identity.
	Identity func(target *url.URL) string
	// URL builds a destination URL from the values of Fields.
	URL func(values map[string]string) (string, []FieldError)
	// Open connects, and changes nothing at the destination: a schema, file,
	// directory or topic that it lacks is made by the first call that writes. The
	// URL has been expanded; its scheme is one of Schemes. Unknown options are
	// errors. An error that is not transient is marked.
	Open func(ctx context.Context, target *url.URL, env Env) (Sink, error)
}

// Env is what a sink gets from the program around it.
type Env struct {
	Logger *slog.Logger
	// Stream, Consumer and Filter name the place of checkpoints. Consumer is
	// "" where none are to be kept, as during an import.
	Stream, Consumer, Filter string
	// ID becomes the destination's if it has none. Epoch is the last with which this
	// data directory wrote to it.
	ID    string
	Epoch int64
	// Writer is this process.
	Writer Writer
	// After asks that rows are written only where their clock is newer than
	// what the destination holds (update_strategy "after").
	After bool
	// Access is how the destination is reached; nil: with the URL that Open is given.
	Access *Access
	// Lookup finds environment variables that an option names; nil finds none.
	Lookup Lookup
	// Tables returns one version of a table's schema, for sinks that keep events
	// and want their rows' columns; where the source has none the error is poison,
	// or has a method NotFound that says so. It is safe for concurrent use. Nil: no
	// schema can be had.
	Tables func(ctx context.Context, table, version string) (*schema.Table, error)
	// Adjusted is called for each value that the destination's type can not
	// hold and that a documented rule changed, with the rule's name.
	Adjusted func(table, column, rule string)
}

// Complete returns e with what does nothing in the place of a Logger or an Adjusted
// that is nil, and with an Access.
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
