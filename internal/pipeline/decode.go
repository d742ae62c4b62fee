package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"unsafe"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// item is a decoded message. It has an event to apply, a reason to skip the message, or an error
// that makes the message a dead letter.
type item struct {
	message *Message
	size    int           // bytes of the payload, uncompressed
	memory  int           // size plus other memory of the event, in bytes
	event   *cdc.Event    // nil if the message is skipped unread or cannot be decoded
	effect  change.Effect // effect of event on rows; zero unless the sink keeps rows
	skipped skipReason    // "" if the event is to be applied or rejected
	stage   string        // the stage that rejected the event
	poison  error
	denied  error // set if HQ denies the event's schema version and there is a Gate
}

type skipReason string

const (
	skipCheckpoint skipReason = "checkpoint" // the destination already has the event
	skipSnapshot   skipReason = "snapshot"   // the snapshot already has the event
	skipNoRule     skipReason = "no rule"    // the schema validator does not know the table
	skipInvalid    skipReason = "invalid"    // the event fails the schema validator
)

// Names of the stages that reject events, for the dead-letter queue.
const (
	stageDecode = "decode"
	stageSchema = "schema"
	stageApply  = "apply"
)

// errEnding is returned for a message that was not decoded before the intake ended.
var errEnding = errors.New("the intake has ended")

// decodeChunks is one worker of the second stage. It is the only user of a chunk's items until it
// closes the chunk's done channel.
func (p *Pipeline) decodeChunks(ctx, intake context.Context, failed *intakeFailure) error {
	w := &decodeWorker{
		p: p, decoder: cdc.NewDecoder(),
		splitters: make(map[tableVersion]*change.Splitter), layouts: make(map[*schema.Table]*change.Splitter),
	}
	w.decoder.Members = p.c.KeepsRows
	w.decoder.Large = func(size int) error { return w.reserveLarge(intake, size) }
	for {
		select {
		case c, ok := <-p.decode:
			if !ok {
				return nil
			}
			if err := w.decode(intake, c); err != nil && !errors.Is(err, errEnding) {
				failed.set(err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// decodeWorker decodes chunks. One goroutine uses it.
type decodeWorker struct {
	p         *Pipeline
	decoder   *cdc.Decoder
	splitters map[tableVersion]*change.Splitter
	layouts   map[*schema.Table]*change.Splitter

	chunk  *messageChunk
	events []cdc.Event // memory for the events of messages that have no item yet

	// Changes of memory since the last call of count, in bytes.
	raw      int // decoded messages, in their received form
	growth   int // memory that decoding added
	reserved int // memory that inFlight already counts for growth
}

// decode decodes the messages of c into items. If a message fails with an error, decode cuts the
// chunk before that message.
func (w *decodeWorker) decode(intake context.Context, c *messageChunk) (err error) {
	w.chunk, w.events = c, make([]cdc.Event, len(c.messages))
	c.items = make([]item, 0, len(c.messages))
	for err == nil && len(w.chunk.items) < len(w.chunk.messages) {
		if err = w.reserveSmall(intake); err == nil {
			err = w.next(intake)
		}
	}
	w.count()
	last := w.chunk
	w.chunk, w.events = nil, nil
	last.cut = err != nil
	close(last.done)
	return err
}

// ownEvent is the payload size, in bytes, from which an event gets a separate allocation. Smaller
// events of a chunk share one allocation, so each of them keeps the whole allocation in memory.
const ownEvent = 16 << 10

// next decodes the chunk's first message that has no item yet. If the decoder panics, next rejects
// the message.
func (w *decodeWorker) next(intake context.Context) (err error) {
	m, e := &w.chunk.messages[len(w.chunk.items)], &w.events[0]
	data := m.Data
	var it item
	defer func() {
		if r := recover(); r != nil {
			m.Data = data
			w.p.c.Logger.Error("a message made the decoder panic",
				"sequence", m.Position.Sequence, "panic", panicText(r), "stack", string(debug.Stack()))
			it = item{message: m, size: len(data), stage: stageDecode, poison: errors.New("the decoder panicked: " + panicText(r))}
			err = nil
		}
		if err == nil {
			it.measure()
			w.raw += len(data)
			w.growth += it.memory - len(data)
			w.chunk.items, w.events = append(w.chunk.items, it), w.events[1:]
		}
	}()
	it, err = w.item(intake, m, e)
	return err
}

// measure drops the parts of the event that are no longer needed, and computes the memory of the
// item. It omits the memory that is equal for all events, because MaxInFlight bounds that memory.
func (it *item) measure() {
	it.memory = it.size
	if it.event == nil {
		return
	}
	it.event.Members = nil // the effect holds the values by slot; Members may need more memory than the row
	it.memory += len(it.event.ID) + len(it.event.MVCC)
	if row := it.effect.Upsert; row != nil { // a sparse row of a wide table needs more than its text
		it.memory += len(row.Spans) * int(unsafe.Sizeof(rawjson.Span{}))
	}
}

// smallReserve is the number of bytes that a decoder reserves at once for messages up to
// cdc.LargePayload.
const smallReserve = 2 * cdc.LargePayload

// reserveSmall makes sure that the reserve suffices for the next message if that message is not
// large. If necessary, reserveSmall waits for memory. A message without an encoding needs no
// reserve, because it needs no more memory than it already has.
func (w *decodeWorker) reserveSmall(intake context.Context) error {
	if w.chunk.messages[len(w.chunk.items)].Encoding == "" || w.reserved-w.growth >= cdc.LargePayload {
		return nil
	}
	return w.reserve(intake, smallReserve-max(0, w.reserved-w.growth))
}

// reserveLarge waits for memory for the large message that is being decoded. Before it waits, it
// returns the worker's unused reserve, and hands over the messages that are already decoded.
func (w *decodeWorker) reserveLarge(intake context.Context, size int) error {
	w.count()
	return w.reserve(intake, size)
}

// reserve reserves bytes for the next message. If it must wait for the memory, it first hands over
// the messages that are already decoded. It returns errEnding if the intake ends first.
func (w *decodeWorker) reserve(intake context.Context, bytes int) error {
	before := w.chunk.before
	if n := len(w.chunk.items); n > 0 {
		before = w.chunk.messages[n-1].Position.Sequence
	}
	if !w.p.inFlight.tryReserve(before, bytes) {
		w.handOver()
		if w.p.inFlight.reserve(intake, before, bytes) != nil {
			return errEnding
		}
	}
	w.reserved += bytes
	return nil
}

// handOver ends the chunk after its decoded messages, so that the batcher can use their items. The
// worker continues with the other messages in a new chunk.
func (w *decodeWorker) handOver() {
	w.count()
	c, n := w.chunk, len(w.chunk.items)
	if n == 0 {
		return
	}
	c.rest = &messageChunk{
		messages: c.messages[n:], before: c.messages[n-1].Position.Sequence, received: c.received, existed: c.existed,
		done: make(chan struct{}), items: make([]item, 0, len(c.messages)-n),
	}
	c.messages = c.messages[:n]
	w.chunk = c.rest
	close(c.done)
}

// count reports the changes of memory to inFlight, and returns the unused reserve.
func (w *decodeWorker) count() {
	if w.raw != 0 || w.growth != w.reserved {
		w.p.inFlight.decoded(w.raw, w.growth-w.reserved)
	}
	w.raw, w.growth, w.reserved = 0, 0, 0
}

// panicText describes the panic value r. It quotes only runtime errors, because any other value may
// contain data of a row.
func panicText(r any) string {
	if err, ok := r.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", r)
}

func (w *decodeWorker) item(intake context.Context, m *Message, e *cdc.Event) (item, error) {
	it := item{message: m, size: len(m.Data)}
	if w.p.c.Checkpoint.Covers(m.Position) {
		it.skipped = skipCheckpoint
		m.Data = nil
		return it, nil
	}
	e.Position = m.Position
	err := w.decoder.Decode(e, m.Data, m.Encoding)
	switch {
	case errors.Is(err, errEnding):
		return it, err
	case err != nil:
		it.stage, it.poison = stageDecode, err
		return it, nil
	}
	if len(e.Payload) >= ownEvent {
		own := *e
		*e, e = cdc.Event{}, &own
	}
	it.event, it.size = e, len(e.Payload)
	m.Data = nil // the event holds the payload
	if err := schema.CheckStreamTable(e.Table); err != nil {
		it.stage, it.poison = stageSchema, err
		return it, nil
	}
	if clock, ok := w.p.c.SnapshotClock(e.Table); ok && !e.Clock.IsZero() && e.Clock.Compare(clock) <= 0 {
		it.skipped = skipSnapshot
		return it, nil
	}
	if skip := w.check(e); skip != "" {
		it.skipped = skip
		return it, nil
	}
	if !w.p.c.KeepsRows {
		return it, nil
	}
	return it, w.split(intake, &it)
}

// check applies the rules to e. It returns the reason to skip e, or "". If e is not skipped, check
// sets e.Object.
func (w *decodeWorker) check(e *cdc.Event) skipReason {
	if w.p.c.Rules == nil {
		return ""
	}
	skip, reason, object := w.p.c.Rules.Check(e)
	switch {
	case !skip:
		e.Object = object
		return ""
	case reason == "":
		return skipNoRule
	default:
		w.p.c.Logger.Warn("skipped an event that fails its schema",
			"table", e.Table, "event", e.ID, "sequence", e.Position.Sequence, "reason", reason)
		return skipInvalid
	}
}

// split finds the layout of the event's table, and sets the item's effect: the event's row images,
// split into columns. If the event can never be split, split stores the reason in the item and
// returns nil. Any error that split returns ends the intake.
func (w *decodeWorker) split(intake context.Context, it *item) error {
	s, err := w.splitter(intake, it.event)
	switch {
	case err == nil:
	case fault.Of(err) == fault.Poison && w.p.c.Gate != nil:
		it.denied = err
		return nil
	case fault.Of(err) == fault.Poison:
		it.stage, it.poison = stageSchema, err
		return nil
	default:
		return err
	}
	effect, err := s.Effect(it.event)
	if err != nil {
		it.stage, it.poison = stageDecode, err
		return nil
	}
	it.effect = effect
	return nil
}
