package pipeline

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Source is a stream of changes.
type Source interface {
	// Receive returns the next messages, in strictly ascending stream sequence. It never returns a
	// message twice. It blocks until a message is available, and then returns the available
	// messages, up to a few hundred. If ctx ends, it returns ctx's error and loses no message: a
	// later call returns the messages. Calls are serial. The caller owns the messages.
	//
	// After a transient error, the caller may call Receive again. The source repairs its own
	// connection, and returns no error while it does so.
	Receive(ctx context.Context) ([]Message, error)
	// Acknowledge acknowledges every message up to and including upTo, each one individually. It
	// may be called concurrently with Receive.
	Acknowledge(ctx context.Context, upTo cdc.Position) error
}

// HealthReporter is a Source that repairs itself, and reports why it currently receives no
// messages.
type HealthReporter interface {
	// Health returns the reason why no message can be received, and the time since which that is
	// so. The reason is nil if the source is healthy. Health is safe for concurrent use.
	Health() (since time.Time, reason error)
	// Waiting returns the number of messages that were available when the source last connected. If
	// the source has not connected yet, the result known is false. Waiting is safe for concurrent
	// use.
	Waiting() (messages uint64, known bool)
}

// Message is one message of the stream.
type Message struct {
	Position cdc.Position
	Subject  string
	Encoding string // encoding of Data, from the content-encoding header
	Data     []byte
	Pending  uint64 // number of messages after this one in the stream
}

// Tables returns the layout of every schema version of every table. It is safe for concurrent use.
// If HQ denies a version, the error has a method NotFound() bool that returns true, as
// *schema.DeniedError does.
type Tables interface {
	Version(ctx context.Context, table, modelVersion string) (*schema.Table, error)
}

// Rules decide which events are applied. They are safe for concurrent use.
type Rules interface {
	// Check reports whether to skip e. If the result skip is true, a reason other than "" is
	// logged. If the result skip is false, the result object may be the object name under which
	// file and object stores write e. Check neither changes e nor keeps a reference to e.
	Check(e *cdc.Event) (skip bool, reason, object string)
}
