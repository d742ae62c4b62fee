package pipeline

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Source is a stream of changes.
type Source interface {
	// Receive returns the next run of messages, in strictly ascending stream
	// sequence, and none that it has returned before. It blocks until there is
	// one; a run is what is there, up to a few hundred messages. Where ctx ends
	// it returns ctx's error, and nothing is lost: the messages come with a
	// later call. Calls are serial. The messages are the caller's.
	//
	// A transient error may be answered by another call; the source repairs its
	// own connection and returns none for it.
	Receive(ctx context.Context) ([]Message, error)
	// Settle acknowledges every message up to and including upTo, each for
	// itself. It may be called concurrently with Receive.
	Settle(ctx context.Context, upTo cdc.Position) error
}

// Patient is a source that mends itself and can say what it waits for.
type Patient interface {
	// Health returns since when nothing can be received, and why; nil where all
	// is well. It is safe for concurrent use.
	Health() (since time.Time, reason error)
	// Waiting returns how many messages there were to receive when the source last
	// connected; false: it has not yet. It is safe for concurrent use.
	Waiting() (messages uint64, known bool)
}

// Message is one message of the stream.
type Message struct {
	Position cdc.Position
	Subject  string
	Encoding string // of Data, as the content-encoding header has it
	Data     []byte
	Pending  uint64 // messages behind it in the stream
}

// Tables knows the layout of every version of every table. It is safe for
// concurrent use. An error that has a method NotFound() bool which returns true,
// as a *schema.DeniedError, says that HQ has answered and denies the version.
type Tables interface {
	Version(ctx context.Context, table, modelVersion string) (*schema.Table, error)
}

// Rules choose among events. They are safe for concurrent use.
type Rules interface {
	// Check says whether to skip e, and with a reason where that is worth a line
	// in the log; else it may name the object to which file and object stores
	// write e. It neither changes e nor keeps it.
	Check(e *cdc.Event) (skip bool, reason, object string)
}
