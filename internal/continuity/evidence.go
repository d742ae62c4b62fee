// Package continuity decides where reading the stream begins, and what the
// destination is known to lack. It does no I/O: its callers collect the
// evidence and carry out the plan.
//
// A position is evidence, not a fact. A destination can be restored from a
// backup, a stream can be trimmed or created again, and a data directory can be
// lost. Decide compares what each of them says. It reports a gap whenever the
// evidence fits a history in which a change is missing, and no gap when it fits
// none.
package continuity

import (
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Evidence is everything that is known before reading begins.
type Evidence struct {
	Destination Destination
	Record      Record
	Snapshots   map[string]Snapshot // of this destination, by table
	Stream      Stream
	Consumer    *Consumer // nil if it does not exist
	// Beginning starts with everything the stream holds if nothing says where to
	// start. Otherwise such a start reads new messages only.
	Beginning bool
	// Unread is why the snapshots of the reference server's import, which is yet to be
	// taken over, cannot be read; nil if there are none.
	Unread error
	Now    time.Time
}

// Destination is what the destination says about itself.
type Destination struct {
	// Stores reports whether it stores a checkpoint in each batch's transaction.
	Stores bool
	// Begun reports whether it has a checkpoint, if only of sequence 0, as on a stream
	// of which nothing was applied yet. Earlier versions store it with the first batch.
	Begun bool
	// Records reports whether it keeps records, so that Begun holds under any filter.
	Records    bool
	Checkpoint cdc.Position // zero if there is none
	// Lost reports whether another destination, or none, is where changes were applied.
	Lost bool
}

// Record is how far the stream was read, as the data directory or a running
// source remembers it. It may lag behind the destination's checkpoint.
type Record struct {
	// Settled is the last settled message. Its Stored is 0 if only the consumer's
	// acknowledgement floor is known.
	Settled cdc.Position
	// Scanned is the sequence up to which no message for this consumer is
	// unsettled. It may be less than Settled's.
	Scanned uint64
	// Elsewhere reports whether the consumer has acknowledged messages since that were
	// applied to another destination.
	Elsewhere bool
}

// Snapshot is what an import loaded into one table.
type Snapshot struct {
	// Clock is the source's time of the snapshot, which holds every change up to
	// and including it.
	Clock cdc.Timestamp
	// Followed reports whether the stream has been read from this snapshot on.
	Followed bool
	// Partial reports whether the import loaded only some of the rows, or kept rows
	// that the source may have deleted. It replaces no change of the stream.
	Partial bool
	// Whole reports whether the import that loaded it loaded every table of the
	// source.
	Whole bool
	// Reference reports whether the reference server imported it. That server read the
	// stream from there as far as it has acknowledged. Its Clock is the newest of the
	// table's files, so rows may lack earlier changes.
	Reference bool
	// Applied is the position up to which it has every change of the stream as well. Zero:
	// up to Clock only.
	Applied cdc.Position
}

// Replaces reports whether the snapshot has every change up to its clock.
func (s Snapshot) Replaces() bool { return !s.Partial && !s.Reference }

// Consumer is the durable consumer at the server.
type Consumer struct {
	// Floor is its acknowledgement floor. Other tenants' messages move it as well.
	Floor uint64
	// Acknowledged reports whether a message may have been acknowledged since the
	// consumer was placed at its start. If not, Floor is where it starts.
	Acknowledged bool
	// Ours reports whether it is as eds makes it, and the reference server does not.
	Ours bool
	// Created is when it was created, in Unix nanoseconds. It is deleted with its
	// stream.
	Created int64
}

// Stream is what the stream says about itself and about the message at
// Evidence.Sequence.
type Stream struct {
	// Silent reports whether the server refused to say what the stream holds. The
	// other fields are then zero.
	Silent bool
	// First is the sequence of the oldest message, or, if the stream is empty, of
	// the next one. FirstStored is its storage time in Unix nanoseconds, 0 if the
	// stream is empty.
	First       uint64
	FirstStored int64
	// Stored is the storage time of the message at Evidence.Sequence, 0 if the
	// stream has no such message. Pending counts that message and all later ones.
	Stored  int64
	Pending uint64
}

// Sequence returns the sequence that the stream has to be asked about: that of
// the last message known to be read, else the acknowledgement floor, else 0.
func (e *Evidence) Sequence() uint64 {
	if last := e.lastRead(); last.Sequence > 0 {
		return last.Sequence
	}
	return e.floor()
}

// lastRead returns the last message known to be read. It is later than Position
// if the destination was restored from a backup.
func (e *Evidence) lastRead() cdc.Position {
	last := e.Position()
	if r := e.Record.Settled; r.Stored > 0 && r.Sequence > last.Sequence {
		return r
	}
	return last
}

// Position returns the last message that the destination is known to have
// applied, zero if none is known.
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

// floor returns the sequence up to which everything was acknowledged once; 0 if
// nothing was. It counts only if Position is unknown: a floor says nothing about
// the destination.
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

// resumes reports whether reading was begun before and its position is known, if
// only as a floor.
func (e *Evidence) resumes() bool {
	return e.Destination.Begun || e.Position().Sequence > 0 || e.Consumer != nil || e.floor() > 0
}

// untouched reports whether there is a snapshot to read from and nothing was ever
// applied or acknowledged, as on a source where nothing changes.
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

// CheckpointLost reports whether the destination has no checkpoint although
// batches have been applied to it: it was emptied, restored from an older
// backup, or another destination is in its place.
func (e *Evidence) CheckpointLost() bool {
	d := e.Destination
	return (d.Lost || d.Stores && !d.Begun && d.Checkpoint.Sequence == 0) && e.Record.Settled.Sequence > 0 && e.Record.Settled.Stored > 0
}

// forgotten reports whether eds has applied changes, according to the consumer alone: the
// destination keeps records and has none, and neither has the data directory.
func (e *Evidence) forgotten() bool {
	return e.Destination.Records && !e.Destination.Begun && e.Record == (Record{}) && len(e.Snapshots) == 0 &&
		e.Consumer != nil && e.Consumer.Ours && e.Consumer.Acknowledged
}

// ClockMargin is how long before a snapshot's clock reading begins. The clocks
// of the source's database and of the stream's server may differ by as much. The
// changes that are read too early are recognised by their own clock.
const ClockMargin = time.Hour

// Start returns from when on the stream has to be read for the snapshot.
func (s Snapshot) Start() time.Time { return time.Unix(0, s.Clock.Wall).Add(-ClockMargin) }

// tables returns the tables that have a snapshot.
func (e *Evidence) tables() []string { return slices.Sorted(maps.Keys(e.Snapshots)) }

// needs says from where a table has to be read.
type needs struct {
	position bool // from the applied position on
	snapshot bool // from the snapshot's clock on
}

// needs returns from where the table of s has to be read. If both are set, the
// earlier one decides.
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
