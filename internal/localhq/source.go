package localhq

import (
	"context"
	"encoding/json"
	"iter"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// source is where the data comes from: the shop. Its methods are safe for
// concurrent use.
type source interface {
	// do does a piece of work, which makes changes, and hands each to publish
	// in order. An error of publish ends it; nothing is lost by that.
	do(ctx context.Context, publish func(message) error) error
	// evolve changes the schema and says how.
	evolve(ctx context.Context, publish func(message) error) (string, error)
	latestSchemas() map[string]json.RawMessage
	schema(object, version string) (json.RawMessage, bool)
	snapshot() snapshot
	tables() []string
	companies() []string
	close() error
}

// snapshot is the source at one instant: it holds every change whose clock is
// at or before its own, and no other.
type snapshot interface {
	clock() cdc.Timestamp
	// rows yields the rows of a table, of the given companies and locations;
	// none means all. A row is one JSON object on one line, valid until the
	// next is asked for.
	rows(table string, companies, locations []string) iter.Seq[json.RawMessage]
}

// message is a change as it goes into the stream. The publisher keeps its memory.
type message struct {
	subject string
	id      string
	data    []byte
}
