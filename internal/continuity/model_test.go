package continuity

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

var tableNames = [3]string{"a", "b", "c"}

const none = -1

// A world is one complete history of a source, a stream and a destination. The model knows facts
// that Decide can only infer: which messages were published, which are applied, and which will be
// delivered.
type world struct {
	history []message // every message ever published, in this stream or an earlier one
	stream  []message // the messages in the stream now
	first   uint64    // of an empty stream
	now     int64

	skew int64                       // of the source's clock, ahead of the stream's
	at   func(sequence uint64) int64 // storage times of the first stream

	stores     bool
	begun      bool   // the destination has a checkpoint, if only of sequence 0
	checkpoint uint64 // sequence; 0: none, or begun
	settled    uint64 // recorded locally
	scanned    uint64
	processed  uint64 // the highest sequence ever applied, to any state of the destination
	consumer   *Consumer
	snapshots  [3]*snapshot // by table; nil: none
}

type message struct {
	sequence   uint64
	stored     int64
	table      int  // index in tableNames; none if it is another tenant's
	inX        bool // of company x, else of y
	generation int  // of the stream
}

// snapshot is an import of one table. A partial snapshot has only the rows of company x.
type snapshot struct {
	taken    int64 // the source's time
	followed bool
	partial  bool
	whole    bool
}

// step is the time between two messages: more than ClockMargin.
const step = int64(2 * time.Hour)

// A tenancy defines which messages of a stream are ours: the messages up to quiet, without message
// 7 unless dense is set. The messages belong to the tables in turn, starting with the table turn.
type tenancy struct {
	quiet uint64
	dense bool
	turn  int
}

func (t tenancy) own(sequence uint64) (table int, inX bool) {
	if sequence > t.quiet || sequence == 7 && !t.dense {
		return none, false
	}
	return (int(sequence) + t.turn) % 3, (int(sequence/3)+t.turn/3)%2 == 0
}

// publish returns messages first to last of the stream of a generation.
func (t tenancy) publish(generation int, first, last uint64, start int64) []message {
	var out []message
	for n := first; n <= last; n++ {
		table, inX := t.own(n)
		out = append(out, message{n, start + int64(n-first)*step, table, inX, generation})
	}
	return out
}

// storedAt returns the storage time of the first stream's message with the given sequence, or 0 for
// sequence 0.
func storedAt(sequence uint64) int64 { return int64(sequence) * step }

// positions returns the evidence about positions, without the evidence about the stream.
func (w *world) positions() Evidence {
	e := Evidence{
		Destination: DestinationEvidence{Stores: w.stores, Begun: w.begun}, Consumer: w.consumer, Now: time.Unix(0, w.now),
		Record: Record{Scanned: w.scanned},
	}
	position := func(sequence uint64) cdc.Position {
		return cdc.Position{Sequence: sequence, Stored: w.at(sequence)}
	}
	if w.checkpoint > 0 {
		e.Destination.Checkpoint = position(w.checkpoint)
	}
	if w.settled > 0 {
		e.Record.Settled = position(w.settled)
	}
	return e
}

// evidence returns the evidence that Decide gets.
func (w *world) evidence() Evidence {
	e := w.positions()
	e.Stream = w.observe(e.Sequence())
	e.Snapshots = make(map[string]ImportEvidence)
	for i, s := range w.snapshots {
		if s != nil {
			e.Snapshots[tableNames[i]] = ImportEvidence{
				Clock: cdc.Timestamp{Wall: s.taken}, Followed: s.followed, Partial: s.partial, Whole: s.whole,
			}
		}
	}
	return e
}

// observe returns the evidence about the stream.
func (w *world) observe(sequence uint64) StreamEvidence {
	s := StreamEvidence{First: w.first}
	for i, m := range w.stream {
		if i == 0 {
			s.FirstStored = m.stored
		}
		if m.sequence == sequence {
			s.Stored = m.stored
		}
		if m.sequence >= sequence {
			s.Pending++
		}
	}
	return s
}

// holds reports whether the destination has the effect of m before the plan is executed.
func (w *world) holds(m message) bool {
	applied := m.generation == 1 && m.sequence <= w.processed
	if w.stores && (w.begun || w.settled+w.checkpoint > 0) {
		applied = m.generation == 1 && m.sequence <= w.checkpoint // it may have been restored
	}
	s := w.snapshots[m.table]
	if s == nil {
		return applied
	}
	covered := w.clock(m) <= s.taken && (!s.partial || m.inX)
	if m.sequence == 0 { // this import or an earlier one brought it
		applied = !w.lostCheckpoint()
	}
	switch {
	case w.lostCheckpoint() && s.followed:
		return false // the rows are also lost
	case s.followed:
		return applied || covered
	case s.partial && !m.inX:
		return applied
	default:
		return covered // the rows were replaced
	}
}

// clock returns the source's time of the change.
func (w *world) clock(m message) int64 { return m.stored + w.skew }

func (w *world) lostCheckpoint() bool {
	return w.stores && !w.begun && w.checkpoint == 0 && w.settled > 0
}

// promised reports whether the destination must have the effect of m.
func (w *world) promised(m message) bool {
	if m.table == none {
		return false
	}
	s := w.snapshots[m.table]
	switch {
	case m.sequence == 0: // a row that is older than the stream
		return s != nil && (!s.partial || m.inX || w.processed > 0)
	case w.processed > 0:
		return true
	default:
		return s != nil && (w.clock(m) > s.taken || !s.partial || m.inX)
	}
}

// missing executes the plan and returns the tables that lack a message afterwards.
func (w *world) missing(p Plan) (lacking tableSet) {
	for _, m := range w.history {
		if w.promised(m) && !w.holds(m) && !w.delivers(p, m) {
			lacking[m.table] = true
		}
	}
	return lacking
}

// tableSet is a set of tables.
type tableSet [3]bool

// delivers reports whether m is read and applied according to the plan.
func (w *world) delivers(p Plan, m message) bool {
	i := int(m.sequence) - int(w.first)
	switch {
	case i < 0 || i >= len(w.stream) || w.stream[i] != m:
		return false
	case p.Start.From == FromNow,
		p.Start.From == FromSequence && m.sequence < p.Start.Sequence,
		p.Start.From == FromTime && m.stored < p.Start.Time.UnixNano():
		return false
	}
	at := cdc.Position{Sequence: m.sequence, Stored: m.stored}
	if p.Applied.Covers(at) {
		return false
	}
	if kept := (cdc.Position{Sequence: w.checkpoint, Stored: w.at(w.checkpoint)}); w.stores && !p.Forget && kept.Covers(at) {
		return false // the sink skips it
	}
	s := w.snapshots[m.table]
	return s == nil || s.partial || w.clock(m) > s.taken
}
