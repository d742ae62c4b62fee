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
	newest  uint64        // sequence of the last message received
	marked  uint64        // newest, when progress was last told
	armed   bool          // somebody will call progress
	work    chan struct{} // told when armed has to become true
}

type unsettled struct {
	sequence uint64
	reply    string
}

func newLedger(settled cdc.Position) *ledger {
	return &ledger{settled: settled, newest: settled.Sequence, work: make(chan struct{}, 1)}
}

// receive records a delivery. It returns false where the message is not to be
// passed on, because it was received before; it is settled already where ack is
// true, and to be acknowledged at once.
func (l *ledger) receive(sequence uint64, reply string) (fresh, ack bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sequence > l.newest {
		l.newest = sequence
		l.open = append(l.open, unsettled{sequence, reply})
		if !l.armed {
			l.armed = true
			l.work <- struct{}{} // never blocks: whoever takes it disarms
		}
		return true, false
	}
	if sequence <= l.settled.Sequence {
		return false, true
	}
	i := sort.Search(len(l.open), func(i int) bool { return l.open[i].sequence >= sequence })
	if i < len(l.open) && l.open[i].sequence == sequence {
		l.open[i].reply = reply
		return false, false
	}
	return false, true
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
	l.marked = l.newest
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
	return l.settled, l.newest, len(l.open) == 0
}
