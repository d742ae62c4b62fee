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
	unanswered int // number of messages that have not been answered

	fault    *Fault
	refuse   int // status with which the hub answers tokens, or 0 to check them
	disabled bool
	hold     int // number of messages to collect before any is answered
	waiting  []*amqp.Delivery
	tokens   map[string]bool // valid tokens of Entra ID
}

// Event is an event as the hub stores it.
type Event struct {
	Partition, Offset int
	Key               string // the partition key
	Events            int    // number of events in the message that contained the event
	ID, Type          string
	Properties        map[string]any
	Body              []byte
}

// lock locks the hub's state and returns the function that unlocks it. If the namespace has ended,
// the test fails.
func (h *Hub) lock(t testing.TB) (unlock func()) {
	t.Helper()
	h.namespace.mu.Lock()
	if h.namespace.ended {
		h.namespace.mu.Unlock()
		t.Fatal("the namespace of hub " + h.Name + " has ended")
	}
	return h.namespace.mu.Unlock
}

// Stored returns the events of all partitions, one partition after another. Events of a partition
// are in the order of their offsets.
func (h *Hub) Stored(t testing.TB) []Event {
	t.Helper()
	defer h.lock(t)()
	return slices.Concat(h.partitions...)
}

// Counts are the numbers of requests that a hub has received.
type Counts struct {
	Transfers, Claims, Links int
	Most                     int  // maximum number of messages that were unanswered at once
	Faulty                   bool // a fault has not been used up
}

// Counts returns the counts so far.
func (h *Hub) Counts(t testing.TB) Counts {
	t.Helper()
	defer h.lock(t)()
	c := h.counts
	c.Faulty = h.fault != nil && h.fault.Times > 0
	return c
}

// Fault is a failure that a hub simulates for some messages.
type Fault struct {
	// Kind is the kind of failure: "reject" rejects the message, "detach" detaches the link,
	// "close" closes the AMQP connection, "cut" cuts the TCP connection, "lose" stores the message
	// and then cuts the connection, "silent" never answers, and "die" ends the whole namespace.
	Kind        string
	Condition   string // condition of the error, for reject, detach and close
	Description string
	After       int // number of messages before the first failure
	Times       int // number of messages that fail
}

// Fail makes the hub simulate a fault. The zero Fault ends the simulation.
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

// Refuse makes the hub answer each token with the given status. The status 0 makes it check tokens
// again.
func (h *Hub) Refuse(t testing.TB, status int) {
	t.Helper()
	defer h.lock(t)()
	h.refuse = status
}

// Disable makes the hub refuse links if disabled is true, and accept them again if it is false.
func (h *Hub) Disable(t testing.TB, disabled bool) {
	t.Helper()
	defer h.lock(t)()
	h.disabled = disabled
}

// Hold makes the hub wait until it has received n messages before it answers any of them.
func (h *Hub) Hold(t testing.TB, n int) {
	t.Helper()
	defer h.lock(t)()
	h.hold = n
}

// Accept makes the hub accept the given tokens of Entra ID.
func (h *Hub) Accept(t testing.TB, tokens ...string) {
	t.Helper()
	defer h.lock(t)()
	for _, token := range tokens {
		h.tokens[token] = true
	}
}

// Expire detaches all links to the hub, as the service does when a token expires. To attach again,
// clients need a new token.
func (h *Hub) Expire(t testing.TB) {
	t.Helper()
	h.detach(t, "amqp:unauthorized-access")
}

// Remove deletes the hub and detaches all links to it.
func (h *Hub) Remove(t testing.TB) {
	t.Helper()
	unlock := h.lock(t)
	delete(h.namespace.hubs, h.Name)
	unlock()
	h.detach(t, "amqp:not-found")
}

// detach ends all links to the hub with the given condition, and revokes the claims of the clients'
// tokens.
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

// receive records a message as unanswered. It returns the messages that can be answered now. While
// Hold waits for more messages, it returns none. After that, it may return several.
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

// decide stores a message, unless a fault is due. It returns a function that answers the message.
// The caller must call that function without holding the lock.
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
		_ = h.store(d) // the sender gets no answer
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

// due returns the fault to simulate for the current message, or nil if there is none.
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
	batchFormat = 0x80013700 // message format in which each data section is an encoded event
	maxKey      = 128        // maximum length of a partition key, in UTF-16 code units
	keyName     = amqp.Symbol("x-opt-partition-key")
)

func argumentError(format string, args ...any) *amqp.Error {
	return &amqp.Error{Condition: "com.microsoft:argument-error", Description: fmt.Sprintf(format, args...)}
}

// store stores the events of a message. If they are refused, it returns the reason and stores none
// of them.
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
	_, _ = hash.Write([]byte(key)) // a hash never fails
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

// partitionKey returns the partition key of a message, or "" if there is none.
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

// unpack returns the events in a message, each as a message.
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
