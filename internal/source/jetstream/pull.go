package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// pullLimits limits one pull request.
type pullLimits struct {
	messages  int
	bytes     int // counted as the server does: subject, reply, headers and payload
	expires   time.Duration
	heartbeat time.Duration // interval of the server's heartbeats while there are no messages
}

const (
	heartbeat           = 5 * time.Second
	serverGrace         = time.Second // how much longer than requested the server may take
	tooManyWaitingDelay = 250 * time.Millisecond
)

// maxRun is the maximum number of messages that one call of next returns.
const maxRun = 256

// subscription receives from the consumer until an error ends it. Only one pull is outstanding at a
// time, because a consumer created by an older program admits only one pull and drops a second one.
type subscription struct {
	s     *Source
	inbox string
	sub   *nats.Subscription
	in    chan *nats.Msg

	ordinal    uint64 // ordinal of the delivery that must come next
	reconnects uint64 // number of reconnects of the connection when the subscription started

	pulls          int           // number of pulls requested; also the last token of the reply subject
	open           bool          // the last pull may still deliver messages
	messages       int           // number of messages that the open pull may still deliver
	bytes          int           // number of bytes that the open pull may still deliver; 0 means no limit
	pullEmpty      bool          // the last pull has delivered no message so far
	lastPullEmpty  bool          // the last pull that ended has delivered no message
	oversized      bool          // the next message is larger than the limit of a pull
	first          bool          // the server has not admitted any pull yet
	tooManyWaiting bool          // the server did not admit the last pull
	silenceLimit   time.Duration // how long the server may send nothing at all
}

// brokenError is the reason why a subscription must end.
type brokenError struct {
	reason   string
	expected bool // the next subscription may start without delay
}

func (e *brokenError) Error() string { return e.reason }

// unsubscribe ends the subscription. If the subscription has not returned some messages, the
// server delivers these messages again later.
func (p *subscription) unsubscribe() { _ = p.sub.Unsubscribe() }

// next returns the available messages, or waits until there are some. If only a status message
// arrived, next returns no messages and no error.
func (p *subscription) next(ctx context.Context) ([]pipeline.Message, error) {
	if p.s.c.Conn.Stats().Reconnects != p.reconnects {
		return p.remaining(&brokenError{"the connection was restored", true})
	}
	if p.lastPullEmpty {
		p.lastPullEmpty = false
		if err := p.s.checkStuck(ctx); err != nil {
			return nil, err
		}
	}
	m, err := p.wait(ctx)
	switch {
	case errors.As(err, new(*brokenError)):
		return p.remaining(err)
	case err != nil || m == nil:
		return nil, err
	}
	p.s.watch.markActive()
	var out []pipeline.Message
	for m != nil {
		if out, err = p.handle(m, out); err != nil {
			return out, err
		}
		if len(out) >= maxRun {
			break
		}
		select {
		case m = <-p.in:
		default:
			m = nil
		}
	}
	return out, p.pull() // the server handles the next pull while the caller handles these messages
}

// remaining returns the messages that arrived before the subscription broke, together with the
// given error that broke it. These messages must not be discarded, because the stream may no longer
// have them.
func (p *subscription) remaining(broken error) (out []pipeline.Message, err error) {
	for {
		select {
		case m := <-p.in:
			if out, err = p.handle(m, out); err != nil {
				return out, err
			}
		default:
			return out, broken
		}
	}
}

// wait returns the next message from the server. It returns nil without an error if the caller
// should call next again.
func (p *subscription) wait(ctx context.Context) (*nats.Msg, error) {
	if err := p.pull(); err != nil {
		return nil, err
	}
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	silence := time.NewTimer(p.silenceLimit)
	defer silence.Stop()
	select {
	case m := <-p.in:
		return m, nil
	case <-p.s.status:
		return nil, p.s.connectionChanged()
	case <-p.s.watch.failed:
		return nil, p.s.watch.failure()
	case <-silence.C:
		if p.tooManyWaiting {
			p.tooManyWaiting, p.open = false, false
			return nil, nil
		}
		return nil, &brokenError{"the server went silent", false}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// connectionChanged returns the error that ends the subscription after the connection has changed.
func (s *Source) connectionChanged() error {
	if s.c.Conn.IsConnected() {
		return &brokenError{"the connection was restored", true}
	}
	return &brokenError{"the connection was lost", true}
}

// pull sends a pull request, unless a pull is still open.
func (p *subscription) pull() error {
	if p.open {
		return nil
	}
	l := p.s.limits
	p.pulls++
	p.open, p.pullEmpty, p.messages, p.bytes = true, true, l.messages, l.bytes
	if p.oversized {
		p.oversized, p.messages, p.bytes = false, 1, 0
	}
	request := fmt.Appendf(nil, `{"batch":%d`, p.messages)
	if p.bytes > 0 {
		request = fmt.Appendf(request, `,"max_bytes":%d`, p.bytes)
	}
	if p.first {
		// Request no heartbeats: only without them does the server refuse a pull that it cannot
		// admit. It cannot admit this pull while the pull of an earlier reader is still waiting.
		expires := min(l.expires, l.heartbeat)
		p.silenceLimit = expires + serverGrace
		request = fmt.Appendf(request, `,"expires":%d}`, expires)
	} else {
		p.silenceLimit = 2*l.heartbeat + serverGrace
		request = fmt.Appendf(request, `,"expires":%d,"idle_heartbeat":%d}`, l.expires, l.heartbeat)
	}
	subject := "$JS.API.CONSUMER.MSG.NEXT." + p.s.c.Stream + "." + p.s.c.Name
	if err := p.s.c.Conn.PublishRequest(subject, p.inbox+"."+strconv.Itoa(p.pulls), request); err != nil {
		return &brokenError{"the pull could not be sent: " + err.Error(), false}
	}
	return nil
}

// handle handles one message from the server. It appends a message of the stream to out. Any other
// message is a status of the pull.
func (p *subscription) handle(m *nats.Msg, out []pipeline.Message) ([]pipeline.Message, error) {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		return out, p.handleStatus(m)
	}
	d, ok := parseReply(m.Reply)
	if !ok {
		return out, &brokenError{fmt.Sprintf("the reply subject of a message cannot be read: %.200q", m.Reply), false}
	}
	if d.ordinal != p.ordinal {
		return out, &brokenError{fmt.Sprintf("received delivery %d, want %d", d.ordinal, p.ordinal), false}
	}
	p.ordinal++
	p.account(m)
	r := p.s.unacked.receive(d, m.Reply)
	if r.skipped > 0 {
		p.s.skipped(r.skipped, d.sequence)
		return out, p.s.watch.failure()
	}
	if r.ack {
		_ = p.s.c.Conn.Publish(m.Reply, nil)
	}
	if !r.fresh {
		return out, nil
	}
	if out == nil {
		out = make([]pipeline.Message, 0, min(maxRun, 1+len(p.in)))
	}
	return append(out, pipeline.Message{
		Position: cdc.Position{Sequence: d.sequence, Stored: d.stored}, Subject: m.Subject,
		Encoding: encoding(m.Header), Data: m.Data, Pending: d.pending,
	}), nil
}

// account subtracts a message from the limits of the open pull, counting as the server does.
func (p *subscription) account(m *nats.Msg) {
	p.messages--
	p.pullEmpty, p.first = false, false
	if p.bytes > 0 {
		if p.bytes -= m.Size(); p.bytes <= 0 {
			p.messages = 0
		}
	}
	if p.messages <= 0 {
		p.open = false
	}
}

func encoding(h nats.Header) string {
	if h == nil {
		return ""
	}
	if e := h["content-encoding"]; len(e) > 0 {
		return e[0]
	}
	if e := h["Content-Encoding"]; len(e) > 0 {
		return e[0]
	}
	return ""
}

// handleStatus handles a status message.
func (p *subscription) handleStatus(m *nats.Msg) error {
	status, description := m.Header.Get("Status"), m.Header.Get("Description")
	if m.Subject != p.inbox+"."+strconv.Itoa(p.pulls) {
		return nil // the status belongs to an earlier pull
	}
	switch {
	case status == "100":
		p.markScanned(m.Header.Get("Nats-Last-Stream"))
	case status == "404", status == "408":
		p.lastPullEmpty = p.pullEmpty && !p.first
		p.open, p.first = false, false
	case status == "409" && strings.Contains(description, "Batch Completed"):
		p.open = false
	case status == "409" && strings.Contains(description, "Exceeds MaxBytes"):
		p.open, p.first, p.oversized = false, false, p.pullEmpty
	case status == "409" && strings.Contains(description, "Exceeded MaxWaiting"):
		p.tooManyWaiting, p.silenceLimit = true, tooManyWaitingDelay
	case status == "503":
		return &brokenError{"the consumer is gone", false}
	default:
		return &brokenError{fmt.Sprintf("the server ended the pull: %s %.200s", status, description), false}
	}
	return nil
}

// checkStuck returns an error if the server does not send messages that it has for this consumer,
// or if the server waits for acknowledgements that were lost. It must be called after a whole pull
// without a message, so that no message or acknowledgement can still be on its way.
func (s *Source) checkStuck(ctx context.Context) error {
	info, err := s.info(ctx)
	if err != nil {
		return nil // the next pull will show the server's problem
	}
	_, _, idle := s.unacked.position()
	switch {
	case info == nil:
		return &brokenError{"the consumer is gone", false}
	case info.NumPending > 0 && info.NumAckPending < s.c.MaxAckPending: // with NumAckPending at its limit, the server is waiting for eds
		return &brokenError{fmt.Sprintf("the server has %d messages that it does not send", info.NumPending), true}
	case info.NumAckPending > 0 && idle:
		return &brokenError{fmt.Sprintf("the server misses %d acknowledgements", info.NumAckPending), true}
	}
	return nil
}

// markScanned records a sequence from a status message. The server has sent all messages of the
// consumer up to that sequence.
func (p *subscription) markScanned(sequence string) {
	n, ok := parseNumber(sequence)
	if !ok {
		return
	}
	p.s.unacked.advance(n)
	p.s.recordScanned(n)
}
