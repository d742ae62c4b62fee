package kafka

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// partitionHeader is the header whose hash chooses the partition. It is the first header of every
// record.
const partitionHeader = "eds-partitionkey"

// chunkEvents is the number of events that a goroutine encodes at a time.
const chunkEvents = 512

// records encodes the events as messages, in stream order, on all processors. The
// messages share no memory with the events. They are valid until the next call of arena.reclaim. An
// error concerns a single event.
func (s *Sink) records(events []*cdc.Event) ([]*kgo.Record, error) {
	topics, err := s.topicsOf(events)
	if err != nil {
		return nil, err
	}
	if len(events) <= chunkEvents {
		w := s.arena.take(s)
		err := w.events(events, topics)
		return w.all, err
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	var writers []*recordWriter
	for first := 0; first < len(events); first += chunkEvents {
		w, last := s.arena.take(s), min(first+chunkEvents, len(events))
		writers = append(writers, w)
		group.Go(func() error { return w.events(events[first:last], topics[first:last]) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []*kgo.Record
	for _, w := range writers {
		all = append(all, w.all...)
	}
	return all, nil
}

// topicsOf returns the topic of each event. An error concerns a single event.
func (s *Sink) topicsOf(events []*cdc.Event) ([]string, error) {
	topics := make([]string, len(events))
	known := make(map[string]string)
	for i, e := range events {
		var err error
		if topics[i], err = s.topic.Of(e, known); err != nil {
			return nil, err
		}
	}
	return topics, nil
}

// arena holds the writers of messages. After the brokers have acknowledged a batch, the memory of
// the batch's writers is reused.
type arena struct{ free, lent []*recordWriter }

// maxKeptText is the maximum capacity of the text, in bytes, of a writer that is kept for reuse.
const maxKeptText = 4 << 20

func (a *arena) take(s *Sink) *recordWriter {
	w := new(recordWriter)
	if n := len(a.free); n > 0 {
		w, a.free = a.free[n-1], a.free[:n-1]
	}
	w.sink = s
	a.lent = append(a.lent, w)
	return w
}

// reclaim takes back all lent writers. The caller must no longer use any message that they built.
func (a *arena) reclaim() {
	for _, w := range a.lent {
		if cap(w.text) <= maxKeptText && len(a.free) < 64 {
			a.free = append(a.free, w)
		}
	}
	clear(a.lent)
	a.lent = a.lent[:0]
}

// recordWriter builds messages. The messages point into a few large slabs of memory that the writer
// owns.
type recordWriter struct {
	sink    *Sink
	all     []*kgo.Record
	slab    []kgo.Record
	headers []kgo.RecordHeader
	text    []byte
}

// since returns the text that was written after the offset mark. The result has no spare
// capacity, so appending to it does not overwrite later text.
func (w *recordWriter) since(mark int) []byte { return w.text[mark:len(w.text):len(w.text)] }

// write appends text to the slab w.text and returns the copy.
func (w *recordWriter) write(text string) []byte {
	mark := len(w.text)
	w.text = append(w.text, text...)
	return w.since(mark)
}

// events builds the messages for the given events. The topic of events[i] is topics[i].
func (w *recordWriter) events(events []*cdc.Event, topics []string) error {
	size := 0
	for _, e := range events {
		size += len(e.Payload) + 320
	}
	w.text = slices.Grow(w.text[:0], size)
	w.all = slices.Grow(w.all[:0], len(events))
	w.slab = slices.Grow(w.slab[:0], len(events))
	w.headers = slices.Grow(w.headers[:0], 5*len(events))
	for i, e := range events {
		if err := w.event(topics[i], e); err != nil {
			return err
		}
	}
	return nil
}

// event adds the message with the value of e. With key=row it also adds a tombstone for a deleted
// row, and a tombstone for the previous key of a row whose id changed.
func (w *recordWriter) event(topic string, e *cdc.Event) error {
	mark := len(w.text)
	var key, partition []byte
	if w.sink.byRow {
		var err error
		if w.text, err = appendRowKey(w.text, e, nil); err != nil {
			return err
		}
		key = w.since(mark)
		partition = key
	} else {
		w.text = encode.AppendMessageKey(w.text, e)
		key = w.since(mark)
		mark = len(w.text)
		w.text = encode.AppendPartitionKey(w.text, e)
		partition = w.since(mark)
	}
	if w.sink.flat {
		if err := checkColumns(e); err != nil {
			return err
		}
	}
	mark = len(w.text)
	var replaced bool
	if w.text, replaced = w.sink.format(w.text, e); replaced {
		w.sink.env.Adjusted(e.Table, "", "invalid-utf8")
	}
	value := w.since(mark)
	if w.sink.byRow {
		if err := w.tombstoneOldKey(topic, e); err != nil {
			return err
		}
	}
	w.add(topic, key, value, partition, e)
	if w.sink.byRow && e.Op == cdc.Delete {
		w.add(topic, key, nil, partition, e)
	}
	return nil
}

// tombstoneOldKey adds a tombstone for the row's previous key if e is an UPDATE that changed the
// row's id.
func (w *recordWriter) tombstoneOldKey(topic string, e *cdc.Event) error {
	if e.Op != cdc.Update || e.Before == nil || e.Diff != nil && !bytes.Contains(e.Diff, []byte(`"id"`)) {
		return nil
	}
	was := member(e.Before, "id")
	if was == nil || rawjson.IsNull(was) || string(rawjson.Text(was)) == e.RowID() {
		return nil
	}
	mark := len(w.text)
	var err error
	if w.text, err = appendRowKey(w.text, e, was); err != nil {
		return err
	}
	key := w.since(mark)
	w.add(topic, key, nil, key, e)
	return nil
}

// add adds one message. A message whose value is nil is a tombstone. The hash of the parameter
// partition chooses the message's partition.
func (w *recordWriter) add(topic string, key, value, partition []byte, e *cdc.Event) {
	first := len(w.headers)
	w.headers = append(w.headers, kgo.RecordHeader{Key: partitionHeader, Value: partition})
	if w.sink.config.headers {
		mark := len(w.text)
		w.text = e.Clock.AppendSortable(w.text)
		clock := w.since(mark)
		w.headers = append(w.headers,
			kgo.RecordHeader{Key: "eds-operation", Value: w.write(e.Op.String())},
			kgo.RecordHeader{Key: "eds-table", Value: w.write(e.Table)},
			kgo.RecordHeader{Key: "eds-version", Value: w.write(e.ModelVersion)},
			kgo.RecordHeader{Key: "eds-clock", Value: clock},
		)
	}
	if len(w.slab) == cap(w.slab) { // start a new slab: pointers into the old one stay valid
		w.slab = make([]kgo.Record, 0, max(8, cap(w.slab)))
	}
	w.slab = append(w.slab, kgo.Record{Topic: topic, Key: key, Value: value, Headers: w.headers[first:len(w.headers):len(w.headers)]})
	w.all = append(w.all, &w.slab[len(w.slab)-1])
}

// appendRowKey appends a JSON array of the event's table and primary key. The array for a row is
// always the same text, no matter how the source formats the values. If the parameter last is not
// nil, it replaces the last element of the primary key.
func appendRowKey(dst []byte, e *cdc.Event, last []byte) ([]byte, error) {
	dst = rawjson.AppendQuoted(append(dst, '['), e.Table)
	elements := 0
	put := func(raw []byte) {
		elements++
		dst = append(dst, ',')
		if rawjson.IsString(raw) {
			dst = rawjson.AppendQuoted(dst, rawjson.Text(raw))
		} else {
			dst, _ = encode.AppendPart(dst, e, raw)
		}
	}
	var held []byte                                          // the previous element; it may be the last
	_ = rawjson.Elements(e.Key, func(s rawjson.Span) error { // the decoder has validated the key
		if held != nil {
			put(held)
		}
		held = e.Key[s.Start:s.End]
		return nil
	})
	switch id := e.RowID(); {
	case last != nil:
		put(last)
	case held != nil:
		put(held)
	case id != "":
		put(rawjson.AppendQuoted(nil, id))
	}
	if elements == 0 {
		return dst, fault.Mark(fault.Poison, errNoKey)
	}
	return append(dst, ']'), nil
}

// valueFormatter appends the value of an event's message to dst. The result replaced says whether
// invalid UTF-8 was replaced.
type valueFormatter func(dst []byte, e *cdc.Event) (out []byte, replaced bool)

var formats = map[string]valueFormatter{"eds": encode.AppendEvent, "flat": appendFlat, "debezium": appendDebezium}

// appendFlat appends the row as an object, with added columns that describe the change.
func appendFlat(dst []byte, e *cdc.Event) ([]byte, bool) {
	image := e.After
	if e.Op == cdc.Delete {
		image = oldRow(e)
	}
	if image == nil {
		image = []byte("{}")
	}
	dst, replaced := encode.AppendPart(dst, e, image)
	dst = dst[:len(dst)-1] // without the final }
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(append(dst, `"_eds_op":"`...), e.Op.String()...)
	dst = rawjson.AppendQuoted(append(dst, `","_eds_table":`...), e.Table)
	dst = e.Clock.AppendSortable(append(dst, `,"_eds_version":"`...))
	dst = rawjson.AppendQuoted(append(dst, `","_eds_id":`...), e.ID)
	dst = strconv.AppendBool(append(dst, `,"_eds_deleted":`...), e.Op == cdc.Delete)
	return append(dst, '}'), replaced
}

// checkColumns returns a Poison error if the row has a column whose name is reserved for eds.
func checkColumns(e *cdc.Event) error {
	image := e.After
	if e.Op == cdc.Delete {
		image = e.Before
	}
	if image == nil {
		return nil
	}
	m, err := rawjson.OpenObject(image)
	if err != nil {
		return fault.Mark(fault.Poison, err)
	}
	for m.Next() {
		if schema.Reserved(string(m.Name())) {
			return fault.Mark(fault.Poison, fmt.Errorf("column %.80q of table %q: %w", m.Name(), e.Table, schema.ErrReserved))
		}
	}
	return nil
}

// oldRow returns the row before the change, or nil if that is unknown. For a DELETE, the result has at
// least the row's id.
func oldRow(e *cdc.Event) []byte {
	if e.Before == nil && e.Op == cdc.Delete {
		return append(rawjson.AppendQuoted([]byte(`{"id":`), e.RowID()), '}')
	}
	return e.Before
}

// appendDebezium appends the change in the envelope that Debezium's connectors write if schemas are
// disabled.
func appendDebezium(dst []byte, e *cdc.Event) ([]byte, bool) {
	replaced := false
	image := func(name string, row []byte) {
		dst = append(append(dst, name...), ':')
		if row == nil {
			dst = append(dst, "null"...)
			return
		}
		var r bool
		dst, r = encode.AppendPart(dst, e, row)
		replaced = replaced || r
	}
	image(`{"before"`, oldRow(e))
	image(`,"after"`, e.After)
	dst = strconv.AppendInt(append(dst, `,"source":{"connector":"eds","name":"eds","ts_ms":`...), e.Clock.Wall/1_000_000, 10)
	dst = strconv.AppendBool(append(dst, `,"snapshot":"`...), e.Imported)
	dst = rawjson.AppendQuoted(append(dst, `","db":"shopmonkey","table":`...), e.Table)
	dst = e.Clock.AppendSortable(append(dst, `,"clock":"`...))
	dst = rawjson.AppendQuoted(append(dst, `","id":`...), e.ID)
	dst = append(append(dst, `},"op":"`...), debeziumOp(e), '"')
	dst = strconv.AppendInt(append(dst, `,"ts_ms":`...), e.Timestamp, 10)
	return append(dst, '}'), replaced
}

func debeziumOp(e *cdc.Event) byte {
	switch {
	case e.Imported:
		return 'r'
	case e.Op == cdc.Insert:
		return 'c'
	case e.Op == cdc.Update:
		return 'u'
	default:
		return 'd'
	}
}

// member returns the raw value of the object's member with the given name, or nil if there is none.
func member(object []byte, name string) []byte {
	m, err := rawjson.OpenObject(object)
	if err != nil {
		return nil
	}
	var value []byte
	for m.Next() {
		if string(m.Name()) == name {
			value = m.Value()
		}
	}
	return value
}

// partitioner chooses the partition of a record by the hash of its first header.
type partitioner struct{}

func (partitioner) ForTopic(string) kgo.TopicPartitioner { return partitioner{} }

// RequiresConsistency returns true, so that a row stays in its partition even while that partition
// is unavailable.
func (partitioner) RequiresConsistency(*kgo.Record) bool { return true }

func (partitioner) Partition(r *kgo.Record, n int) int {
	return encode.Partition(r.Headers[0].Value, n)
}
