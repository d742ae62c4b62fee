package pipeline

import (
	"context"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// batch is a run of messages that the applier makes durable as one.
type batch struct {
	change   *change.Batch
	events   []*item // what change was built of
	rejects  []*item
	denied   []*item // by HQ, their schema version
	skipped  map[skipReason]int
	messages int       // all of them
	bytes    int       // of their payloads
	memory   int       // that they take
	pending  uint64    // messages in the stream behind its last one
	began    time.Time // when its first message was received
}

// passAge is how long a batch of nothing but skipped messages waits for more,
// before the checkpoint is moved and they are acknowledged.
const passAge = time.Second

// former forms batches. It belongs to one goroutine.
type former struct {
	p       *Pipeline
	builder change.Builder
	batch   batch
	full    bool                     // the batch takes no more
	layouts map[string]*schema.Table // of the batch's tables; nil where a table has come under two
	queue   []item                   // decoded and not yet in a batch; not empty only while full
	head    *chunk                   // the next chunk, which may be with its decoder still
	drained bool                     // nothing was pending in the stream behind the last message
	ends    []uint64                 // of batches of an earlier run that are still to come
}

// formBatches is the third stage. It hands a batch over when it is full, or when
// it is due and the applier has nothing to do.
func (p *Pipeline) formBatches(ctx context.Context, endIntake func()) error {
	defer close(p.batches)
	f := &former{p: p, layouts: make(map[string]*schema.Table), ends: p.c.Ends}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	ordered := p.ordered // nil once it has ended
	for ordered != nil || f.holds() {
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
			if !f.accept() { // the stream ends here, for this run
				endIntake()
				for range ordered { // what lies behind is dropped, and comes again
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

// holds reports whether there is anything that has not been handed over.
func (f *former) holds() bool { return f.head != nil || f.batch.messages > 0 || len(f.queue) > 0 }

// inputs returns what the batch waits for: the head chunk to be decoded, or a
// chunk to be the head; nothing while it is full.
func (f *former) inputs(ordered chan *chunk) (chan *chunk, chan struct{}) {
	switch {
	case f.full:
		return nil, nil
	case f.head != nil:
		return nil, f.head.done
	default:
		return ordered, nil
	}
}

// accept takes the items of the head chunk. It returns false where the chunk
// was cut.
func (f *former) accept() bool {
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

// maxBatchMemory ends a batch of sparse rows of wide tables, in bytes. Other batches reach
// MaxBytes before.
const maxBatchMemory = 2 * DefaultMaxBytes

// take moves items from the queue into the batch, as many as fit.
func (f *former) take() {
	c := &f.p.c
	queued := f.queue
	for len(f.queue) > 0 && !f.full {
		it := &f.queue[0]
		if f.ended(it) || !f.fits(it) {
			f.full = true
			break
		}
		f.add(it)
		f.queue = f.queue[1:]
		f.full = f.endsWith(it) || f.builder.Len() >= c.MaxRows || f.batch.bytes >= c.MaxBytes || f.batch.memory >= maxBatchMemory || f.batch.messages >= max(1, c.MaxInFlight/2)
	}
	if f.full {
		f.p.flow.closeBatch(f.batch.messages)
	}
	if taken := len(queued) - len(f.queue); taken > 0 { // later, or the next message is admitted beside a full batch
		f.p.flow.accept(queued[taken-1].message.Position.Sequence)
	}
	if f.full {
		f.batch.change = f.builder.Batch() // while the applier may still be busy
	}
}

// fits reports whether the batch can take it.
func (f *former) fits(it *item) bool {
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

func (f *former) add(it *item) {
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

func (b *batch) skip(reason skipReason, n int) {
	if n == 0 {
		return
	}
	if b.skipped == nil {
		b.skipped = make(map[skipReason]int)
	}
	b.skipped[reason] += n
}

// forever is a wait that only something else ends.
const forever = time.Duration(1<<63 - 1)

// due returns how long the batch still waits for more, at most.
func (f *former) due(ending bool) time.Duration {
	age := f.p.c.MaxLatency
	switch {
	case f.full, ending && f.head == nil && f.batch.messages > 0:
		return 0
	case f.batch.messages == 0, len(f.ends) > 0 && !f.drained: // the rest of what comes again is in the stream
		return forever
	case len(f.batch.events) == 0 && len(f.batch.rejects) == 0 && len(f.batch.denied) == 0:
		age = max(passAge, age)
	case f.drained && f.head == nil && len(f.p.ordered) == 0:
		age = f.p.c.MinLatency
	}
	return age - time.Since(f.batch.began)
}

// close ends the batch and begins the next with what is queued.
func (f *former) close() *batch {
	b := f.batch
	if b.change == nil {
		f.p.flow.closeBatch(b.messages)
		b.change = f.builder.Batch()
	}
	f.batch = batch{began: time.Now(), pending: b.pending, events: make([]*item, 0, len(b.events))}
	f.full = false
	clear(f.layouts)
	f.take()
	return &b
}
