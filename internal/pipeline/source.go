package pipeline

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Source is a stream of changes.
type Source interface {
	// Receive returns the next run of messages, in strictly ascending stream sequence, and never
	// returns a message twice. It blocks until a message is available, and returns available
	// messages, up to a few hundred. If ctx ends, it returns ctx's error and loses nothing: a later
	// call returns the messages. Calls are serial. The caller owns the messages.
	//
	// The caller may call it again after a transient error. The source repairs its own connection
	// and returns no error for it.
	Receive(ctx context.Context) ([]Message, error)
	// Acknowledge acknowledges every message up to and including upTo, each one individually. It
	// may be called concurrently with Receive.
	Acknowledge(ctx context.Context, upTo cdc.Position) error
}

// HealthReporter is a source that repairs itself and reports why it waits.
type HealthReporter interface {
	// Health returns since when and why no message can be received; nil if the source is healthy.
	// It is safe for concurrent use.
	Health() (since time.Time, reason error)
	// Waiting returns how many messages were available when the source last connected; false: it
	// has not connected yet. It is safe for concurrent use.
	Waiting() (messages uint64, known bool)
}

// Message is one message of the stream.
type Message struct {
	Position cdc.Position
	Subject  string
	Encoding string // of Data: the content-encoding header
	Data     []byte
	Pending  uint64 // messages after it in the stream
}

// Tables returns the layout of every version of every table. It is safe for concurrent use. If HQ
// denies the version, the error has a method NotFound() bool that returns true, like
// *schema.DeniedError.
type Tables interface {
	Version(ctx context.Context, table, modelVersion string) (*schema.Table, error)
}

// Rules select events. They are safe for concurrent use.
type Rules interface {
	// Check reports whether to skip e, with a reason if the log should have a line about it.
	// Otherwise it may return the object name under which file and object stores write e. It
	// neither changes e nor keeps it.
	Check(e *cdc.Event) (skip bool, reason, object string)
}
