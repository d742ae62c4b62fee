package localhq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/fault"
)

const (
	// dedupWindow is how long the stream knows a message's id, so that what a
	// lost acknowledgement makes the publisher send again is stored once.
	dedupWindow = 2 * time.Minute
	// The window of what is sent and not yet acknowledged. JetStream refuses
	// messages of a stream beyond 10,000, or 128 MB, that wait to be stored.
	windowMessages = 4096
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

// publish takes over a message, waiting while the window is full. The stream
// refuses an id that it has seen within the last two minutes. Nil means only
// that the message will be stored; flush tells when it is.
func (p *publisher) publish(ctx context.Context, msg *nats.Msg) error {
	if !strings.HasPrefix(msg.Subject, streamName+".") {
		return fmt.Errorf("publish: the subject is not one of the stream %s", streamName)
	}
	if size := msg.Size(); size > maxPayload {
		return fmt.Errorf("publish: a message of %d bytes is larger than the limit of %d", size, maxPayload)
	}
	for {
		p.mu.Lock()
		if len(p.queue) == 0 || len(p.queue) < windowMessages && p.bytes+len(msg.Data) <= windowBytes {
			p.queue = append(p.queue, msg)
			p.bytes += len(msg.Data)
			p.mu.Unlock()
			give(p.work)
			give(p.room) // another caller may fit in too
			return nil
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-ctx.Done():
			return fmt.Errorf("publish: %w", context.Cause(ctx))
		}
	}
}

// flush waits until every message handed over before is stored.
func (p *publisher) flush(ctx context.Context) error {
	p.mu.Lock()
	if len(p.queue) == 0 {
		p.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	p.waiting = append(p.waiting, waiter{p.head + uint64(len(p.queue)), done})
	p.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the stream to store %d messages: %w", p.pending(), context.Cause(ctx))
	}
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
	backoff := fault.Backoff{Min: 20 * time.Millisecond, Max: time.Second}
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
	for len(p.waiting) > 0 && p.waiting[0].number <= p.head {
		close(p.waiting[0].done)
		p.waiting = p.waiting[1:]
	}
	return nil
}

// give puts a token into c, unless it holds one.
func give(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
