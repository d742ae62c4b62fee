package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// item is what a message came to: an event to apply, a reason to skip it, or
// the error that makes it a dead letter.
type item struct {
	message *Message
	size    int           // of its payload in memory
	event   *cdc.Event    // nil where it is skipped unread, or can not be decoded
	effect  change.Effect // of event on rows; none where the sink keeps history
	skipped skipReason    // "" where it is to be applied or rejected
	stage   string        // where it was rejected
	poison  error
	ordinal uint64 // among the events that were not skipped, from 1
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
	for {
		select {
		case c, ok := <-p.decode:
			if !ok {
				return nil
			}
			received := size(c.messages)
			if err := w.chunk(c); err != nil {
				c.cut = true
				if !errors.Is(err, errEnding) {
					failed.set(err)
				}
			}
			p.flow.release(0, received-decodedSize(c.items))
			close(c.done)
		case <-ctx.Done():
			return nil
		}
	}
}

// decodedSize is what the messages of a chunk take once they are decompressed.
func decodedSize(items []item) int {
	n := 0
	for i := range items {
		n += items[i].size
	}
	return n
}

// worker decodes chunks. It belongs to one goroutine.
type worker struct {
	p         *Pipeline
	intake    context.Context
	decoder   *cdc.Decoder
	splitters map[version]*change.Splitter
	layouts   map[*schema.Table]*change.Splitter
}

type version struct{ table, model string }

// chunk decodes c's messages into its items. An error ends the chunk where it
// stands.
func (w *worker) chunk(c *chunk) error {
	events := make([]cdc.Event, len(c.messages))
	c.items = make([]item, 0, len(c.messages))
	for len(c.items) < len(c.messages) {
		if err := w.decodeRest(c, events); err != nil {
			return err
		}
	}
	return nil
}

// decodeRest decodes the messages that have no item yet. A panic rejects the
// message that caused it, and ends the call.
func (w *worker) decodeRest(c *chunk, events []cdc.Event) (err error) {
	defer func() {
		if r := recover(); r != nil {
			w.p.c.Logger.Error("a message made the decoder panic", "sequence", c.messages[len(c.items)].Position.Sequence,
				"panic", panicText(r), "stack", string(debug.Stack()))
			m := &c.messages[len(c.items)]
			c.items = append(c.items, item{message: m, size: len(m.Data), stage: stageDecode, poison: errors.New("the decoder panicked: " + panicText(r))})
			err = nil
		}
	}()
	for i := len(c.items); i < len(c.messages); i++ {
		it, err := w.item(&c.messages[i], &events[i])
		if err != nil {
			return err
		}
		c.items = append(c.items, it)
	}
	return nil
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
	if err := w.decoder.Decode(e, m.Data, m.Encoding); err != nil {
		it.stage, it.poison = stageDecode, err
		return it, nil
	}
	it.event, it.size = e, len(e.Payload)
	m.Data = nil // the event holds its text
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
	case fault.Of(err) == fault.Poison:
		it.stage, it.poison = stageSchema, err
		return nil
	default:
		return err
	}
	effect, err := s.Effect(it.event)
	it.event.Members = nil // the effect has them by slot; they would weigh as much as the row
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

// maxUnknown bounds the unknown columns that are remembered for one layout.
const maxUnknown = 100

// unknown returns a function that logs a column that the schema lacks, once.
func (w *worker) unknown(t *schema.Table) func(name []byte) {
	seen := make(map[string]bool)
	return func(name []byte) {
		if seen[string(name)] || len(seen) >= maxUnknown {
			return
		}
		seen[string(name)] = true
		w.p.c.Logger.Warn("events have a column that the schema lacks; it is not written", "table", t.Name, "version", t.Version, "column", string(name))
	}
}

// unknownVersionPatience is for how long HQ may deny a schema version that the
// stream names before its events are dead letters: a version is published
// and its first change sent by different parts of the source.
const unknownVersionPatience = 15 * time.Second

// layout asks for a table's layout until there is an answer. The error is
// poison where HQ knows no such version, errEnding where the intake ends before
// the answer is there.
func (w *worker) layout(v version) (*schema.Table, error) {
	var backoff fault.Backoff
	defer w.p.status.recovered(troubleSchema)
	for began := time.Now(); ; {
		if w.intake.Err() != nil {
			return nil, errEnding
		}
		t, err := w.p.c.Tables.Version(w.intake, v.table, v.model)
		switch {
		case err == nil:
			return t, nil
		case w.intake.Err() != nil:
			return nil, errEnding
		case isNotFound(err) && time.Since(began) >= unknownVersionPatience:
			return nil, fault.Mark(fault.Poison, fmt.Errorf("the schema of table %.80q has no version %.80q", v.table, v.model))
		case fault.Of(err) != fault.Transient && !isNotFound(err):
			return nil, err
		}
		w.p.status.trouble(troubleSchema, err)
		sleep(w.intake, backoff.Next(err))
	}
}

// isNotFound reports whether HQ has answered that it knows no such version.
func isNotFound(err error) bool {
	var n interface{ NotFound() bool }
	return errors.As(err, &n) && n.NotFound()
}
