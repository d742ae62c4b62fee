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

var contentType = "application/json"

// data returns the event that stands for e. Its body is written to buffer, which
// is returned, and is the caller's again once the event is in a batch; replaced
// says that bytes that are not UTF-8 were.
func data(buffer []byte, e *cdc.Event, properties bool) (out *azeventhubs.EventData, body []byte, replaced bool) {
	body, replaced = encode.AppendEvent(buffer[:0], e)
	id := clean(encode.MessageKey(e))
	out = &azeventhubs.EventData{
		Body: body, ContentType: &contentType, MessageID: &id,
		Properties: map[string]any{"objectId": clean(e.RowID())},
	}
	if properties {
		out.Properties["eds-operation"] = e.Op.String()
		out.Properties["eds-table"] = clean(e.Table)
		out.Properties["eds-version"] = clean(e.ModelVersion)
		out.Properties["eds-clock"] = e.Clock.Sortable()
	}
	return out, body, replaced
}
