package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
	"unsafe"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/retry"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// item is what a message came to: an event to apply, a reason to skip it, or
// the error that makes it a dead letter.
type item struct {
	message *Message
	size    int           // of its payload in memory
	memory  int           // size, and what the event takes beside its payload
	event   *cdc.Event    // nil where it is skipped unread, or can not be decoded
	effect  change.Effect // of event on rows; none where the sink keeps history
	skipped skipReason    // "" where it is to be applied or rejected
	stage   string        // where it was rejected
	poison  error
	denied  error // HQ denies its schema version; with a Gate only
}

type skipReason string

const (
	skipCheckpoint skipReason = "checkpoint" // the destination has it already
	skipSnapshot   skipReason = "snapshot"   // the snapshot has it already
	skipNoRule     skipReason = "no rule"    // the schema validator does not know its table
	skipInvalid    skipReason = "invalid"    // it fails the schema validator
)

// Stages that reject events, as the dead-letter queue names them.
const (
	stageDecode = "decode"
	stageSchema = "schema"
	stageApply  = "apply"
)

// errEnding says that a message could not be decoded before the intake ended.
var errEnding = errors.New("the intake has ended")

// decodeChunks is one worker of the second stage. A chunk's items are its own
// until it closes done.
func (p *Pipeline) decodeChunks(ctx, intake context.Context, failed *intakeFailure) error {
	w := &worker{
		p: p, intake: intake, decoder: cdc.NewDecoder(),
		splitters: make(map[version]*change.Splitter), layouts: make(map[*schema.Table]*change.Splitter),
	}
	w.decoder.Members = p.c.KeepsRows
	w.decoder.Large = w.reserveLarge
	for {
		select {
		case c, ok := <-p.decode:
			if !ok {
				return nil
			}
			if err := w.decode(c); err != nil && !errors.Is(err, errEnding) {
				failed.set(err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// worker decodes chunks. It belongs to one goroutine.
type worker struct {
	p         *Pipeline
	intake    context.Context
	decoder   *cdc.Decoder
	splitters map[version]*change.Splitter
	layouts   map[*schema.Table]*change.Splitter

	chunk  *chunk
	events []cdc.Event // of the messages of chunk that have no item

	// What decoding changed and flow does not count yet, in bytes.
	raw      int // of messages, as they came, that are decoded
	growth   int // added to what is in flight
	reserved int // counted by flow already, for growth
}

type version struct{ table, model string }

// decode decodes c's messages into its items. An error ends the chunk where it
// stands.
func (w *worker) decode(c *chunk) (err error) {
	w.chunk, w.events = c, make([]cdc.Event, len(c.messages))
	c.items = make([]item, 0, len(c.messages))
	for err == nil && len(w.chunk.items) < len(w.chunk.messages) {
		if err = w.reserveSmall(); err == nil {
			err = w.next()
		}
	}
	w.count()
	last := w.chunk
	w.chunk, w.events = nil, nil
	last.cut = err != nil
	close(last.done)
	return err
}

// ownEvent is from which size of its text on an event shares no memory with its
// neighbours, which would keep it for as long as they are kept.
const ownEvent = 16 << 10

// next decodes the first message that has no item. A panic rejects the message.
func (w *worker) next() (err error) {
	m, e := &w.chunk.messages[len(w.chunk.items)], &w.events[0]
	data := m.Data
	var it item
	defer func() {
		if r := recover(); r != nil {
			m.Data = data
			w.p.c.Logger.Error("a message made the decoder panic", "sequence", m.Position.Sequence, "panic", panicText(r), "stack", string(debug.Stack()))
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
	it, err = w.item(m, e)
	return err
}

// measure drops what the event does not need any more, and computes its memory without
// the part that is the same for each event: MaxInFlight bounds that.
func (it *item) measure() {
	it.memory = it.size
	if it.event == nil {
		return
	}
	it.event.Members = nil // the effect has them by slot; they may take more than the row
	it.memory += len(it.event.ID) + len(it.event.MVCC)
	if row := it.effect.Upsert; row != nil { // a sparse row of a wide table takes more than its text
		it.memory += len(row.Spans) * int(unsafe.Sizeof(rawjson.Span{}))
	}
}

// smallReserve is how much a decoder reserves at once for messages that are not large.
const smallReserve = 2 * cdc.LargePayload

// reserveSmall waits until there is memory for the next message, if it is not large. A
// message that is not encoded takes no more than it does already.
func (w *worker) reserveSmall() error {
	if w.chunk.messages[len(w.chunk.items)].Encoding == "" || w.reserved-w.growth >= cdc.LargePayload {
		return nil
	}
	return w.reserve(smallReserve - max(0, w.reserved-w.growth))
}

// reserveLarge waits until there is memory for the message that is being decoded, which is
// a large one. Before, it hands over what was decoded, and its own reserve.
func (w *worker) reserveLarge(size int) error {
	w.count()
	return w.reserve(size)
}

// reserve waits until there are so many bytes for the next message, or the intake ends.
// Before it waits, it hands over what comes before the message.
func (w *worker) reserve(bytes int) error {
	before := w.chunk.before
	if n := len(w.chunk.items); n > 0 {
		before = w.chunk.messages[n-1].Position.Sequence
	}
	if !w.p.flow.tryReserve(before, bytes) {
		w.handOver()
		if w.p.flow.reserve(w.intake, before, bytes) != nil {
			return errEnding
		}
	}
	w.reserved += bytes
	return nil
}

// handOver hands over the items that the chunk has, and goes on with the rest of it.
func (w *worker) handOver() {
	w.count()
	c, n := w.chunk, len(w.chunk.items)
	if n == 0 {
		return
	}
	c.rest = &chunk{
		messages: c.messages[n:], before: c.messages[n-1].Position.Sequence, received: c.received, existed: c.existed,
		done: make(chan struct{}), items: make([]item, 0, len(c.messages)-n),
	}
	c.messages = c.messages[:n]
	w.chunk = c.rest
	close(c.done)
}

// count has flow count what decoding has changed, and gives back what is left of the
// reserve.
func (w *worker) count() {
	if w.raw != 0 || w.growth != w.reserved {
		w.p.flow.decoded(w.raw, w.growth-w.reserved)
	}
	w.raw, w.growth, w.reserved = 0, 0, 0
}

// panicText describes a panic without quoting what may be a value of a row.
func panicText(r any) string {
	if err, ok := r.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", r)
}

func (w *worker) item(m *Message, e *cdc.Event) (item, error) {
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
	m.Data = nil // the event holds its text
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
	return it, w.split(&it)
}

// check applies the rules to e.
func (w *worker) check(e *cdc.Event) skipReason {
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
		w.p.c.Logger.Warn("skipped an event that fails its schema", "table", e.Table, "event", e.ID, "sequence", e.Position.Sequence, "reason", reason)
		return skipInvalid
	}
}

// split finds the layout of the event's table and cuts its row images into
// columns.
func (w *worker) split(it *item) error {
	s, err := w.splitter(it.event)
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

// splitter returns the splitter of the event's table and version.
func (w *worker) splitter(e *cdc.Event) (*change.Splitter, error) {
	v := version{e.Table, e.ModelVersion}
	if s := w.splitters[v]; s != nil {
		return s, nil
	}
	t, err := w.layout(v)
	if err != nil {
		return nil, err
	}
	s := w.layouts[t]
	if s == nil {
		s = change.NewSplitter(t)
		s.Unknown = w.unknown(t)
		w.layouts[t] = s
	}
	w.splitters[v] = s
	return s, nil
}

// maxUnknown bounds the columns that UnknownColumns remembers, and maxColumnName what
// is logged of a name.
const (
	maxUnknown    = 1000
	maxColumnName = 100
)

// UnknownColumns are columns of events that the schemas of their tables lack. It is safe
// for concurrent use; the zero value is empty.
type UnknownColumns struct {
	mu   sync.Mutex
	seen map[[2]string]bool // table and column
}

// add adds a column, and reports whether it is new.
func (u *UnknownColumns) add(table, column string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := [2]string{table, column}
	if u.seen[key] || len(u.seen) >= maxUnknown {
		return false
	}
	if u.seen == nil {
		u.seen = make(map[[2]string]bool)
	}
	u.seen[key] = true
	return true
}

// unknown returns a function that logs a column that the schema lacks, once.
func (w *worker) unknown(t *schema.Table) func(name []byte) {
	seen := make(map[string]bool) // by this worker, which so need not wait for others
	return func(name []byte) {
		if seen[string(name)] || len(seen) >= maxUnknown {
			return
		}
		seen[string(name)] = true
		column := string(name[:min(len(name), maxColumnName)])
		if w.p.c.Unknown.add(t.Name, column) {
			w.p.c.Logger.Warn("events have a column that the schema lacks; it is not written", "table", t.Name, "version", t.Version, "column", column)
		}
	}
}

// unknownVersionPatience is for how long HQ may deny a schema version that the
// stream names before its events are dead letters: a version is published
// and its first change sent by different parts of the source.
const unknownVersionPatience = 15 * time.Second

// gatePatience stands for it if a Gate can leave the table behind, so that others do not
// wait as long.
const gatePatience = 3 * time.Second

func (p *Pipeline) denialPatience() time.Duration {
	if p.c.Gate != nil {
		return gatePatience
	}
	return unknownVersionPatience
}

// layout asks for a table's layout until there is an answer. The error is
// poison if HQ denies the version, errEnding if the intake ends before the answer
// is there. HQ is given time to publish a version only once, when its first event
// comes, and all versions that the stream holds by then share that time.
func (w *worker) layout(v version) (*schema.Table, error) {
	var backoff retry.Backoff
	for {
		if w.intake.Err() != nil {
			return nil, errEnding
		}
		began := time.Now()
		var t *schema.Table
		err := retry.Watch(func() { w.p.status.silent(troubleSchema, began) }, func() (err error) {
			t, err = w.p.c.Tables.Version(w.intake, v.table, v.model)
			return err
		})
		wait := time.Duration(0)
		switch {
		case err == nil:
			w.p.status.recovered(troubleSchema)
			return t, nil
		case w.intake.Err() != nil:
			return nil, errEnding
		case isNotFound(err):
			since, next := w.chunk.existed, time.Now().Add(backoff.Next(nil))
			reason := fmt.Errorf("the schema of table %.80q has no version %.80q", v.table, v.model)
			if denied, ok := errors.AsType[*schema.DeniedError](err); ok {
				since, next, reason = earlier(since, denied.Since), denied.Next, denied
			}
			left := time.Until(since.Add(w.p.denialPatience()))
			if left <= 0 {
				w.p.status.abandoned(troubleSchema)
				return nil, fault.Mark(fault.Poison, reason)
			}
			wait = min(left, time.Until(next))
		case fault.Of(err) != fault.Transient:
			return nil, err
		default:
			wait = backoff.Next(err)
		}
		w.p.status.trouble(troubleSchema, began, err)
		sleep(w.intake, wait)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// isNotFound reports whether HQ has answered that it knows no such version.
func isNotFound(err error) bool {
	var n interface{ NotFound() bool }
	return errors.As(err, &n) && n.NotFound()
}
