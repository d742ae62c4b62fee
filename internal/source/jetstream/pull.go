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
	heartbeat time.Duration // the server's sign of life while there are no messages
}

const (
	heartbeat   = 5 * time.Second
	patience    = time.Second // beyond what was promised
	crowdedWait = 250 * time.Millisecond
)

// runLength is how many messages next returns at most.
const runLength = 256

// subscription receives from the consumer until something is not as it must be.
// One pull is outstanding at a time: consumers that an older program made have
// room for one, and drop a second.
type subscription struct {
	s     *Source
	inbox string
	sub   *nats.Subscription
	in    chan *nats.Msg

	ordinal    uint64 // of the delivery that must come next
	reconnects uint64 // of the connection, when this began

	pulls    int           // made; the number is the last token of the reply subject
	open     bool          // the last one may still bring messages:
	messages int           // so many
	bytes    int           // of so many bytes together; 0: of any
	idled    bool          // the last pull ended and had brought nothing
	barren   bool          // it has brought none
	alone    bool          // the next message is larger than a pull
	first    bool          // no pull has been admitted yet
	crowded  bool          // the last one was not
	quiet    time.Duration // for how long nothing may come from the server
}

// brokenError says why a subscription has to be left.
type brokenError struct {
	reason   string
	expected bool // and may be made again at once
}

func (e *brokenError) Error() string { return e.reason }

// leave ends the subscription. What it has not returned comes again.
func (p *subscription) leave() { _ = p.sub.Unsubscribe() }

// next returns messages that are there, and waits where there are none. It
// returns none without an error where only something else came.
func (p *subscription) next(ctx context.Context) ([]pipeline.Message, error) {
	if p.s.c.Conn.Stats().Reconnects != p.reconnects {
		return p.remaining(&brokenError{"the connection was made anew", true})
	}
	if p.idled {
		p.idled = false
		if err := p.s.stuck(ctx); err != nil {
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
	p.s.watch.read()
	var out []pipeline.Message
	for m != nil {
		if out, err = p.handle(m, out); err != nil {
			return out, err
		}
		if len(out) >= runLength {
			break
		}
		select {
		case m = <-p.in:
		default:
			m = nil
		}
	}
	return out, p.pull() // while what came is worked on
}

// remaining returns the messages that came before the subscription broke with err: the
// stream may not have them any more.
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

// wait returns what comes next from the server; nil where there is something
// else to do.
func (p *subscription) wait(ctx context.Context) (*nats.Msg, error) {
	if err := p.pull(); err != nil {
		return nil, err
	}
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	quiet := time.NewTimer(p.quiet)
	defer quiet.Stop()
	select {
	case m := <-p.in:
		return m, nil
	case <-p.s.status:
		return nil, p.s.connectionChanged()
	case <-p.s.watch.failed:
		return nil, p.s.watch.failure()
	case <-quiet.C:
		if p.crowded {
			p.crowded, p.open = false, false
			return nil, nil
		}
		return nil, &brokenError{"the server went silent", false}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// connectionChanged decides about the subscription.
func (s *Source) connectionChanged() error {
	if s.c.Conn.IsConnected() {
		return &brokenError{"the connection was made anew", true}
	}
	return &brokenError{"the connection was lost", true}
}

// pull asks for messages, unless that has been done.
func (p *subscription) pull() error {
	if p.open {
		return nil
	}
	l := p.s.limits
	p.pulls++
	p.open, p.barren, p.messages, p.bytes = true, true, l.messages, l.bytes
	if p.alone {
		p.alone, p.messages, p.bytes = false, 1, 0
	}
	request := fmt.Appendf(nil, `{"batch":%d`, p.messages)
	if p.bytes > 0 {
		request = fmt.Appendf(request, `,"max_bytes":%d`, p.bytes)
	}
	if p.first {
		// Without heartbeats, because only then does the server say that it has
		// no room: the pull of a reader that is gone may still be in the way.
		expires := min(l.expires, l.heartbeat)
		p.quiet = expires + patience
		request = fmt.Appendf(request, `,"expires":%d}`, expires)
	} else {
		p.quiet = 2*l.heartbeat + patience
		request = fmt.Appendf(request, `,"expires":%d,"idle_heartbeat":%d}`, l.expires, l.heartbeat)
	}
	subject := "$JS.API.CONSUMER.MSG.NEXT." + p.s.c.Stream + "." + p.s.c.Name
	if err := p.s.c.Conn.PublishRequest(subject, p.inbox+"."+strconv.Itoa(p.pulls), request); err != nil {
		return &brokenError{"the pull could not be sent: " + err.Error(), false}
	}
	return nil
}

// handle takes what the server sent: a message, which it appends to out, or a
// word about the pull.
func (p *subscription) handle(m *nats.Msg, out []pipeline.Message) ([]pipeline.Message, error) {
	if !strings.HasPrefix(m.Reply, ackPrefix) {
		return out, p.word(m)
	}
	d, ok := parseReply(m.Reply)
	if !ok {
		return out, &brokenError{fmt.Sprintf("the reply subject of a message can not be read: %.200q", m.Reply), false}
	}
	if d.ordinal != p.ordinal {
		return out, &brokenError{fmt.Sprintf("delivery %d came where %d was due", d.ordinal, p.ordinal), false}
	}
	p.ordinal++
	p.account(m)
	received := p.s.ledger.receive(d, m.Reply)
	if received.skipped > 0 {
		p.s.skipped(received.skipped, d.sequence)
		return out, p.s.watch.failure()
	}
	if received.ack {
		_ = p.s.c.Conn.Publish(m.Reply, nil)
	}
	if !received.fresh {
		return out, nil
	}
	if out == nil {
		out = make([]pipeline.Message, 0, min(runLength, 1+len(p.in)))
	}
	return append(out, pipeline.Message{
		Position: cdc.Position{Sequence: d.sequence, Stored: d.stored}, Subject: m.Subject,
		Encoding: encoding(m.Header), Data: m.Data, Pending: d.pending,
	}), nil
}

// account counts a message against the open pull, as the server does.
func (p *subscription) account(m *nats.Msg) {
	p.messages--
	p.barren, p.first = false, false
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

// word takes a status message.
func (p *subscription) word(m *nats.Msg) error {
	status, description := m.Header.Get("Status"), m.Header.Get("Description")
	if m.Subject != p.inbox+"."+strconv.Itoa(p.pulls) {
		return nil // about a pull that is over
	}
	switch {
	case status == "100":
		p.scanned(m.Header.Get("Nats-Last-Stream"))
	case status == "404", status == "408":
		p.idled = p.barren && !p.first
		p.open, p.first = false, false
	case status == "409" && strings.Contains(description, "Batch Completed"):
		p.open = false
	case status == "409" && strings.Contains(description, "Exceeds MaxBytes"):
		p.open, p.first, p.alone = false, false, p.barren
	case status == "409" && strings.Contains(description, "Exceeded MaxWaiting"):
		p.crowded, p.quiet = true, crowdedWait
	case status == "503":
		return &brokenError{"the consumer is gone", false}
	default:
		return &brokenError{fmt.Sprintf("the server ended the pull: %s %.200s", status, description), false}
	}
	return nil
}

// stuck returns an error where the server has something for us that it does not
// send, or waits for acknowledgements that were lost: after a whole pull in which
// nothing came, neither can be on its way.
func (s *Source) stuck(ctx context.Context) error {
	info, err := s.info(ctx)
	if err != nil {
		return nil // what is wrong with the server shows in the next pull
	}
	_, _, idle := s.ledger.position()
	switch {
	case info == nil:
		return &brokenError{"the consumer is gone", false}
	case info.NumPending > 0 && info.NumAckPending < s.c.MaxAckPending: // else it waits for us
		return &brokenError{fmt.Sprintf("the server has %d messages that it does not send", info.NumPending), true}
	case info.NumAckPending > 0 && idle:
		return &brokenError{fmt.Sprintf("the server misses %d acknowledgements", info.NumAckPending), true}
	}
	return nil
}

// scanned takes the sequence up to which the server has looked for messages of
// the consumer and sent what there was.
func (p *subscription) scanned(sequence string) {
	n, ok := parseNumber(sequence)
	if !ok {
		return
	}
	p.s.ledger.reach(n)
	p.s.recordScanned(n)
}
