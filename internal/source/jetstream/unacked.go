package jetstream

import (
	"sort"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// unacked holds the messages that were received but not acknowledged, with the reply subject that
// acknowledges each. It is safe for concurrent use.
type unacked struct {
	mu           sync.Mutex
	messages     []unackedMessage // in ascending sequence
	acknowledged cdc.Position
	newest       cdc.Position  // position of the last message received
	reported     uint64        // sequence of newest at the last call of progress
	scheduled    bool          // a call of progress is scheduled
	wake         chan struct{} // signals that a call of progress must be scheduled

	reached uint64   // all of the consumer's messages up to this sequence have been received
	latest  delivery // the latest delivery
	next    uint64   // sequence of the consumer's first message after newest, or 0 if unknown
	behind  bool     // since the last call of caughtUp, some delivery was not the newest message
	fewer   bool     // the number of waiting messages fell between two deliveries by more than was delivered
}

type unackedMessage struct {
	sequence uint64
	reply    string
}

func newUnacked(acknowledged cdc.Position, reached uint64) *unacked {
	return &unacked{
		acknowledged: acknowledged, newest: acknowledged, reached: max(reached, acknowledged.Sequence),
		wake: make(chan struct{}, 1),
	}
}

// receipt describes how to handle a delivery.
type receipt struct {
	fresh   bool   // the message is new and must be returned
	ack     bool   // the message is already acknowledged, so it must be acknowledged again at once
	skipped uint64 // sequence of a message that the stream had and that should have come first, or 0 for none
}

// receive records the delivery d. The message is acknowledged by a publication to the reply
// subject.
func (u *unacked) receive(d delivery, reply string) (r receipt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fewer = u.fewer || d.ordinal == u.latest.ordinal+1 && d.pending+1 < u.latest.pending
	u.latest = d
	u.behind = u.behind || d.pending > 0
	if d.sequence > u.newest.Sequence {
		if u.next > 0 && d.sequence >= u.next {
			if d.sequence > u.next {
				r.skipped = u.next
			}
			u.next = 0
		}
		u.newest = cdc.Position{Sequence: d.sequence, Stored: d.stored}
		u.reached = max(u.reached, d.sequence)
		u.messages = append(u.messages, unackedMessage{d.sequence, reply})
		if !u.scheduled {
			u.scheduled = true
			u.wake <- struct{}{} // never blocks, because the channel is drained before scheduled becomes false
		}
		r.fresh = true
		return r
	}
	i := sort.Search(len(u.messages), func(i int) bool { return u.messages[i].sequence >= d.sequence })
	if i < len(u.messages) && u.messages[i].sequence == d.sequence {
		u.messages[i].reply = reply
		return r
	}
	r.ack = true
	return r
}

// subscribe prepares for a new subscription. The parameter ordinal is the ordinal of the consumer's
// last delivery. The result is the sequence up to which all messages of the consumer have been
// received.
func (u *unacked) subscribe(ordinal uint64) (reached uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.latest, u.fewer = delivery{ordinal: ordinal}, false
	return u.reached
}

// advance records that all messages of the consumer up to the given sequence have been received.
func (u *unacked) advance(sequence uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reached = max(u.reached, sequence)
}

// expect records that the stream has the message with the given sequence, and that all earlier
// messages of the consumer have been sent. Unless that message has already been received, it must
// be the next new message.
func (u *unacked) expect(sequence uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if sequence > u.newest.Sequence {
		u.next = sequence
	}
}

// caughtUp reports whether each delivery since the last call was the newest message for the
// consumer.
func (u *unacked) caughtUp() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	behind := u.behind
	u.behind = false
	return !behind
}

// received returns the position of the last received message, which may be unacknowledged. It also
// returns the sequence up to which all messages of the consumer have been received.
func (u *unacked) received() (newest cdc.Position, reached uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.newest, u.reached
}

// last returns the last delivery. It also reports whether waiting messages have vanished between
// two deliveries since the last call of clearFewer.
func (u *unacked) last() (latest delivery, fewer bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.latest, u.fewer
}

func (u *unacked) clearFewer() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fewer = false
}

// ackRun is the maximum number of messages that acknowledge removes before it releases the lock.
const ackRun = 512

// acknowledge removes all messages up to and including p, and calls the callback with the reply
// subject of each removed message.
func (u *unacked) acknowledge(p cdc.Position, ack func(reply string)) {
	for {
		u.mu.Lock()
		upTo := cdc.Position{Sequence: max(p.Sequence, u.acknowledged.Sequence), Stored: p.Stored}
		u.acknowledged = u.acknowledged.Advance(upTo)
		n := 0
		for n < len(u.messages) && n < ackRun && u.messages[n].sequence <= p.Sequence {
			n++
		}
		run := u.messages[:n:n]
		u.messages = u.messages[n:]
		u.mu.Unlock()
		for i := range run {
			ack(run[i].reply)
			run[i].reply = "" // the underlying array stays in use
		}
		if n < ackRun {
			return
		}
	}
}

// progress calls report(reply) for each unacknowledged message that had already been received at
// the previous call of progress. The result says whether progress must be called again.
func (u *unacked) progress(report func(reply string)) (again bool) {
	u.mu.Lock()
	var replies []string
	for _, m := range u.messages {
		if m.sequence > u.reported {
			break
		}
		replies = append(replies, m.reply)
	}
	u.reported = u.newest.Sequence
	u.scheduled = len(u.messages) > 0
	again = u.scheduled
	u.mu.Unlock()
	for _, reply := range replies {
		report(reply)
	}
	return again
}

// position returns the position of the last acknowledged message and the sequence of the last
// received one. If no received message is unacknowledged, the result idle is true.
func (u *unacked) position() (acknowledged cdc.Position, newest uint64, idle bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acknowledged, u.newest.Sequence, len(u.messages) == 0
}
