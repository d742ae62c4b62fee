package pipeline

import (
	"context"
	"sync"
)

// Budget bounds the memory of the messages that pipelines hold, in bytes as they are
// unpacked: those that were received and are not acknowledged. Pipelines of one process
// share one. It is safe for concurrent use.
//
// A pipeline goes beyond the budget only for the next message that its batch needs, and
// only while it holds no batch but the open one: so it always goes on, whatever other
// pipelines hold, and goes beyond by one message and one batch at most.
type Budget struct {
	limit int

	mu      sync.Mutex
	used    int
	changed chan struct{} // closed and replaced at each change; nil if no caller waits
}

// DefaultBudget is how much pipelines hold, in bytes: a batch that is applied, the next
// one, and what is being decoded.
const DefaultBudget = 36 << 20

// NewBudget returns a budget of so many bytes.
func NewBudget(limit int) *Budget { return &Budget{limit: limit} }

// notify wakes those who wait. The lock is held.
func (b *Budget) notify() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// await returns, with the lock held, when condition holds or, with ctx's error,
// when ctx ends.
func (b *Budget) await(ctx context.Context, condition func() bool) error {
	b.mu.Lock()
	for !condition() {
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			b.mu.Lock()
			return context.Cause(ctx)
		}
		b.mu.Lock()
	}
	return nil
}

// flow counts what a pipeline has in flight, that is received and not yet acknowledged,
// and opens and closes the intake. The lock is the budget's.
type flow struct {
	*Budget
	maxMessages int

	messages, bytes int
	raw             int    // bytes of messages that are not decoded yet
	closed          int    // messages of batches that are not acknowledged and take no more
	received        uint64 // sequence of the last message that was received
	accepted        uint64 // likewise, that is in a batch
	paused, ended   bool
	receiving       bool               // between enter and leave
	interrupt       context.CancelFunc // ends the wait of a receiving intake
}

func newFlow(maxMessages int, b *Budget) *flow {
	return &flow{Budget: b, maxMessages: maxMessages}
}

// count adds to what is in flight. The lock is held.
func (f *flow) count(bytes int) {
	f.bytes += bytes
	f.used += bytes
	f.notify()
}

// enter waits until there is room and no pause, and returns a context for the
// intake's wait, which a pause ends. Where it returns no error, leave must follow.
func (f *flow) enter(ctx context.Context) (context.Context, error) {
	err := f.await(ctx, func() bool { return !f.paused && f.hasRoom() })
	defer f.mu.Unlock()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	ctx, f.interrupt = context.WithCancel(ctx)
	f.receiving = true
	return ctx, nil
}

// hasRoom reports whether more messages may be received: if there is room, three quarters
// of which are kept for decoded ones, or the open batch has all that is not acknowledged,
// and may need more. The lock is held.
func (f *flow) hasRoom() bool {
	return f.messages < f.maxMessages && f.used < f.limit && f.raw <= f.limit/4 || f.accepted >= f.received && f.closed == 0
}

// leave records what the intake brought.
func (f *flow) leave(messages []Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interrupt()
	f.receiving = false
	if n := len(messages); n > 0 {
		f.messages += n
		f.received = messages[n-1].Position.Sequence
	}
	bytes := size(messages)
	f.raw += bytes
	f.count(bytes)
}

// reserve waits until a decoder may take so many bytes for the message after the one at
// sequence before, and counts them.
func (f *flow) reserve(ctx context.Context, before uint64, bytes int) error {
	err := f.await(ctx, func() bool { return f.admits(before, bytes) })
	defer f.mu.Unlock()
	if err == nil {
		f.count(bytes)
	}
	return err
}

// tryReserve is reserve without the wait.
func (f *flow) tryReserve(before uint64, bytes int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	ok := f.admits(before, bytes)
	if ok {
		f.count(bytes)
	}
	return ok
}

// admits reports whether there is room, or everything before the message is acknowledged
// or in the open batch. Closed batches do not wait for later messages, so each message
// comes to be admitted. The lock is held.
func (f *flow) admits(before uint64, bytes int) bool {
	return f.used+bytes <= f.limit || f.accepted >= before && f.closed == 0
}

// decoded records that messages which took raw bytes were decoded, and how much more is
// in flight since then than was counted.
func (f *flow) decoded(raw, more int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw -= raw
	f.count(more)
}

// accept records that everything through the given sequence is in a batch.
func (f *flow) accept(sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = sequence
	f.notify()
}

// closeBatch records that a batch takes no more messages than these.
func (f *flow) closeBatch(messages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed += messages
	f.notify()
}

// release records what has been acknowledged, all of it in closed batches.
func (f *flow) release(messages, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages -= messages
	f.closed -= messages
	f.count(-bytes)
}

// end records that nothing flows any more, gives the budget back, and returns how many
// messages were received and not acknowledged.
func (f *flow) end() (messages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.count(-f.bytes)
	return f.messages
}

func (f *flow) held() (messages, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.messages, f.bytes
}

func (f *flow) isPaused() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused
}

// pause closes the intake and waits until nothing is in flight.
func (f *flow) pause(ctx context.Context) error {
	f.mu.Lock()
	f.paused = true
	if f.receiving {
		f.interrupt()
	}
	f.mu.Unlock()
	err := f.await(ctx, func() bool { return f.ended || !f.receiving && f.messages == 0 })
	f.mu.Unlock()
	return err
}

func (f *flow) resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = false
	f.notify()
}

// Pause stops the intake; events wait in the stream. It returns nil when
// everything that had been received is durable and acknowledged. Where ctx ends
// first it returns ctx's error, and the pipeline is paused all the same.
func (p *Pipeline) Pause(ctx context.Context) error { return p.flow.pause(ctx) }

// Resume opens the intake again. Tables that the destination had in step before
// the pause are looked at again.
func (p *Pipeline) Resume() {
	p.forget.Store(true)
	p.flow.resume()
}
