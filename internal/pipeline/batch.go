package pipeline

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// receivedBatch is a sequence of consecutive messages that the applier makes durable together.
type receivedBatch struct {
	change   *change.Batch
	events   []*item // the events from which change was built
	rejects  []*item
	denied   []*item // items whose schema version HQ denies
	skipped  map[skipReason]int
	messages int       // number of messages, including skipped ones
	bytes    int       // size of the payloads
	memory   int       // memory of the messages, in bytes
	pending  uint64    // messages in the stream after the last message of the batch
	began    time.Time // time of receipt of the first message
}

// passAge is how long a batch that contains only skipped messages waits for more messages. After
// that time, the applier moves the checkpoint, and the messages are acknowledged.
const passAge = time.Second

// batcher forms batches from decoded messages. One goroutine uses it.
type batcher struct {
	p          *Pipeline
	builder    change.Builder
	batch      receivedBatch
	full       bool                     // the batch accepts no more messages
	layouts    map[string]*schema.Table // layouts of the batch's tables; nil for a table with two layouts
	queue      []item                   // decoded items that are not in a batch yet; empty unless full is set
	head       *messageChunk            // the next chunk, which its decoder may not have finished
	drained    bool                     // no message was pending in the stream after the last received one
	boundaries []uint64                 // ends of batches of an earlier run that were not reached yet
}

// formBatches is the third stage. It passes a batch to the applier as soon as the applier is idle
// and the batch is full or has waited long enough.
func (p *Pipeline) formBatches(ctx context.Context, endIntake func()) error {
	defer close(p.batches)
	f := &batcher{p: p, layouts: make(map[string]*schema.Table), boundaries: p.c.BatchBoundaries}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	ordered := p.ordered // nil after the channel was closed
	for ordered != nil || f.hasMessages() {
		var ready <-chan struct{}
		switch wait := f.due(ordered == nil); {
		case wait <= 0:
			ready = p.ready
		case wait < forever:
			timer.Reset(wait)
		default:
			timer.Stop()
		}
		in, decoded := f.inputs(ordered)
		select {
		case c, ok := <-in:
			if f.head = c; !ok {
				ordered = nil
			}
		case <-decoded:
			if !f.accept() { // this run does not read the stream further
				endIntake()
				for range ordered { // drop later messages: they will be delivered again
				}
				ordered = nil
			}
		case <-ready:
			select {
			case p.batches <- f.close():
			case <-ctx.Done():
				return nil
			}
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// hasMessages reports whether the batcher holds messages that it has not passed to the applier.
func (f *batcher) hasMessages() bool {
	return f.head != nil || f.batch.messages > 0 || len(f.queue) > 0
}

// inputs returns the channel to wait on for more items: the done channel of the head chunk or, if
// there is no head chunk, the channel that delivers chunks. While the batch is full, both results
// are nil.
func (f *batcher) inputs(ordered chan *messageChunk) (chan *messageChunk, chan struct{}) {
	switch {
	case f.full:
		return nil, nil
	case f.head != nil:
		return nil, f.head.done
	default:
		return ordered, nil
	}
}

// accept queues the items of the head chunk, and moves as many of them as fit into the batch. It
// returns false if the chunk was cut.
func (f *batcher) accept() bool {
	c := f.head
	f.head = c.rest
	f.queue = c.items
	if f.batch.messages == 0 {
		f.batch.began = c.received
	}
	f.batch.pending = c.messages[len(c.messages)-1].Pending
	f.drained = f.batch.pending == 0
	f.take()
	return !c.cut
}

// maxBatchMemory is the memory of a batch's messages, in bytes, at which the batch is full. Only
// batches with sparse rows of wide tables reach this limit before MaxBytes.
const maxBatchMemory = 2 * DefaultMaxBytes

// take moves items from the queue into the batch until the batch is full.
func (f *batcher) take() {
	queued := f.queue
	for len(f.queue) > 0 && !f.full {
		it := &f.queue[0]
		if f.boundaryBefore(it) || !f.fits(it) {
			f.full = true
			break
		}
		f.add(it)
		f.queue = f.queue[1:]
		f.full = f.boundaryAfter(it) || f.atLimit()
	}
	if f.full {
		f.p.inFlight.closeBatch(f.batch.messages)
	}
	// Call accept after closeBatch. Otherwise, the budget would admit the next message although the
	// batch is full.
	if taken := len(queued) - len(f.queue); taken > 0 {
		f.p.inFlight.accept(queued[taken-1].message.Position.Sequence)
	}
	if f.full {
		f.batch.change = f.builder.Batch() // already now, while the applier may be busy
	}
}

// atLimit reports whether the batch has reached one of its limits.
func (f *batcher) atLimit() bool {
	c, b := &f.p.c, &f.batch
	return f.builder.Len() >= c.MaxRows || b.bytes >= c.MaxBytes || b.memory >= maxBatchMemory || b.messages >= max(1, c.MaxInFlight/2)
}

// fits reports whether the item can be added to the batch.
func (f *batcher) fits(it *item) bool {
	if f.batch.messages > 0 && f.batch.bytes+it.size > f.p.c.MaxBytes {
		return false
	}
	t := it.effect.Table
	if t == nil {
		return true
	}
	if known, ok := f.layouts[t.Name]; !ok {
		f.layouts[t.Name] = t
	} else if known != t {
		f.layouts[t.Name] = nil
		return f.builder.Accepts(it.effect)
	}
	return true
}

func (f *batcher) add(it *item) {
	b := &f.batch
	b.messages++
	b.bytes += it.size
	b.memory += it.memory
	if it.skipped != "" {
		b.skip(it.skipped, 1)
		f.builder.Pass(it.message.Position)
		return
	}
	if it.denied != nil {
		b.denied = append(b.denied, it)
		f.builder.Pass(it.message.Position)
		return
	}
	if it.poison != nil {
		b.rejects = append(b.rejects, it)
		f.builder.Pass(it.message.Position)
		return
	}
	b.events = append(b.events, it)
	f.builder.Add(it.event, it.effect)
}

func (b *receivedBatch) skip(reason skipReason, n int) {
	if n == 0 {
		return
	}
	if b.skipped == nil {
		b.skipped = make(map[skipReason]int)
	}
	b.skipped[reason] += n
}

// forever is the result of due if there is no timeout.
const forever = time.Duration(1<<63 - 1)

// due returns how long the batch may still wait for more messages. If the result is zero or
// negative, the batch is due. The parameter ending says that no more chunks will follow.
func (f *batcher) due(ending bool) time.Duration {
	age := f.p.c.MaxLatency
	switch {
	case f.full, ending && f.head == nil && f.batch.messages > 0:
		return 0
	case f.batch.messages == 0, len(f.boundaries) > 0 && !f.drained: // the stream still has the rest of the batch
		return forever
	case len(f.batch.events) == 0 && len(f.batch.rejects) == 0 && len(f.batch.denied) == 0:
		age = max(passAge, age)
	case f.drained && f.head == nil && len(f.p.ordered) == 0:
		age = f.p.c.MinLatency
	}
	return age - time.Since(f.batch.began)
}

// close returns the finished batch, and starts the next batch with the queued items.
func (f *batcher) close() *receivedBatch {
	b := f.batch
	if b.change == nil {
		f.p.inFlight.closeBatch(b.messages)
		b.change = f.builder.Batch()
	}
	f.batch = receivedBatch{began: time.Now(), pending: b.pending, events: make([]*item, 0, len(b.events))}
	f.full = false
	clear(f.layouts)
	f.take()
	return &b
}
