package eventhub

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// maxPartitionKey is the maximum length, in UTF-16 code units, that Event Hubs allows for a
// partition key.
const maxPartitionKey = 128

// partitionKey returns the event's partition key. It reports whether that is exactly the key that the
// protocol defines, which ends in the row's id. Otherwise, the key was cleaned, or was cut because it
// is too long; a cut key ends in a hash of the whole key.
func partitionKey(e *cdc.Event) (key string, exact bool) {
	raw := encode.PartitionKey(e)
	key = clean(raw)
	if len(key) <= maxPartitionKey || utf16Length(key) <= maxPartitionKey {
		return key, len(key) == len(raw)
	}
	sum := sha256.Sum256([]byte(key))
	tail := "-" + hex.EncodeToString(sum[:16])
	room := maxPartitionKey - len(tail)
	for i, r := range key {
		if room -= utf16.RuneLen(r); room < 0 {
			return key[:i] + tail, false
		}
	}
	return key, false
}

func utf16Length(text string) int {
	n := 0
	for _, r := range text {
		n += utf16.RuneLen(r)
	}
	return n
}

// clean returns text as valid UTF-8, which AMQP requires. Like the body of an event,
// the result has U+FFFD in place of each invalid byte.
func clean(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		b.WriteRune(r)
	}
	return b.String()
}

// messageWriter builds the client's events, one at a time. Each event is valid until the next one
// is built.
type messageWriter struct {
	all      bool // write all properties, not only objectId
	event    azeventhubs.AMQPAnnotatedMessage
	rest     map[string]any    // reused for every event of a message except the first
	previous [3]cachedProperty // of row id, table and version, which seldom change
}

// cachedProperty is the string that was last written for a property, and the property value made
// from it.
type cachedProperty struct {
	plain    string
	property any
}

func newMessageWriter(all bool) *messageWriter {
	w := &messageWriter{all: all, rest: make(map[string]any, 5)}
	kind := "application/json"
	w.event.Properties = &azeventhubs.AMQPAnnotatedMessageProperties{ContentType: &kind}
	w.event.Body.Data = make([][]byte, 1)
	for i := range w.previous {
		w.previous[i].property = ""
	}
	return w
}

// operations maps each operation to the value of the property eds-operation.
var operations = map[cdc.Op]any{cdc.Insert: cdc.Insert.String(), cdc.Update: cdc.Update.String(), cdc.Delete: cdc.Delete.String()}

// write returns the client's event for event n of queue l. The parameter first says whether the
// event is the first one in its message. The result replaced says whether invalid UTF-8 was
// replaced. The client keeps the properties of a message's first event until the message is sent,
// so write does not reuse those properties. The client does not keep the body.
func (w *messageWriter) write(l *keyQueue, n int, first bool) (out *azeventhubs.AMQPAnnotatedMessage, replaced bool) {
	e := l.events[n]
	w.event.Body.Data[0], replaced = encode.Text(e)
	w.event.Properties.MessageID = clean(encode.MessageKey(e))
	properties := w.rest
	if first {
		properties = make(map[string]any, 5)
	}
	properties["objectId"] = w.previous[0].of(l.rowID(e))
	if w.all {
		properties["eds-operation"] = operations[e.Op]
		properties["eds-table"] = w.previous[1].of(e.Table)
		properties["eds-version"] = w.previous[2].of(e.ModelVersion)
		properties["eds-clock"] = e.Clock.Sortable()
	}
	w.event.ApplicationProperties = properties
	return &w.event, replaced
}

// release drops the references to the caller's event.
func (w *messageWriter) release() {
	w.event.Body.Data[0], w.event.ApplicationProperties = nil, nil
}

// The method named of returns the property value for a string, which is the parameter plain.
func (t *cachedProperty) of(plain string) any {
	if t.plain != plain {
		*t = cachedProperty{plain, clean(plain)}
	}
	return t.property
}

// rowID returns the row's id for event e of the queue. A plain partition key has table, company and
// location, each followed by a dot, before the row's id.
func (l *keyQueue) rowID(e *cdc.Event) string {
	if !l.plain {
		return e.RowID()
	}
	before := len(e.Table) + 3
	for _, id := range []string{e.CompanyID, e.LocationID} {
		if id == "" {
			id = "NONE"
		}
		before += len(id)
	}
	return l.key[before:]
}
