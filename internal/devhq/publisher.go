package devhq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/retry"
)

const (
	// dedupWindow is how long the stream remembers message ids. If the publisher sends a message
	// again after a lost acknowledgement, the stream recognises the id and stores the message only
	// once.
	dedupWindow = 2 * time.Minute
	// These constants limit the unacknowledged messages. JetStream refuses messages while more
	// than 10,000 messages, or 128 MB, of a stream are waiting to be stored.
	windowMessages = 8192
	windowBytes    = 48 << 20
	// ackTimeout is how long the publisher waits for an acknowledgement before it treats the
	// connection as lost.
	ackTimeout = 10 * time.Second
)

// publisher stores messages in the stream, each exactly once and in the order of the calls. After
// a lost connection, it sends all unacknowledged messages again in the same order.
//
// The connections of a publisher do not reconnect by themselves. If they did, messages in the
// buffer of the client library would overtake lost messages.
type publisher struct {
	connect func() (*nats.Conn, error)
	logger  *slog.Logger

	mu      sync.Mutex
	queue   []*nats.Msg   // unacknowledged messages, oldest first
	head    uint64        // number of the message queue[0]; the first message ever has number 0
	sent    int           // number of messages in queue that were sent on this connection
	bytes   int           // total size of the messages in queue
	waiting []waiter      // in ascending order of number
	space   chan struct{} // holds a token if the window may have space for a message
	work    chan struct{} // holds a token if there may be unsent messages
}

type waiter struct {
	number uint64 // the waiter waits for all messages with a lower number
	done   chan struct{}
}

func newPublisher(connect func() (*nats.Conn, error), logger *slog.Logger) *publisher {
	return &publisher{connect: connect, logger: logger, space: make(chan struct{}, 1), work: make(chan struct{}, 1)}
}

// publish adds a message to the queue and returns the number of the message. It blocks while the
// window is full. The message will be stored, unless the stream has seen its id within the last
// dedupWindow.
func (p *publisher) publish(ctx context.Context, msg *nats.Msg) (number uint64, err error) {
	if !strings.HasPrefix(msg.Subject, streamName+".") {
		return 0, fmt.Errorf("publish: the subject is not one of the stream %s", streamName)
	}
	if size := msg.Size(); size > maxPayload {
		return 0, fmt.Errorf("publish: a message of %d bytes is larger than the limit of %d", size, maxPayload)
	}
	for {
		p.mu.Lock()
		if len(p.queue) == 0 || len(p.queue) < windowMessages && p.bytes+len(msg.Data) <= windowBytes {
			number = p.head + uint64(len(p.queue))
			p.queue = append(p.queue, msg)
			p.bytes += len(msg.Data)
			p.mu.Unlock()
			give(p.work)
			give(p.space) // the window may have space for another message
			return number, nil
		}
		p.mu.Unlock()
		select {
		case <-p.space:
		case <-ctx.Done():
			return 0, fmt.Errorf("publish: %w", context.Cause(ctx))
		}
	}
}

// store publishes messages and waits until the stream has stored them. If store returns an error,
// it also returns the number of messages that are already in the stream. These are the first
// messages of the slice. The other messages may still be stored later.
func (p *publisher) store(ctx context.Context, messages []*nats.Msg) (stored int, err error) {
	var first uint64
	for i, msg := range messages {
		number, err := p.publish(ctx, msg)
		if err != nil {
			return p.storedOf(first, i), err
		}
		if i == 0 {
			first = number
		}
	}
	if len(messages) == 0 {
		return 0, nil
	}
	done := p.storedUpTo(first + uint64(len(messages)))
	select {
	case <-done:
		return len(messages), nil
	case <-ctx.Done():
		return p.storedOf(first, len(messages)), fmt.Errorf("wait for the stream: %w", context.Cause(ctx))
	}
}

// storedOf considers the n messages with the numbers first, first+1, and so on. It returns how many
// of these messages are stored.
func (p *publisher) storedOf(first uint64, n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(n, int(p.head-min(first, p.head)))
}

// storedUpTo returns a channel that is closed when every message with a lower number than the given
// one is stored.
func (p *publisher) storedUpTo(number uint64) <-chan struct{} {
	done := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if number <= p.head {
		close(done)
		return done
	}
	p.waiting = append(p.waiting, waiter{number, done})
	return done
}

func (p *publisher) pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// oldest returns the number of the oldest unacknowledged message, increased by one. It returns 0 if
// there is no such message.
func (p *publisher) oldest() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return 0
	}
	return p.head + 1
}

// run sends queued messages until ctx is done. Whenever the connection fails, it opens a new one.
func (p *publisher) run(ctx context.Context) {
	backoff := retry.Backoff{Min: 20 * time.Millisecond, Max: time.Second}
	for ctx.Err() == nil {
		progress, err := p.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if progress {
			backoff.Reset()
		}
		p.logger.Debug("the publisher lost its connection", "error", err, "pending", p.pending())
		if retry.Sleep(ctx, backoff.Next(err)) != nil {
			return
		}
	}
}

// serve sends messages over one connection until the connection fails or ctx is done. It reports
// whether any message was stored.
func (p *publisher) serve(ctx context.Context) (progress bool, err error) {
	conn, err := p.connect()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	acks := make(chan *nats.Msg, windowMessages+1)
	inbox := nats.NewInbox()
	if _, err := conn.ChanSubscribe(inbox+".*", acks); err != nil {
		return false, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	p.mu.Lock()
	p.sent = 0
	p.mu.Unlock()
	closed := conn.StatusChanged(nats.CLOSED)
	watch := time.NewTicker(ackTimeout)
	defer watch.Stop()
	var watched uint64 // result of oldest at the last tick
	for {
		if err := p.send(conn, inbox); err != nil {
			return progress, err
		}
		select {
		case <-p.work:
		case ack := <-acks:
			if err := p.handleAck(ack, len(inbox)+1); err != nil {
				return progress, err
			}
			progress = true
		case <-watch.C:
			oldest := p.oldest()
			if oldest > 0 && oldest == watched {
				return progress, fmt.Errorf("no acknowledgement in %s", ackTimeout)
			}
			watched = oldest
		case <-closed:
			return progress, errors.New("the connection was closed")
		case <-ctx.Done():
			return progress, context.Cause(ctx)
		}
	}
}

// send sends all messages in the queue that were not yet sent on this connection.
func (p *publisher) send(conn *nats.Conn, inbox string) error {
	p.mu.Lock()
	unsent, number := p.queue[p.sent:], p.head+uint64(p.sent)
	p.sent = len(p.queue)
	p.mu.Unlock()
	reply := append([]byte(inbox), '.')
	for i, msg := range unsent {
		msg.Reply = string(strconv.AppendUint(reply, number+uint64(i), 10))
		if err := conn.PublishMsg(msg); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

// handleAck handles the acknowledgement of the oldest message. If the stream refused a message or
// acknowledged another message first, handleAck returns an error, and the caller must close the
// connection to keep the order of the messages.
func (p *publisher) handleAck(ack *nats.Msg, prefix int) error {
	if bytes.Contains(ack.Data, []byte(`"error"`)) || len(ack.Data) == 0 {
		return fmt.Errorf("the stream refused a message: %.200s%.200s", ack.Header.Get("Status"), ack.Data)
	}
	number, err := strconv.ParseUint(ack.Subject[prefix:], 10, 64)
	if err != nil {
		return fmt.Errorf("read an acknowledgement: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if number != p.head || len(p.queue) == 0 {
		return fmt.Errorf("message %d was acknowledged before message %d", number, p.head)
	}
	p.bytes -= len(p.queue[0].Data)
	p.queue[0] = nil
	p.queue = p.queue[1:]
	p.head++
	p.sent--
	give(p.space)
	p.waiting = slices.DeleteFunc(p.waiting, func(w waiter) bool {
		if w.number <= p.head {
			close(w.done)
		}
		return w.number <= p.head
	})
	return nil
}

// give adds a token to c, unless c already holds one.
func give(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
