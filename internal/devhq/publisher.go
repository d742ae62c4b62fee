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
	// dedupWindow is how long the stream knows a message's id, so that what a
	// lost acknowledgement makes the publisher send again is stored once.
	dedupWindow = 2 * time.Minute
	// The window of what is sent and not yet acknowledged. JetStream refuses
	// messages of a stream beyond 10,000, or 128 MB, that wait to be stored.
	windowMessages = 8192
	windowBytes    = 48 << 20
	// ackTimeout is how long the stream may store nothing before the connection
	// counts as lost.
	ackTimeout = 10 * time.Second
)

// publisher stores messages in the stream, in the order in which they were
// handed over, each once: whatever is not acknowledged when a connection is
// lost is sent again, in order, on the next one.
//
// Connections never reconnect by themselves, because what a client library
// buffers then would overtake what was lost on the way.
type publisher struct {
	connect func() (*nats.Conn, error)
	logger  *slog.Logger

	mu      sync.Mutex
	queue   []*nats.Msg   // unacknowledged, oldest first
	head    uint64        // number of queue[0]; the first message is 0
	sent    int           // how many of queue went out on the present connection
	bytes   int           // of queue
	waiting []waiter      // for an acknowledgement, by number
	room    chan struct{} // holds a token where the window may have room
	work    chan struct{} // holds a token where there may be something to send
}

type waiter struct {
	number uint64 // of the first message that need not be stored
	done   chan struct{}
}

func newPublisher(connect func() (*nats.Conn, error), logger *slog.Logger) *publisher {
	return &publisher{connect: connect, logger: logger, room: make(chan struct{}, 1), work: make(chan struct{}, 1)}
}

// publish takes over a message, waiting while the window is full, and returns
// its number: it will be stored, unless the stream has seen its id within the
// last two minutes.
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
			give(p.room) // another caller may fit in too
			return number, nil
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-ctx.Done():
			return 0, fmt.Errorf("publish: %w", context.Cause(ctx))
		}
	}
}

// store publishes messages, waits until they are stored, and returns how many of
// them, from the first on, were when it stopped to wait. The others still will be.
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

// storedOf returns how many of the n messages from number first on are stored.
func (p *publisher) storedOf(first uint64, n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(n, int(p.head-min(first, p.head)))
}

// storedUpTo returns a channel that is closed once every message below number
// is stored.
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

// oldest returns one more than the number of the oldest unacknowledged message,
// or 0 where there is none.
func (p *publisher) oldest() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return 0
	}
	return p.head + 1
}

// run sends until ctx is done.
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
		select {
		case <-time.After(backoff.Next(err)):
		case <-ctx.Done():
		}
	}
}

// serve sends everything over one connection, until it fails or ctx is done. It
// reports whether anything was stored.
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
	var watched uint64 // one more than the oldest message at the last tick, or 0
	for {
		if err := p.send(conn, inbox); err != nil {
			return progress, err
		}
		select {
		case <-p.work:
		case ack := <-acks:
			if err := p.settle(ack, len(inbox)+1); err != nil {
				return progress, err
			}
			progress = true
		case <-watch.C:
			oldest := p.oldest()
			if oldest > 0 && oldest == watched {
				return progress, fmt.Errorf("the stream stored nothing in %s", ackTimeout)
			}
			watched = oldest
		case <-closed:
			return progress, errors.New("the connection was closed")
		case <-ctx.Done():
			return progress, context.Cause(ctx)
		}
	}
}

// send sends what has not gone out on this connection.
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

// settle takes the acknowledgement of the oldest message. Another one's, or an
// error, means that the order is at stake, and ends the connection.
func (p *publisher) settle(ack *nats.Msg, prefix int) error {
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
	give(p.room)
	p.waiting = slices.DeleteFunc(p.waiting, func(w waiter) bool {
		if w.number <= p.head {
			close(w.done)
		}
		return w.number <= p.head
	})
	return nil
}

// give puts a token into c, unless it holds one.
func give(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
