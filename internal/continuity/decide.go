package continuity

import (
	"fmt"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// streamSilent is the reason for Plan.Unverified if Stream.Silent is set.
const streamSilent = "the server gives no information about the stream"

// youngSnapshot is the age below which a snapshot is assumed to be younger than every message that
// the stream has dropped, unless other evidence contradicts this. The reason is that streams of
// changes are kept for days.
const youngSnapshot = 24 * time.Hour

// Decide returns the plan for reading the stream: the start of reading, and the missing changes if
// there are any.
func Decide(e Evidence) Plan {
	d := newAssessment(e)
	switch {
	case e.CheckpointLost():
		last := e.Record.Settled
		return d.startOver(Plan{Forget: true}, &GapError{Reason: d.lostReason(), After: last.Sequence, Since: instant(last.Stored)})
	case e.forgotten():
		return d.startOver(Plan{Forget: true}, &GapError{Reason: CheckpointLost, After: e.floor()})
	case e.resumes():
		return d.resume()
	case e.Unread != nil && e.Beginning:
		return Plan{Start: Start{From: FromBeginning}}
	case e.Unread != nil:
		return Plan{Gap: &GapError{Reason: Unread, Others: true, Err: e.Unread}}
	case len(d.fromSnapshot) > 0:
		return d.startFromSnapshot(Plan{})
	case e.Beginning:
		return Plan{Start: Start{From: FromBeginning}}
	default:
		return Plan{
			Start: Start{From: FromNow},
			Note:  "nothing was imported, so eds reads only changes from now on; run eds import to copy the existing rows",
		}
	}
}

// assessment holds the evidence, and the direct conclusions from the evidence.
type assessment struct {
	Evidence
	position cdc.Position
	// positioned are the tables that need all changes after the applied position. If others is set,
	// tables without a snapshot also need these changes.
	positioned []string
	others     bool
	// fromSnapshot are the tables that need all changes after their snapshot. The field start is
	// the earliest Snapshot.Start of these tables.
	fromSnapshot []string
	start        time.Time
	recreated    bool // whether the stream is not the one that was read before
}

func newAssessment(e Evidence) *assessment {
	d := &assessment{Evidence: e, position: e.Position(), others: true}
	for _, table := range e.tables() {
		s := e.Snapshots[table]
		n := e.needs(s)
		if n.position {
			d.positioned = append(d.positioned, table)
		}
		if n.snapshot {
			d.fromSnapshot = append(d.fromSnapshot, table)
			if start := s.Start(); d.start.IsZero() || start.Before(d.start) {
				d.start = start
			}
		}
		if s.Whole && !s.Followed && !s.Partial {
			d.others = false // the import loaded all existing tables
		}
	}
	d.others = d.others || len(d.positioned) > 0
	d.recreated = e.resumes() && d.otherStream()
	return d
}

// lostReason returns the reason why the position was lost.
func (d *assessment) lostReason() GapReason {
	if d.Destination.Lost {
		return Replaced
	}
	return CheckpointLost
}

// resume continues after the last applied message. If that message is unknown, resume continues
// after the consumer's acknowledgement floor. Acknowledged messages then count as applied, because
// there is no other evidence. This is the case if the reference server read the stream before, or
// if the data directory was lost.
func (d *assessment) resume() Plan {
	plan := Plan{Applied: d.position, Reached: d.reached()}
	gap := &GapError{After: plan.Reached, Since: instant(d.position.Stored)}
	switch {
	case d.Stream.Silent:
		plan.Unverified, plan.Blind = streamSilent, true
	case d.recreated:
		gap.Reason, gap.After = Recreated, d.Sequence()
		return d.startOver(plan, gap)
	case d.Stream.First > plan.Reached+1:
		return d.startOver(plan, gap)
	case d.untouched(), d.position.Sequence == 0 && plan.Reached == 0: // no message was read yet
	case d.position.Sequence == 0:
		plan.Unverified = fmt.Sprintf(
			"no applied position is recorded; eds uses the consumer's acknowledgements, up to message %d, instead", plan.Reached,
		)
	case !d.sameStream() && (d.others || len(d.uncovered()) > 0):
		plan.Unverified = fmt.Sprintf("the stream no longer has message %d, so eds cannot check that it is the same stream",
			d.position.Sequence)
	}
	if d.rewinds() {
		return d.startFromSnapshot(plan)
	}
	from := d.position.Sequence
	if from == 0 {
		from = d.floor()
	}
	plan.Start = Start{From: FromSequence, Sequence: from + 1}
	if !d.Stream.Silent {
		d.reportUncovered(&plan)
	}
	switch settled := d.Record.Settled; {
	case d.position.Sequence > 0 && settled.Stored > 0 && settled.Sequence > d.position.Sequence && !d.Record.Elsewhere:
		plan.Note = fmt.Sprintf(
			"the destination is at message %d although message %d was applied, as after a restore; reading again from there",
			d.position.Sequence, settled.Sequence)
	case d.Consumer == nil:
		plan.Note = fmt.Sprintf("the consumer no longer exists; creating it again after message %d", from)
	}
	return plan
}

// otherStream reports whether the stream is not the one that was read before. It is another stream
// if it ends before the last read message, or if its message at that sequence was stored later than
// the last read message. The Stored time of a position is never earlier than the storage time of
// its message.
func (d *assessment) otherStream() bool {
	last := d.lastRead()
	ends := d.Stream.First <= d.Sequence() && d.Stream.Pending == 0
	return !d.Stream.Silent && (ends || last.Stored > 0 && d.Stream.Stored > last.Stored)
}

// sameStream reports whether the stream is known to be the one that was read before. It is the same
// stream if it still has the last read message, or if its consumer is older than that message.
func (d *assessment) sameStream() bool {
	return !d.recreated && (d.Stream.Stored > 0 || d.olderConsumer())
}

// olderConsumer reports whether the consumer, and thus the stream, existed when the last read
// message was stored.
func (d *assessment) olderConsumer() bool {
	return d.Consumer != nil && d.Consumer.Created <= d.lastRead().Stored
}

// reached returns the sequence up to which no message for this consumer remains to be received.
func (d *assessment) reached() uint64 {
	switch {
	case d.position.Sequence == 0:
		return d.floor()
	case !d.Destination.Stores && !d.Record.Elsewhere && d.olderConsumer(): // acknowledged changes are durable
		return max(d.received(), d.Consumer.Floor)
	default:
		return d.received()
	}
}

// received returns the sequence up to which no message for this consumer remains to be received,
// according to the recorded positions alone. Every message up to the position was received, and any
// later messages up to this sequence were for other consumers.
func (d *assessment) received() uint64 {
	if d.Record.Settled.Sequence > d.position.Sequence { // the destination was restored, and lost the changes that were settled later
		return d.position.Sequence
	}
	return max(d.position.Sequence, d.Record.Scanned)
}

// rewinds reports whether a snapshot needs, or may need, messages at or before Evidence.Sequence.
func (d *assessment) rewinds() bool {
	if len(d.fromSnapshot) == 0 || d.Destination.Begun && d.position.Sequence == 0 { // there are no earlier messages
		return false
	}
	at := d.position.Stored
	if d.position.Sequence == 0 {
		at = d.Stream.Stored // the storage time of the floor's message
	}
	return at == 0 || d.start.UnixNano() <= at
}

// startOver reads everything in the stream, although some changes after the position are lost. It
// reports the gap, except for tables that were imported since the loss, because these lack nothing.
func (d *assessment) startOver(plan Plan, gap *GapError) Plan {
	gap.First = d.Stream.First
	if len(d.positioned) == 0 && !d.others {
		if !d.Destination.Lost { // a lost destination is not the one that the import loaded
			plan.Note = "every table was imported since: " + gap.Event()
		}
		return d.startFromSnapshot(plan)
	}
	gap.Tables, gap.Others = merge(d.positioned, d.uncovered()), d.others
	if d.CheckpointLost() && !d.Destination.Lost && d.Stream.First <= 1 && !d.recreated {
		gap.Others = len(d.positioned) > 0 // the stream has every change of the other tables
	}
	plan.Note = gap.Event()
	if len(gap.Tables) > 0 || gap.Others {
		plan.Gap = gap
	}
	if gap.Reason == Trimmed && !d.rewinds() {
		plan.Start = Start{From: FromSequence, Sequence: d.Stream.First}
		return plan
	}
	plan.Start = Start{From: FromBeginning}
	plan.Applied, plan.Forget, plan.Reached = cdc.Position{}, true, max(d.Stream.First, 1)-1
	return plan
}

// startFromSnapshot reads from the time of the earliest snapshot on, and drops the recorded
// positions.
func (d *assessment) startFromSnapshot(plan Plan) Plan {
	plan.Forget = plan.Forget || plan.Applied.Sequence > 0
	plan.Start = Start{From: FromTime, Time: d.start}
	untimed := d.position.Stored == 0 && (d.position.Sequence > 0 || d.Stream.Stored == 0)
	if untimed && d.resumes() {
		plan.Start = Start{From: FromBeginning} // the position or floor may be earlier than the snapshot
	}
	plan.Applied, plan.Reached = cdc.Position{}, 0
	if d.Stream.Silent {
		plan.Unverified, plan.Blind = streamSilent, true
		return plan
	}
	plan.Reached = max(d.Stream.First, 1) - 1
	d.reportUncovered(&plan)
	return plan
}

// reportUncovered adds the uncovered tables to the plan. A table with a snapshot older than
// youngSnapshot is part of the gap. A younger snapshot is assumed to be newer than the dropped
// messages, so a table with such a snapshot only makes the plan unverified. However, if the oldest
// message in the stream is newer than the snapshot, the table is part of the gap.
func (d *assessment) reportUncovered(plan *Plan) {
	uncovered := d.uncovered()
	if len(uncovered) == 0 {
		return
	}
	lost := slices.DeleteFunc(slices.Clone(uncovered), func(table string) bool {
		clock := d.Snapshots[table].Clock.Wall
		passed := d.Stream.First > 1 && d.Stream.FirstStored > clock ||
			d.position.Stored > clock && d.Stream.First > d.position.Sequence
		return !passed && d.Now.Sub(time.Unix(0, clock)) < youngSnapshot
	})
	if len(lost) < len(uncovered) {
		plan.Unverified = "no message in the stream is an hour older than the snapshot, so eds cannot check for missing changes after it"
	}
	if len(lost) > 0 {
		plan.Gap = &GapError{
			Tables: lost, All: len(lost) == len(d.Snapshots), First: d.Stream.First, Since: d.start.Add(ClockMargin),
		}
	}
}

// uncovered returns the tables in fromSnapshot for which the stream may have dropped messages.
func (d *assessment) uncovered() []string {
	var tables []string
	for _, table := range d.fromSnapshot {
		if !d.covers(d.Snapshots[table].Start().UnixNano()) {
			tables = append(tables, table)
		}
	}
	return tables
}

// covers reports whether the stream has every message stored since the time start. That is so if
// the stream still holds an older message, if it has never dropped a message, or if it continues
// after an older message that was read.
func (d *assessment) covers(start int64) bool {
	if d.recreated {
		return false
	}
	if d.Stream.First <= 1 || d.Stream.FirstStored > 0 && d.Stream.FirstStored < start {
		return true
	}
	continues := func(read cdc.Position, reached uint64) bool {
		return read.Stored > 0 && read.Stored < start && d.Stream.First <= reached+1 && d.sameStream()
	}
	settled := d.Record.Settled
	return continues(settled, max(settled.Sequence, d.Record.Scanned)) || continues(d.position, d.received())
}

// merge returns the union of two sorted lists.
func merge(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func instant(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}
