package pipeline

import (
	"context"
	"sync"
)

// Budget bounds the memory of the messages that pipelines have received and not acknowledged, in
// uncompressed bytes. All pipelines of a process share one budget. A Budget is safe for concurrent
// use.
//
// A pipeline exceeds the budget only for the next message that its batch needs, and only while the
// open batch is its only batch. So each pipeline always makes progress, however much memory other
// pipelines hold. A pipeline exceeds the budget by at most one message and one batch.
type Budget struct {
	limit int

	mu      sync.Mutex
	used    int
	changed chan struct{} // closed and replaced at each change; nil if no caller waits
}

// DefaultBudget is the default budget in bytes. It covers a batch that is being applied, the next
// batch, and the messages that are being decoded.
const DefaultBudget = 36 << 20

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int) *Budget { return &Budget{limit: limit} }

// notify wakes the callers of await. The caller holds b.mu.
func (b *Budget) notify() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// await waits until condition() is true, or returns the cause of ctx when ctx ends. In both cases,
// b.mu is locked when await returns.
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

// inFlight counts the messages that a pipeline has received and not acknowledged, and decides when
// more may be received. The mutex of the Budget guards all fields of inFlight.
type inFlight struct {
	*Budget
	maxMessages int

	messages, bytes int
	raw             int    // bytes of messages that were not decoded yet
	closed          int    // unacknowledged messages of closed batches
	received        uint64 // sequence of the last message that was received
	accepted        uint64 // sequence of the last message that is in a batch
}

func newInFlight(maxMessages int, b *Budget) *inFlight {
	return &inFlight{Budget: b, maxMessages: maxMessages}
}

// count adds the parameter bytes, which may be negative, to the number of bytes in flight. The
// caller holds f.mu.
func (f *inFlight) count(bytes int) {
	f.bytes += bytes
	f.used += bytes
	f.notify()
}

// admit waits until more messages may be received, or returns the cause of ctx when ctx ends.
func (f *inFlight) admit(ctx context.Context) error {
	err := f.await(ctx, f.hasCapacity)
	defer f.mu.Unlock()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// hasCapacity reports whether more messages may be received. That is allowed in two cases. In the
// first case, the messages and their memory are below the limits; three quarters of the budget are
// kept for decoded messages. In the second case, all unacknowledged messages are in the open batch,
// and that batch may need more messages. The caller holds f.mu.
func (f *inFlight) hasCapacity() bool {
	return f.messages < f.maxMessages && f.used < f.limit && f.raw <= f.limit/4 || f.accepted >= f.received && f.closed == 0
}

// add counts received messages.
func (f *inFlight) add(messages []Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(messages); n > 0 {
		f.messages += n
		f.received = messages[n-1].Position.Sequence
	}
	bytes := size(messages)
	f.raw += bytes
	f.count(bytes)
}

// reserve waits until the budget allows a decoder to use the given number of bytes for a message,
// and then counts these bytes. The parameter before is the sequence of the previous message. If ctx
// ends first, reserve returns the cause of ctx.
func (f *inFlight) reserve(ctx context.Context, before uint64, bytes int) error {
	err := f.await(ctx, func() bool { return f.admits(before, bytes) })
	defer f.mu.Unlock()
	if err == nil {
		f.count(bytes)
	}
	return err
}

// tryReserve is like reserve, but does not wait: it returns false if the budget does not allow the
// bytes now.
func (f *inFlight) tryReserve(before uint64, bytes int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	ok := f.admits(before, bytes)
	if ok {
		f.count(bytes)
	}
	return ok
}

// admits reports whether a decoder may use the given number of additional bytes for a message. The
// parameter before is the sequence of the previous message. The decoder may use the bytes if the
// budget allows that, or if all earlier messages are acknowledged or in the open batch. Closed
// batches do not wait for later messages, so each message is admitted eventually. The caller holds
// f.mu.
func (f *inFlight) admits(before uint64, bytes int) bool {
	return f.used+bytes <= f.limit || f.accepted >= before && f.closed == 0
}

// decoded updates the counts after messages were decoded. The parameter raw is the size of the
// messages as they were received. The parameter more is the additional memory that they need now,
// and may be negative. Both are in bytes.
func (f *inFlight) decoded(raw, more int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw -= raw
	f.count(more)
}

// accept records that every message up to the given sequence is in a batch.
func (f *inFlight) accept(sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = sequence
	f.notify()
}

// closeBatch records that a batch with the given number of messages was closed.
func (f *inFlight) closeBatch(messages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed += messages
	f.notify()
}

// release subtracts the given numbers of acknowledged messages and of their bytes. The messages
// must be in closed batches.
func (f *inFlight) release(messages, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages -= messages
	f.closed -= messages
	f.count(-bytes)
}

// end returns all memory of the pipeline to the budget at the end of the run. It returns the number
// of messages that were received and not acknowledged.
func (f *inFlight) end() (messages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count(-f.bytes)
	return f.messages
}

// unacknowledged returns the number of messages in flight.
func (f *inFlight) unacknowledged() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.messages
}
