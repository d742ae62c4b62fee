package continuity

// Look is an observation of the stream while it is read. The fields are observed in the order of
// their declaration, so a later field may reflect drops that happened after an earlier field was
// observed.
type Look struct {
	// Sent is the sequence up to which the server has sent every message of this consumer
	// that was still in the stream.
	Sent uint64
	// Deliveries is the number of messages that the server has sent to this consumer.
	Deliveries uint64
	// Fewer reports whether messages of this consumer have vanished since the last look. At that
	// look, these messages waited to be sent. They no longer wait, although they were not sent.
	Fewer bool
	// Behind reports whether messages of this consumer still waited to be sent after the last
	// delivery.
	Behind bool
	// Last is a lower bound for the sequence of the newest message in the stream, of all tenants.
	Last uint64
	// Next is the sequence of the first message of this consumer after Sent, or 0 if there is none.
	Next uint64
	// First is the sequence of the oldest message in the stream, of all tenants.
	First uint64
}

// LossVerdict is the answer to the question whether the stream has dropped messages before the
// server sent them.
type LossVerdict uint8

// The verdicts.
const (
	Kept    LossVerdict = iota // the stream has dropped no unsent message
	Unknown                    // the stream has dropped messages, perhaps unsent ones of this consumer
	Dropped                    // the stream has dropped unsent messages of this consumer
)

// Watch compares each look at the stream with the previous one. Call Begin first. The stream
// drops its oldest messages first.
//
// If the stream still has every message that was unsent at the last look, it has dropped no unsent
// message since then. Otherwise, a missing message was either sent before it was dropped, or
// dropped unsent. Other tenants' messages do not matter.
type Watch struct {
	from       uint64 // every message of this consumer before this sequence was sent
	waits      bool   // whether the message at from is for this consumer and unsent
	deliveries uint64 // Look.Deliveries at the last look
}

// Begin starts to watch after the given sequence. The caller must know that no message up to this
// sequence is missing.
func (w *Watch) Begin(after uint64) { *w = Watch{from: after + 1} }

// Proceed records that every message of this consumer up to the given sequence was sent, and that
// the stream cannot have dropped an unsent message at or before that sequence.
func (w *Watch) Proceed(sent uint64) {
	if sent >= w.from {
		*w = Watch{from: sent + 1}
	}
}

// Reached returns the sequence up to which every message of this consumer was sent.
func (w *Watch) Reached() uint64 { return w.from - 1 }

// Since reports whether the stream has dropped unsent messages between the last look and l.
func (w *Watch) Since(l Look) LossVerdict {
	switch {
	case l.First <= w.from:
		return Kept
	case w.waits && l.Deliveries == w.deliveries, l.Fewer:
		return Dropped
	case l.Behind && l.First > l.Sent: // the next message is gone, or other tenants' messages before it
		return Dropped
	default:
		return Unknown
	}
}

// Update records l as the last look.
func (w *Watch) Update(l Look) {
	w.from, w.deliveries = max(w.from, l.Sent+1), l.Deliveries
	w.waits = l.Next >= w.from
	switch {
	case w.waits:
		w.from = l.Next
	case l.Next == 0:
		w.from = max(w.from, l.Last+1)
	}
}
