package eventhub

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/encode"
)

// maxPartitionKey is the length of a partition key that Event Hubs allows, in
// UTF-16 code units.
const maxPartitionKey = 128

// partitionKey returns the event's partition key; one that is too long is cut,
// and ends in a hash of all of it.
func partitionKey(e *cdc.Event) string {
	key := clean(encode.PartitionKey(e))
	if len(key) <= maxPartitionKey || utf16Length(key) <= maxPartitionKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	tail := "-" + hex.EncodeToString(sum[:16])
	room := maxPartitionKey - len(tail)
	for i, r := range key {
		if room -= utf16.RuneLen(r); room < 0 {
			return key[:i] + tail
		}
	}
	return key
}

func utf16Length(text string) int {
	n := 0
	for _, r := range text {
		n += utf16.RuneLen(r)
	}
	return n
}

// clean returns text as AMQP can carry it: a U+FFFD for each byte that is not
// UTF-8, as in an event's body.
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

// writer makes events, one at a time: each is good until the next one is made.
type writer struct {
	all      bool // properties, beside objectId
	body     []byte
	id       string
	event    azeventhubs.EventData
	previous [2]text // table and version, which seldom change
}

// text is a string, and what it is as a property.
type text struct {
	plain    string
	property any
}

func newWriter(all bool) *writer {
	w := &writer{all: all}
	kind := "application/json"
	w.event = azeventhubs.EventData{ContentType: &kind, MessageID: &w.id, Properties: make(map[string]any, 5)}
	for i := range w.previous {
		w.previous[i].property = ""
	}
	return w
}

var operations = map[cdc.Op]any{cdc.Insert: cdc.Insert.String(), cdc.Update: cdc.Update.String(), cdc.Delete: cdc.Delete.String()}

// write returns the event that stands for e; replaced says that bytes that are
// not UTF-8 were.
func (w *writer) write(e *cdc.Event) (out *azeventhubs.EventData, replaced bool) {
	w.body, replaced = encode.AppendEvent(w.body[:0], e)
	w.event.Body = w.body
	w.id = clean(encode.MessageKey(e))
	w.event.Properties["objectId"] = clean(e.RowID())
	if w.all {
		w.event.Properties["eds-operation"] = operations[e.Op]
		w.event.Properties["eds-table"] = w.previous[0].of(e.Table)
		w.event.Properties["eds-version"] = w.previous[1].of(e.ModelVersion)
		w.event.Properties["eds-clock"] = e.Clock.Sortable()
	}
	return &w.event, replaced
}

func (t *text) of(plain string) any {
	if t.plain != plain {
		*t = text{plain, clean(plain)}
	}
	return t.property
}
