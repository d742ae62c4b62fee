package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

// chunk is a run of messages on its way through a decoder.
type chunk struct {
	messages []Message
	before   uint64 // sequence of the message before them; 0 if there is none
	received time.Time
	existed  time.Time     // by when the messages were in the stream
	done     chan struct{} // closed when items holds one item per message, or cut is set
	items    []item
	cut      bool   // the messages after the items could not be decoded: the stream ends here
	rest     *chunk // what follows the messages, if they were handed over without it
}

// intakeFailure is why the intake ended, if not because it was asked to: what
// came before it is still applied.
type intakeFailure struct {
	mu    sync.Mutex
	first error
}

func (f *intakeFailure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		f.first = err
	}
}

func (f *intakeFailure) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.first
}

// receive is the first stage. It ends, and with it stage by stage the others,
// when intake does.
func (p *Pipeline) receive(ctx, intake context.Context, failed *intakeFailure) error {
	defer close(p.ordered)
	defer close(p.decode)
	var backoff retry.Backoff
	var b backlog
	for {
		waiting, err := p.flow.enter(intake)
		if err != nil {
			return nil // the intake has ended
		}
		messages, err := p.c.Source.Receive(waiting)
		interrupted := waiting.Err() != nil
		p.flow.leave(messages)
		switch {
		case err == nil:
			if backoff != (retry.Backoff{}) {
				backoff.Reset()
				p.status.recovered(troubleSource)
			}
			if !p.forward(ctx, messages, &b) {
				return nil
			}
		case interrupted && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Cause(waiting))):
			// paused, or at the end: enter says which
		case fault.Of(err) != fault.Transient:
			failed.set(err)
			return nil
		default:
			p.status.trouble(troubleSource, time.Now(), err)
			sleep(intake, backoff.Next(err))
		}
	}
}

// backlog is what the stream is known to have held at some time.
type backlog struct {
	last     uint64 // sequence of the last message received
	received uint64 // messages, so far
	through  uint64 // how many of them, and of those to come, the stream held at seen
	seen     time.Time
}

// chunk returns the chunk of messages that are received now.
func (b *backlog) chunk(messages []Message) *chunk {
	now, last := time.Now(), &messages[len(messages)-1]
	b.received += uint64(len(messages))
	if b.received > b.through {
		b.through, b.seen = b.received+last.Pending, now
	}
	c := &chunk{messages: messages, before: b.last, received: now, existed: b.seen, done: make(chan struct{})}
	b.last = last.Position.Sequence
	return c
}

// forward hands messages to the decoders, and in the same order to the batcher.
func (p *Pipeline) forward(ctx context.Context, messages []Message, b *backlog) bool {
	if len(messages) == 0 {
		return true
	}
	c := b.chunk(messages)
	p.status.arrived(c)
	for _, to := range []chan *chunk{p.ordered, p.decode} {
		select {
		case to <- c:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func size(messages []Message) int {
	n := 0
	for i := range messages {
		n += len(messages[i].Data)
	}
	return n
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
