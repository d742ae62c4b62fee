package pipeline

import (
	"context"
	"sync"
)

// flow counts what is in flight, that is received and not yet acknowledged,
// and opens and closes the intake.
type flow struct {
	maxMessages, maxBytes int

	mu              sync.Mutex
	messages, bytes int
	accepted        uint64 // sequence of the last message that is in a batch
	large           bool   // a large message is being decoded
	paused, ended   bool
	receiving       bool               // between enter and leave
	interrupt       context.CancelFunc // ends the wait of a receiving intake
	changed         chan struct{}      // closed and replaced at each change; nil while nobody waits
}

func newFlow(maxMessages, maxBytes int) *flow {
	return &flow{maxMessages: maxMessages, maxBytes: maxBytes}
}

// notify wakes those who wait. The lock is held.
func (f *flow) notify() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// await returns, with the lock held, when condition holds or, with ctx's error,
// when ctx ends.
func (f *flow) await(ctx context.Context, condition func() bool) error {
	f.mu.Lock()
	for !condition() {
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			f.mu.Lock()
			return context.Cause(ctx)
		}
		f.mu.Lock()
	}
	return nil
}

// enter waits until there is room and no pause, and returns a context for the
// intake's wait, which a pause ends. Where it returns no error, leave must follow.
func (f *flow) enter(ctx context.Context) (context.Context, error) {
	err := f.await(ctx, func() bool {
		return !f.paused && f.messages < f.maxMessages && f.bytes < f.maxBytes
	})
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

// leave records what the intake brought.
func (f *flow) leave(messages, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interrupt()
	f.receiving = false
	f.messages += messages
	f.bytes += bytes
	f.notify()
}

// admit waits until a decoder may take memory for the message after the one at
// sequence before: until there is room, or everything before it is in a batch. So
// the next message that a batch needs never waits for room that later ones take.
// One large message at a time is admitted, until endLarge.
func (f *flow) admit(ctx context.Context, before uint64, large bool) error {
	err := f.await(ctx, func() bool {
		return (f.bytes < f.maxBytes || f.accepted >= before) && !(f.large && large)
	})
	defer f.mu.Unlock()
	if err == nil && large {
		f.large = true
	}
	return err
}

func (f *flow) endLarge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.large = false
	f.notify()
}

// accept records that everything through the given sequence is in a batch.
func (f *flow) accept(sequence uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accepted = sequence
	f.notify()
}

// release records what has been acknowledged.
func (f *flow) release(messages, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages -= messages
	f.bytes -= bytes
	f.notify()
}

// end records that nothing flows any more, and returns what had been received
// and was not acknowledged.
func (f *flow) end() (messages int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.notify()
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
