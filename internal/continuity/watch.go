package continuity

// Look is what the stream shows while it is read. The parts of a look are taken in
// the order of its fields, so that what was dropped meanwhile shows in a later one.
type Look struct {
	// Sent is the sequence up to which the server has sent every message of this
	// consumer that the stream still had then.
	Sent uint64
	// Deliveries counts what the server has sent.
	Deliveries uint64
	// Fewer reports whether messages of this consumer that waited were not sent since the
	// last look, and wait no longer.
	Fewer bool
	// Behind reports whether messages of this consumer waited after the last delivery.
	Behind bool
	// Last is at most the sequence of the newest message in the stream, of all tenants.
	Last uint64
	// Next is the first message of this consumer after Sent, 0 if there is none.
	Next uint64
	// First is the sequence of the oldest message in the stream, of all tenants.
	First uint64
}

// Verdict says whether a stream has dropped messages before they were sent.
type Verdict uint8

// The verdicts.
const (
	Kept    Verdict = iota // it has dropped none
	Unknown                // it has dropped messages, maybe of this consumer and not sent
	Dropped                // it has dropped some of this consumer
)

// Watch compares each look at the stream with the one before. Its zero value has to
// be begun. The stream drops its oldest messages first.
//
// A stream that still has everything that was not sent at the last look has dropped
// nothing since, whatever was sent meanwhile. If it does not, messages can have been
// sent and then dropped, or dropped only. Other tenants' messages do not matter.
type Watch struct {
	from       uint64 // every message of ours before it was sent
	waits      bool   // it is a message of ours, and was not sent
	deliveries uint64 // at the last look
}

// Begin has a reader go on after the given sequence. Nothing is missing up to there.
func (w *Watch) Begin(after uint64) { *w = Watch{from: after + 1} }

// Proceed has everything of ours up to the given sequence sent, while the stream
// can have dropped nothing before.
func (w *Watch) Proceed(sent uint64) {
	if sent >= w.from {
		*w = Watch{from: sent + 1}
	}
}

// Reached returns the sequence up to which no message of ours is still to be sent.
func (w *Watch) Reached() uint64 { return w.from - 1 }

// Since says what the stream has dropped since the last look.
func (w *Watch) Since(l Look) Verdict {
	switch {
	case l.First <= w.from:
		return Kept
	case w.waits && l.Deliveries == w.deliveries, l.Fewer:
		return Dropped
	case l.Behind && l.First > l.Sent: // what waited next is gone, or others' messages before it
		return Dropped
	default:
		return Unknown
	}
}

// Note makes l the last look.
func (w *Watch) Note(l Look) {
	w.from, w.deliveries = max(w.from, l.Sent+1), l.Deliveries
	w.waits = l.Next >= w.from
	switch {
	case w.waits:
		w.from = l.Next
	case l.Next == 0:
		w.from = max(w.from, l.Last+1)
	}
}
