package eventhub

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"
	"unicode/utf16"

	"github.com/shopmonkeyus/eds/internal/testing/peers/amqp"
)

// Hub is one event hub.
type Hub struct {
	Name string

	namespace *Namespace
	settings  Settings

	// The namespace's lock guards the rest.
	partitions [][]Event
	counts     Counts
	unanswered int // messages

	fault    *Fault
	refuse   int // status that tokens are answered with; 0 for none
	disabled bool
	hold     int // messages that are to wait for each other
	waiting  []*amqp.Delivery
	tokens   map[string]bool // of Entra ID
}

// Event is an event as it is stored.
type Event struct {
	Partition, Offset int
	Key               string // the partition key
	Events            int    // in the message that it came in
	ID, Type          string
	Properties        map[string]any
	Body              []byte
}

// lock locks the hub's state and returns the function that unlocks it. The test fails if the
// namespace has ended.
func (h *Hub) lock(t testing.TB) (unlock func()) {
	t.Helper()
	h.namespace.mu.Lock()
	if h.namespace.ended {
		h.namespace.mu.Unlock()
		t.Fatal("the namespace of hub " + h.Name + " has ended")
	}
	return h.namespace.mu.Unlock
}

// Stored returns the events of the hub, by partition, in order.
func (h *Hub) Stored(t testing.TB) []Event {
	t.Helper()
	defer h.lock(t)()
	return slices.Concat(h.partitions...)
}

// Counts are numbers of what happened to a hub.
type Counts struct {
	Transfers, Claims, Links int
	Most                     int  // messages that were unanswered at a time
	Faulty                   bool // a fault is left
}

// Counts returns the counts so far.
func (h *Hub) Counts(t testing.TB) Counts {
	t.Helper()
	defer h.lock(t)()
	c := h.counts
	c.Faulty = h.fault != nil && h.fault.Times > 0
	return c
}

// Fault is something that a hub does wrong with messages.
type Fault struct {
	// Kind is one of: reject; detach, of the link; close, of the connection; cut, of the TCP
	// connection; lose, which stores the message and cuts the connection; silent, which never
	// answers; die, of the whole namespace.
	Kind        string
	Condition   string // of the error, with reject, detach and close
	Description string
	After       int // messages that go well first
	Times       int // messages that do not
}

// Fail makes the hub do wrong. The zero Fault ends that.
func (h *Hub) Fail(t testing.TB, f Fault) {
	t.Helper()
	kinds := []string{"", "reject", "detach", "close", "cut", "lose", "silent", "die"}
	if !slices.Contains(kinds, f.Kind) {
		t.Fatalf("no fault %q", f.Kind)
	}
	defer h.lock(t)()
	h.fault = nil
	if f.Kind != "" {
		h.fault = &f
	}
}

// Refuse makes the hub answer tokens with a status. 0 ends that.
func (h *Hub) Refuse(t testing.TB, status int) {
	t.Helper()
	defer h.lock(t)()
	h.refuse = status
}

// Disable makes the hub refuse links.
func (h *Hub) Disable(t testing.TB, disabled bool) {
	t.Helper()
	defer h.lock(t)()
	h.disabled = disabled
}

// Hold makes the hub answer no message until it has n of them.
func (h *Hub) Hold(t testing.TB, n int) {
	t.Helper()
	defer h.lock(t)()
	h.hold = n
}

// Accept makes the hub accept tokens of Entra ID.
func (h *Hub) Accept(t testing.TB, tokens ...string) {
	t.Helper()
	defer h.lock(t)()
	for _, token := range tokens {
		h.tokens[token] = true
	}
}

// Expire detaches every link, as the service does when a token expires. Clients need a new token.
func (h *Hub) Expire(t testing.TB) {
	t.Helper()
	h.detach(t, "amqp:unauthorized-access")
}

// Remove deletes the hub.
func (h *Hub) Remove(t testing.TB) {
	t.Helper()
	unlock := h.lock(t)
	delete(h.namespace.hubs, h.Name)
	unlock()
	h.detach(t, "amqp:not-found")
}

// detach ends the links of all clients, and what their tokens allow.
func (h *Hub) detach(t testing.TB, condition amqp.Symbol) {
	t.Helper()
	unlock := h.lock(t)
	var links []*amqp.Link
	for c := range h.namespace.clients {
		delete(c.granted, h.Name)
		for _, l := range c.conn.Links() {
			if l.Sends && hubOf(l.Target) == h.Name {
				links = append(links, l)
			}
		}
	}
	unlock()
	for _, l := range links {
		l.Detach(&amqp.Error{Condition: condition, Description: "detached"})
	}
}

// receive takes a message and returns the messages to answer now, which may be none or several.
func (h *Hub) receive(d *amqp.Delivery) []*amqp.Delivery {
	h.counts.Transfers++
	h.unanswered++
	h.counts.Most = max(h.counts.Most, h.unanswered)
	h.waiting = append(h.waiting, d)
	if len(h.waiting) < h.hold {
		return nil
	}
	ready := h.waiting
	h.hold, h.waiting = 0, nil
	return ready
}

// decide stores a message, unless a fault is due, and returns what to do with its sender. That is
// to
// be done without the lock.
func (h *Hub) decide(d *amqp.Delivery) (answer func()) {
	h.unanswered--
	f := h.due()
	if f == nil {
		if refusal := h.store(d); refusal != nil {
			return func() { d.Reject(refusal) }
		}
		return d.Accept
	}
	err := &amqp.Error{Condition: amqp.Symbol(f.Condition), Description: f.Description}
	conn := d.Link.Conn()
	switch f.Kind {
	case "reject":
		return func() { d.Reject(err) }
	case "detach":
		return func() { d.Link.Detach(err) }
	case "close":
		return func() { conn.Close(err) }
	case "lose":
		_ = h.store(d) // its sender does not get to know
		return conn.Cut
	case "cut":
		return conn.Cut
	case "die":
		return func() {
			h.namespace.end()
			close(h.namespace.dead)
		}
	}
	return func() {} // silent
}

// due returns the fault that is to happen to this message; nil for none.
func (h *Hub) due() *Fault {
	f := h.fault
	switch {
	case f == nil:
		return nil
	case f.After > 0:
		f.After--
		return nil
	case f.Times == 0:
		h.fault = nil
		return nil
	}
	f.Times--
	return f
}

const (
	batchFormat = 0x80013700 // of a message whose data sections are encoded events
	maxKey      = 128        // UTF-16 code units of a partition key
	keyName     = amqp.Symbol("x-opt-partition-key")
)

func argumentError(format string, args ...any) *amqp.Error {
	return &amqp.Error{Condition: "com.microsoft:argument-error", Description: fmt.Sprintf(format, args...)}
}

// store stores the events of a message. An error says why they are refused.
func (h *Hub) store(d *amqp.Delivery) *amqp.Error {
	envelope, err := amqp.ParseMessage(d.Payload)
	if err != nil {
		return argumentError("the message: %v", err)
	}
	key, refusal := partitionKey(envelope)
	if refusal != nil || h.settings.Discards {
		return refusal
	}
	messages, refusal := unpack(envelope, d.Format)
	if refusal != nil {
		return refusal
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(key)) // it does not fail
	partition := int(hash.Sum32() % uint32(len(h.partitions)))
	events := make([]Event, len(messages))
	for i, m := range messages {
		if own, refusal := partitionKey(m); refusal != nil || own != key {
			return argumentError("event %d has the partition key %q in a message of %q", i, own, key)
		}
		if len(m.Data) == 0 {
			return argumentError("event %d has no binary body", i)
		}
		id, isString := m.Properties.MessageID.(string)
		if !isString && m.Properties.MessageID != nil {
			return argumentError("event %d has a message-id of type %T", i, m.Properties.MessageID)
		}
		events[i] = Event{
			Partition: partition, Offset: len(h.partitions[partition]) + i, Key: key, Events: len(messages),
			ID: id, Type: string(m.Properties.ContentType), Properties: m.ApplicationProperties, Body: slices.Concat(m.Data...),
		}
	}
	if err := h.record(events); err != nil {
		return &amqp.Error{Condition: "amqp:internal-error", Description: err.Error()}
	}
	h.partitions[partition] = append(h.partitions[partition], events...)
	return nil
}

// partitionKey returns the partition key of a message; "" for none.
func partitionKey(m *amqp.Message) (string, *amqp.Error) {
	v, found := m.Annotations[keyName]
	if !found {
		return "", nil
	}
	key, ok := v.(string)
	if !ok {
		return "", argumentError("the partition key is a %T", v)
	}
	if n := len(utf16.Encode([]rune(key))); n > maxKey {
		return key, argumentError("the partition key has %d UTF-16 code units", n)
	}
	return key, nil
}

// unpack returns the messages, one for each event, that a message consists of.
func unpack(m *amqp.Message, format uint32) ([]*amqp.Message, *amqp.Error) {
	switch format {
	case 0:
		return []*amqp.Message{m}, nil
	case batchFormat:
	default:
		return nil, argumentError("message format %#x", format)
	}
	messages := make([]*amqp.Message, len(m.Data))
	for i, data := range m.Data {
		var err error
		if messages[i], err = amqp.ParseMessage(data); err != nil {
			return nil, argumentError("event %d: %v", i, err)
		}
	}
	return messages, nil
}
