// Package continuity decides from which point the stream is read, and which changes the destination
// lacks. It does no I/O: its callers collect the evidence and execute the plan.
//
// A position is evidence, not a fact. A destination can be restored from a backup, a stream can be
// trimmed or created again, and a data directory can be lost. Decide compares all evidence. It
// reports a gap if and only if the evidence fits a history in which a change is missing.
package continuity

import (
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Evidence is everything that is known before reading starts.
type Evidence struct {
	Destination DestinationEvidence
	Record      Record
	Snapshots   map[string]ImportEvidence // of imports into this destination, by table
	Stream      StreamEvidence
	Consumer    *Consumer // nil if the consumer does not exist
	// Beginning matters only if there is no other evidence. If Beginning is true, reading starts
	// with the oldest message in the stream. Otherwise, reading starts with the next new message.
	Beginning bool
	// Unread is the error that prevented eds from reading the snapshots of the reference server's
	// import. Unread is nil if eds has read these snapshots, or if there are none to take over.
	Unread error
	Now    time.Time
}

// DestinationEvidence is the evidence that the destination holds.
type DestinationEvidence struct {
	// Stores reports whether the destination stores a checkpoint in the transaction of each batch.
	Stores bool
	// Begun reports whether the destination has a checkpoint. The checkpoint's sequence is 0 if no
	// change was applied yet. Earlier versions of eds store a checkpoint only with the first batch.
	Begun bool
	// Records reports whether the destination keeps records. If it does, Begun is valid for any
	// filter of the consumer.
	Records    bool
	Checkpoint cdc.Position // zero if there is no checkpoint
	// Lost is true if the recorded changes were applied to a different destination.
	Lost bool
}

// Record is the recorded progress of reading the stream. It comes from the data directory or from a
// running source. It may lag behind the destination's checkpoint.
type Record struct {
	// Settled is the position of the last settled message. Settled.Stored is 0 if only the
	// consumer's acknowledgement floor is known.
	Settled cdc.Position
	// Scanned is the sequence up to which every message for this consumer is settled. It may be
	// less than Settled.Sequence.
	Scanned uint64
	// Elsewhere reports whether the consumer has later acknowledged messages that were applied
	// to another destination.
	Elsewhere bool
}

// ImportEvidence is the result of an import of one table.
type ImportEvidence struct {
	// Clock is the source's time of the snapshot. The snapshot holds every change up to and
	// including this time.
	Clock cdc.Timestamp
	// Followed reports whether reading of the stream has already started from this snapshot.
	Followed bool
	// Partial reports whether the import loaded only some of the rows, or kept rows that the
	// source may have deleted. A partial snapshot replaces no change of the stream.
	Partial bool
	// Whole reports whether the import loaded every table of the source.
	Whole bool
	// Reference reports whether the reference server imported the snapshot. The reference server
	// then read the stream up to the message that it has acknowledged. Clock is the newest time of
	// the table's export files, so rows from older files may lack earlier changes.
	Reference bool
	// Applied is the position up to which the snapshot also has every change of the stream. It is
	// zero if the snapshot has changes up to Clock only.
	Applied cdc.Position
}

// Replaces reports whether the snapshot has every change up to its clock.
func (s ImportEvidence) Replaces() bool { return !s.Partial && !s.Reference }

// Consumer is the evidence about the durable consumer.
type Consumer struct {
	// Floor is the consumer's acknowledgement floor. Other tenants' messages also move the floor.
	Floor uint64
	// Acknowledged reports whether a message may have been acknowledged since the consumer was
	// created or reset to its start. If false, Floor is the sequence before the consumer's start.
	Acknowledged bool
	// Ours reports whether the consumer has the configuration of eds, as opposed to that of the
	// reference server.
	Ours bool
	// Created is the time at which the consumer was created, in Unix nanoseconds. A consumer is
	// deleted together with its stream, so the stream is at least as old.
	Created int64
}

// StreamEvidence is the evidence about the stream and about the message at Evidence.Sequence.
type StreamEvidence struct {
	// Silent reports whether the NATS server refused to describe the stream. The other fields
	// are then zero.
	Silent bool
	// First is the sequence of the oldest message, or of the next message if the stream is empty.
	// FirstStored is the storage time of the message at First in Unix nanoseconds, or 0 if the
	// stream is empty.
	First       uint64
	FirstStored int64
	// Stored is the storage time of the message at Evidence.Sequence in Unix nanoseconds, or 0 if
	// the stream has no such message. Pending is the number of messages from that message on.
	Stored  int64
	Pending uint64
}

// Sequence returns the sequence of the message that Stream.Stored describes: the last message known
// to be read, else the message at the acknowledgement floor. It returns 0 if neither is known.
func (e *Evidence) Sequence() uint64 {
	if last := e.lastRead(); last.Sequence > 0 {
		return last.Sequence
	}
	return e.floor()
}

// lastRead returns the position of the last message known to be read. This position is later than
// Position if the destination was restored from a backup.
func (e *Evidence) lastRead() cdc.Position {
	last := e.Position()
	if r := e.Record.Settled; r.Stored > 0 && r.Sequence > last.Sequence {
		return r
	}
	return last
}

// Position returns the position of the last message that the destination is known to have applied,
// or zero if that is unknown.
func (e *Evidence) Position() cdc.Position {
	switch {
	case e.Destination.Lost:
		return cdc.Position{}
	case e.Destination.Stores:
		return e.Destination.Checkpoint
	case e.Record.Settled.Stored == 0: // Settled is an acknowledgement floor, or unknown
		return cdc.Position{}
	default:
		return e.Record.Settled
	}
}

// floor returns the sequence up to which every message was acknowledged, or 0 if no message was
// acknowledged. Use floor only if Position is unknown: an acknowledgement does not prove that the
// destination has the change.
func (e *Evidence) floor() uint64 {
	if e.Destination.Begun {
		return e.Destination.Checkpoint.Sequence
	}
	floor := max(e.Record.Settled.Sequence, e.Record.Scanned)
	if e.Consumer != nil {
		floor = max(floor, e.Consumer.Floor)
	}
	return floor
}

// resumes reports whether any evidence shows that the stream was read before: a checkpoint, a
// position, a consumer or an acknowledgement floor.
func (e *Evidence) resumes() bool {
	return e.Destination.Begun || e.Position().Sequence > 0 || e.Consumer != nil || e.floor() > 0
}

// untouched reports whether both of these are true: there is a snapshot to read from, and no change
// was ever applied or acknowledged. That is the case if the source has not changed since the
// snapshot.
func (e *Evidence) untouched() bool {
	if e.Consumer == nil || e.Consumer.Acknowledged || e.Record != (Record{}) || e.Destination.Checkpoint.Sequence > 0 {
		return false
	}
	for _, s := range e.Snapshots {
		if !s.Reference {
			return true
		}
	}
	return false
}

// CheckpointLost reports whether the destination has no checkpoint although batches have been
// applied. In this case, the destination was emptied, restored from an older backup, or replaced by
// another one.
func (e *Evidence) CheckpointLost() bool {
	d := e.Destination
	return (d.Lost || d.Stores && !d.Begun && d.Checkpoint.Sequence == 0) && e.Record.Settled.Sequence > 0 && e.Record.Settled.Stored > 0
}

// forgotten reports whether only the consumer shows that eds has applied changes. In this case, the
// destination can keep records but has none, and the data directory has no record either.
func (e *Evidence) forgotten() bool {
	return e.Destination.Records && !e.Destination.Begun && e.Record == (Record{}) && len(e.Snapshots) == 0 &&
		e.Consumer != nil && e.Consumer.Ours && e.Consumer.Acknowledged
}

// ClockMargin is subtracted from a snapshot's clock to get the time from which the stream is read.
// It is the largest assumed difference between the clocks of the source's database and of the NATS
// server. As a result, eds also reads changes that the snapshot already has. eds recognises these
// changes by their own clock.
const ClockMargin = time.Hour

// Start returns the earliest storage time of the messages that must be read to continue from the
// snapshot.
func (s ImportEvidence) Start() time.Time { return time.Unix(0, s.Clock.Wall).Add(-ClockMargin) }

// tables returns the names of the tables that have a snapshot, sorted.
func (e *Evidence) tables() []string { return slices.Sorted(maps.Keys(e.Snapshots)) }

// needs says after which points the changes of a table must be read.
type needs struct {
	position bool // all changes after the applied position
	snapshot bool // all changes after the snapshot's clock
}

// needs returns the points after which the changes of the table with snapshot s must be read. If
// both fields of the result are set, the earlier point decides.
func (e *Evidence) needs(s ImportEvidence) needs {
	resumes := e.resumes()
	switch {
	case s.Followed && e.CheckpointLost():
		// The destination may have the rows of the snapshot, without later changes.
		return needs{position: true, snapshot: true}
	case s.Followed, s.Reference:
		return needs{position: resumes, snapshot: !resumes}
	case s.Partial:
		return needs{position: resumes || e.CheckpointLost(), snapshot: true}
	default:
		return needs{snapshot: true}
	}
}
