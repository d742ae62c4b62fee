package jetstream

import (
	"sort"
	"sync"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// ledger knows the messages that were received and are not settled, and how to
// acknowledge each. It is safe for concurrent use.
type ledger struct {
	mu      sync.Mutex
	open    []unsettled // ascending
	settled cdc.Position
	newest  cdc.Position  // of the last message received
	marked  uint64        // newest, when progress was last told
	armed   bool          // somebody will call progress
	work    chan struct{} // told when armed has to become true

	reached uint64   // no message of ours up to here is still to be received
	latest  delivery // the last one
	next    uint64   // the first message of ours after newest, 0 if unknown
	behind  bool     // a delivery since the last call of caughtUp had messages behind it
	fewer   bool     // so did the one before another, and more than it: some are gone
}

type unsettled struct {
	sequence uint64
	reply    string
}

func newLedger(settled cdc.Position, reached uint64) *ledger {
	return &ledger{settled: settled, newest: settled, reached: max(reached, settled.Sequence), work: make(chan struct{}, 1)}
}

// received is what the ledger makes of a delivery.
type received struct {
	fresh   bool   // it is passed on: it was not received before
	ack     bool   // it is settled already, and to be acknowledged at once
	skipped uint64 // a message that the stream had and that should have come first; 0 if none
}

// receive records a delivery.
func (l *ledger) receive(d delivery, reply string) (r received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fewer = l.fewer || d.ordinal == l.latest.ordinal+1 && d.pending+1 < l.latest.pending
	l.latest = d
	l.behind = l.behind || d.pending > 0
	if d.sequence > l.newest.Sequence {
		if l.next > 0 && d.sequence >= l.next {
			if d.sequence > l.next {
				r.skipped = l.next
			}
			l.next = 0
		}
		l.newest = cdc.Position{Sequence: d.sequence, Stored: d.stored}
		l.reached = max(l.reached, d.sequence)
		l.open = append(l.open, unsettled{d.sequence, reply})
		if !l.armed {
			l.armed = true
			l.work <- struct{}{} // never blocks: whoever takes it disarms
		}
		r.fresh = true
		return r
	}
	i := sort.Search(len(l.open), func(i int) bool { return l.open[i].sequence >= d.sequence })
	if i < len(l.open) && l.open[i].sequence == d.sequence {
		l.open[i].reply = reply
		return r
	}
	r.ack = true
	return r
}

// begin has a new subscription go on, whose last delivery has the given ordinal. It
// returns up to where no message of ours is still to be received.
func (l *ledger) begin(ordinal uint64) (reached uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest, l.fewer = delivery{ordinal: ordinal}, false
	return l.reached
}

// reach records that no message of ours up to sequence is still to be received.
func (l *ledger) reach(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reached = max(l.reached, sequence)
}

// expect records that the stream has this message, and none of ours before it that
// was not sent to us. It must be delivered next, unless it has been.
func (l *ledger) expect(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sequence > l.newest.Sequence {
		l.next = sequence
	}
}

// caughtUp reports whether each delivery since the last call was the newest message
// of ours.
func (l *ledger) caughtUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	behind := l.behind
	l.behind = false
	return !behind
}

// read returns the last message received, which may not be settled, and up to where
// none is still to be received.
func (l *ledger) read() (newest cdc.Position, reached uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest, l.reached
}

// last returns the last delivery, and whether waiting messages had vanished before
// some delivery since clearFewer.
func (l *ledger) last() (latest delivery, fewer bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest, l.fewer
}

func (l *ledger) clearFewer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fewer = false
}

// settleRun bounds how many messages are settled without letting others at the
// ledger.
const settleRun = 512

// settle forgets the messages up to and including p, and calls ack for each.
func (l *ledger) settle(p cdc.Position, ack func(reply string)) {
	for {
		l.mu.Lock()
		l.settled = l.settled.Advance(cdc.Position{Sequence: max(p.Sequence, l.settled.Sequence), Stored: p.Stored})
		n := 0
		for n < len(l.open) && n < settleRun && l.open[n].sequence <= p.Sequence {
			n++
		}
		run := l.open[:n:n]
		l.open = l.open[n:]
		l.mu.Unlock()
		for i := range run {
			ack(run[i].reply)
			run[i].reply = "" // the array outlives it
		}
		if n < settleRun {
			return
		}
	}
}

// progress calls tell for each message that was unsettled at the last call
// already, and reports whether to call again.
func (l *ledger) progress(tell func(reply string)) (again bool) {
	l.mu.Lock()
	var replies []string
	for _, u := range l.open {
		if u.sequence > l.marked {
			break
		}
		replies = append(replies, u.reply)
	}
	l.marked = l.newest.Sequence
	l.armed = len(l.open) > 0
	again = l.armed
	l.mu.Unlock()
	for _, reply := range replies {
		tell(reply)
	}
	return again
}

// position returns the last message settled and the sequence of the last one
// received; idle is true where they are the same.
func (l *ledger) position() (settled cdc.Position, newest uint64, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled, l.newest.Sequence, len(l.open) == 0
}
