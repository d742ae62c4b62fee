package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

// messageChunk is a sequence of consecutive messages that one decoder decodes.
type messageChunk struct {
	messages []Message
	before   uint64 // sequence of the preceding message; 0 if there is none
	received time.Time
	existed  time.Time     // a time at which the messages were already in the stream
	done     chan struct{} // closed when items holds one item per message, or cut is set
	items    []item
	cut      bool          // the messages after the items could not be decoded, so the run ends here
	rest     *messageChunk // the chunk's later messages, if handed over separately
}

// intakeFailure holds the first error that ended the intake. Messages received before the error are
// still applied.
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

// receive is the first stage. It ends when the context intake ends or the source fails. After that,
// the next stages end one by one.
func (p *Pipeline) receive(ctx, intake context.Context, failed *intakeFailure) error {
	defer close(p.ordered)
	defer close(p.decode)
	var b backlog
	for {
		if p.inFlight.admit(intake) != nil {
			return nil // the intake has ended
		}
		messages, err := p.receiveMessages(intake)
		switch {
		case err != nil && errors.Is(err, context.Cause(intake)):
			return nil
		case err != nil:
			failed.set(err)
			return nil
		}
		p.inFlight.add(messages)
		if !p.forward(ctx, messages, &b) {
			return nil
		}
	}
}

// receiveMessages returns the next messages of the source, and retries after transient errors. If
// intake ends, it returns context.Cause(intake).
func (p *Pipeline) receiveMessages(intake context.Context) (messages []Message, err error) {
	var permanent error
	retried := false
	policy := retry.Policy{Failed: func(err error, _ time.Duration) {
		retried = true
		p.status.attemptFailed(dependencySource, time.Now(), err)
	}}
	err = retry.Do(intake, policy, func() (err error) {
		if messages, err = p.c.Source.Receive(intake); fault.Of(err) == fault.Transient {
			return err
		}
		permanent = err
		return nil
	})
	if err == nil && permanent == nil && retried {
		p.status.recovered(dependencySource)
	}
	if permanent != nil {
		return nil, permanent
	}
	return messages, err
}

// backlog holds the number of messages that the stream had at an earlier time.
type backlog struct {
	last     uint64 // sequence of the last received message
	received uint64 // number of received messages
	through  uint64 // number of messages, received or not, that the stream had at the time seen
	seen     time.Time
}

// chunk makes a chunk of the given messages. The caller has just received these messages.
func (b *backlog) chunk(messages []Message) *messageChunk {
	now, last := time.Now(), &messages[len(messages)-1]
	b.received += uint64(len(messages))
	if b.received > b.through {
		b.through, b.seen = b.received+last.Pending, now
	}
	c := &messageChunk{messages: messages, before: b.last, received: now, existed: b.seen, done: make(chan struct{})}
	b.last = last.Position.Sequence
	return c
}

// forward passes messages as one chunk to the batcher and to the decoders. It returns false if ctx
// ends first.
func (p *Pipeline) forward(ctx context.Context, messages []Message, b *backlog) bool {
	if len(messages) == 0 {
		return true
	}
	c := b.chunk(messages)
	p.status.arrived(c)
	for _, to := range []chan *messageChunk{p.ordered, p.decode} {
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
