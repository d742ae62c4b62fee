package jetstream

import (
	"sort"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// unacked keeps the messages that were received and are not acknowledged, and how to acknowledge
// each. It is safe for concurrent use.
type unacked struct {
	mu           sync.Mutex
	messages     []unackedMessage // ascending
	acknowledged cdc.Position
	newest       cdc.Position  // of the last message received
	reported     uint64        // sequence of newest when progress was last reported
	scheduled    bool          // a call of progress is scheduled
	wake         chan struct{} // signals that a call must be scheduled

	reached uint64   // all messages of ours up to here have been received
	latest  delivery // the last one
	next    uint64   // the first message of ours after newest, 0 if unknown
	behind  bool     // since the last call of caughtUp, a delivery had messages after it
	fewer   bool     // between two deliveries, waiting messages have vanished
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

// receipt says how to handle a delivery.
type receipt struct {
	fresh   bool   // pass it on: it was not received before
	ack     bool   // acknowledge it at once: it is acknowledged already
	skipped uint64 // a message that the stream had and that should have come first; 0 if none
}

// receive records a delivery.
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
			u.wake <- struct{}{} // never blocks: progress takes it before scheduled becomes false
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

// subscribe prepares for a new subscription, whose last delivery has the given ordinal. It returns
// the sequence up to which all messages of ours have been received.
func (u *unacked) subscribe(ordinal uint64) (reached uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.latest, u.fewer = delivery{ordinal: ordinal}, false
	return u.reached
}

// advance records that all messages of ours up to sequence have been received.
func (u *unacked) advance(sequence uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reached = max(u.reached, sequence)
}

// expect records that the stream has this message, and has sent all earlier messages of ours. It
// must be delivered next, unless it has been.
func (u *unacked) expect(sequence uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if sequence > u.newest.Sequence {
		u.next = sequence
	}
}

// caughtUp reports whether each delivery since the last call was the newest message of ours.
func (u *unacked) caughtUp() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	behind := u.behind
	u.behind = false
	return !behind
}

// received returns the last message received, which may not be acknowledged, and the sequence up to
// which all messages of ours have been received.
func (u *unacked) received() (newest cdc.Position, reached uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.newest, u.reached
}

// last returns the last delivery, and whether waiting messages have vanished between two deliveries
// since clearFewer.
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

// ackRun bounds the messages that acknowledge removes while it has the lock.
const ackRun = 512

// acknowledge removes the messages up to and including p, and calls ack for each.
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
			run[i].reply = "" // the array outlives it
		}
		if n < ackRun {
			return
		}
	}
}

// progress calls report for each message that was already received at the last call and is not
// acknowledged. It reports whether to call it again.
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

// position returns the last message acknowledged and the sequence of the last one received; idle is
// true if they are the same.
func (u *unacked) position() (acknowledged cdc.Position, newest uint64, idle bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.acknowledged, u.newest.Sequence, len(u.messages) == 0
}
