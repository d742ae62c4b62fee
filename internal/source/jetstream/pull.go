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

// pullLimits bound one pull request.
type pullLimits struct {
	messages  int
	bytes     int // as the server counts: subject, reply, headers and payload
	expires   time.Duration
	heartbeat time.Duration // interval of the server's heartbeats while there are no messages
}

const (
	heartbeat           = 5 * time.Second
	serverGrace         = time.Second // that the server may exceed its times by
	tooManyWaitingDelay = 250 * time.Millisecond
)

// maxRun is the maximum number of messages that next returns.
const maxRun = 256

// subscription receives from the consumer until an invariant is broken. One pull is outstanding at
// a time: consumers that an older program created admit one, and drop a second.
type subscription struct {
	s     *Source
	inbox string
	sub   *nats.Subscription
	in    chan *nats.Msg

	ordinal    uint64 // of the delivery that must come next
	reconnects uint64 // of the connection, at the start of the subscription

	pulls          int           // requested; the number is the last token of the reply subject
	open           bool          // the last pull may still bring messages:
	messages       int           // at most this many
	bytes          int           // and this many bytes in total; 0: any
	pullEmpty      bool          // the pull has brought no message
	lastPullEmpty  bool          // the previous pull has ended without a message
	oversized      bool          // the next message is larger than a pull
	first          bool          // no pull has been admitted yet
	tooManyWaiting bool          // the last pull was not admitted
	silenceLimit   time.Duration // maximum time without anything from the server
}

// brokenError says why a subscription has to end.
type brokenError struct {
	reason   string
	expected bool // the next subscription may start at once
}

func (e *brokenError) Error() string { return e.reason }

// unsubscribe ends the subscription. Messages that it has not returned come again.
func (p *subscription) unsubscribe() { _ = p.sub.Unsubscribe() }

// next returns available messages, or waits for some. It returns none without an error if only a
// status came.
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
	return out, p.pull() // while the caller handles these messages
}

// remaining returns the messages that came before the subscription broke with err: the stream may
// not have them any more.
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

// wait returns the next message from the server, or nil if there is something else to do.
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

// connectionChanged returns the reason to end the subscription.
func (s *Source) connectionChanged() error {
	if s.c.Conn.IsConnected() {
		return &brokenError{"the connection was restored", true}
	}
	return &brokenError{"the connection was lost", true}
}

// pull requests messages, unless a pull is open.
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
		// Without heartbeats, because only then does the server refuse a pull that it cannot admit.
		// The pull of an earlier reader may still wait.
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

// handle handles a message of the server: a message of the stream, which it appends to out, or a
// status of the pull.
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

// account counts a message against the open pull, as the server does.
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
		return nil // about an earlier pull
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

// checkStuck returns an error if the server has messages for us that it does not send, or waits for
// acknowledgements that were lost. It is called after a whole pull without a message, so neither
// can still be on its way.
func (s *Source) checkStuck(ctx context.Context) error {
	info, err := s.info(ctx)
	if err != nil {
		return nil // the next pull shows the server's problem
	}
	_, _, idle := s.unacked.position()
	switch {
	case info == nil:
		return &brokenError{"the consumer is gone", false}
	case info.NumPending > 0 && info.NumAckPending < s.c.MaxAckPending: // otherwise it waits for us
		return &brokenError{fmt.Sprintf("the server has %d messages that it does not send", info.NumPending), true}
	case info.NumAckPending > 0 && idle:
		return &brokenError{fmt.Sprintf("the server misses %d acknowledgements", info.NumAckPending), true}
	}
	return nil
}

// markScanned records the sequence up to which the server has looked for messages of the consumer
// and sent all of them.
func (p *subscription) markScanned(sequence string) {
	n, ok := parseNumber(sequence)
	if !ok {
		return
	}
	p.s.unacked.advance(n)
	p.s.recordScanned(n)
}
