// Package continuity decides where reading the stream begins, and which changes the
// destination lacks. It does no I/O: its callers collect the evidence and execute the plan.
//
// A position is evidence, not a fact. A destination can be restored from a backup, a stream can
// be trimmed or created again, and a data directory can be lost. Decide compares all evidence. It
// reports a gap if the evidence fits a history in which a change is missing, and no gap if it
// fits none.
package continuity

import (
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Evidence is all evidence before reading begins.
type Evidence struct {
	Destination Destination
	Record      Record
	Snapshots   map[string]Snapshot // of this destination, by table
	Stream      Stream
	Consumer    *Consumer // nil if it does not exist
	// Beginning selects the start if there is no other evidence: the oldest message in the
	// stream if it is set, and new messages only otherwise.
	Beginning bool
	// Unread is set if the import of the reference server remains to be taken over and its
	// snapshots cannot be read; else nil.
	Unread error
	Now    time.Time
}

// Destination is the evidence in the destination.
type Destination struct {
	// Stores reports whether it stores a checkpoint in the transaction of each batch.
	Stores bool
	// Begun reports whether it has a checkpoint. The sequence is 0 if no change was applied
	// yet. Earlier versions store the checkpoint with the first batch.
	Begun bool
	// Records reports whether it keeps records. Then Begun is valid for any filter.
	Records    bool
	Checkpoint cdc.Position // zero if there is none
	// Lost reports whether it is not the destination to which changes were applied.
	Lost bool
}

// Record is the progress of reading the stream that the data directory or a running source
// records. It may lag behind the destination's checkpoint.
type Record struct {
	// Settled is the position of the last settled message. Its Stored is 0 if only the
	// consumer's acknowledgement floor is known.
	Settled cdc.Position
	// Scanned is the sequence up to which no message for this consumer is unsettled. It may
	// be less than Settled's.
	Scanned uint64
	// Elsewhere reports whether the consumer has later acknowledged messages that were applied
	// to another destination.
	Elsewhere bool
}

// Snapshot is the result of an import of one table.
type Snapshot struct {
	// Clock is the source's time of the snapshot. The snapshot holds every change up to and
	// including it.
	Clock cdc.Timestamp
	// Followed reports whether the stream has been read from this snapshot on.
	Followed bool
	// Partial reports whether the import loaded only some of the rows, or kept rows that the
	// source may have deleted. A partial snapshot replaces no change of the stream.
	Partial bool
	// Whole reports whether the import loaded every table of the source.
	Whole bool
	// Reference reports whether the reference server imported it. That server then read the
	// stream up to the message that it has acknowledged. Clock is the newest one of the
	// table's files, so rows may lack earlier changes.
	Reference bool
	// Applied is the position up to which it also has every change of the stream. Zero: it
	// has changes up to Clock only.
	Applied cdc.Position
}

// Replaces reports whether the snapshot has every change up to its clock.
func (s Snapshot) Replaces() bool { return !s.Partial && !s.Reference }

// Consumer is the evidence about the durable consumer.
type Consumer struct {
	// Floor is its acknowledgement floor. Other tenants' messages also move it.
	Floor uint64
	// Acknowledged reports whether a message may have been acknowledged since the consumer
	// was placed at its start. If not, Floor is the sequence before its start.
	Acknowledged bool
	// Ours reports whether it has the configuration of eds, not of the reference server.
	Ours bool
	// Created is the time of its creation, in Unix nanoseconds. It is deleted with its stream.
	Created int64
}

// Stream is the evidence about the stream and about the message at Evidence.Sequence.
type Stream struct {
	// Silent reports whether the NATS server refused to describe the stream. The other fields
	// are then zero.
	Silent bool
	// First is the sequence of the oldest message, or of the next one if the stream is empty.
	// FirstStored is its storage time in Unix nanoseconds; 0 if the stream is empty.
	First       uint64
	FirstStored int64
	// Stored is the storage time of the message at Evidence.Sequence, in Unix nanoseconds; 0
	// if the stream has no such message. Pending counts that message and all later ones.
	Stored  int64
	Pending uint64
}

// Sequence returns the sequence for Stream.Stored: that of the last message known to be read,
// else the acknowledgement floor, else 0.
func (e *Evidence) Sequence() uint64 {
	if last := e.lastRead(); last.Sequence > 0 {
		return last.Sequence
	}
	return e.floor()
}

// lastRead returns the position of the last message known to be read. It is later than Position
// if the destination was restored from a backup.
func (e *Evidence) lastRead() cdc.Position {
	last := e.Position()
	if r := e.Record.Settled; r.Stored > 0 && r.Sequence > last.Sequence {
		return r
	}
	return last
}

// Position returns the position of the last message that the destination is known to have
// applied; zero if it is unknown.
func (e *Evidence) Position() cdc.Position {
	switch {
	case e.Destination.Lost:
		return cdc.Position{}
	case e.Destination.Stores:
		return e.Destination.Checkpoint
	case e.Record.Settled.Stored == 0: // at most an acknowledgement floor
		return cdc.Position{}
	default:
		return e.Record.Settled
	}
}

// floor returns the sequence up to which every message was acknowledged; 0 if there is none. Use
// it only if Position is unknown: a floor is no evidence about the destination.
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

// resumes reports whether the stream was read before and the position, or at least a floor, is
// known.
func (e *Evidence) resumes() bool {
	return e.Destination.Begun || e.Position().Sequence > 0 || e.Consumer != nil || e.floor() > 0
}

// untouched reports whether there is a snapshot to read from and no change was ever applied or
// acknowledged, as with a source that does not change.
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
// applied to it: it was emptied, restored from an older backup, or replaced by another one.
func (e *Evidence) CheckpointLost() bool {
	d := e.Destination
	return (d.Lost || d.Stores && !d.Begun && d.Checkpoint.Sequence == 0) && e.Record.Settled.Sequence > 0 && e.Record.Settled.Stored > 0
}

// forgotten reports whether only the consumer shows that eds has applied changes: the destination
// keeps records but has none, and the data directory has none.
func (e *Evidence) forgotten() bool {
	return e.Destination.Records && !e.Destination.Begun && e.Record == (Record{}) && len(e.Snapshots) == 0 &&
		e.Consumer != nil && e.Consumer.Ours && e.Consumer.Acknowledged
}

// ClockMargin is how long before a snapshot's clock reading begins: the largest assumed
// difference between the clocks of the source's database and of the NATS server. Changes that are
// read too early are recognised by their own clock.
const ClockMargin = time.Hour

// Start returns the time from which the stream must be read for the snapshot.
func (s Snapshot) Start() time.Time { return time.Unix(0, s.Clock.Wall).Add(-ClockMargin) }

// tables returns the names of the tables that have a snapshot, sorted.
func (e *Evidence) tables() []string { return slices.Sorted(maps.Keys(e.Snapshots)) }

// needs says from which point a table must be read.
type needs struct {
	position bool // from the applied position on
	snapshot bool // from the snapshot's clock on
}

// needs returns from which point the table of s must be read. If both are set, the earlier one
// decides.
func (e *Evidence) needs(s Snapshot) needs {
	resumes := e.resumes()
	switch {
	case s.Followed && e.CheckpointLost():
		// Its rows may be there, without the changes since.
		return needs{position: true, snapshot: true}
	case s.Followed, s.Reference:
		return needs{position: resumes, snapshot: !resumes}
	case s.Partial:
		return needs{position: resumes || e.CheckpointLost(), snapshot: true}
	default:
		return needs{snapshot: true}
	}
}
