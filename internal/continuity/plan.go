package continuity

import (
	"fmt"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Plan says how to read the stream, and which changes are missing. Decide returns it.
type Plan struct {
	Start Start
	// Applied is the position up to which every change is applied. It is zero if reading starts
	// before that position, so that changes are applied again.
	Applied cdc.Position
	// Forget is set if the caller must drop all recorded positions first. The recorded checkpoint
	// would hide changes that must be applied again, or the checkpoint belongs to another stream.
	Forget bool
	// Reached is the sequence up to which no message for this consumer remains to be received.
	Reached uint64
	// Gap describes the changes that are missing, or is nil if no change is known to be missing.
	Gap *GapError
	// Unverified is the reason why eds cannot rule out missing changes, although no evidence
	// suggests any. Unverified is "" if eds can rule out missing changes.
	Unverified string
	// Blind is set if the reason in Unverified is that the NATS server gave no information about
	// the stream.
	Blind bool
	// Note is a line for the log, or "" if reading simply continues after the last applied message.
	Note string
}

// StartKind is the kind of a Start. It determines which fields of the Start are valid.
type StartKind uint8

// The kinds of a Start.
const (
	FromNow       StartKind = iota // new messages only
	FromSequence                   // Start.Sequence and later
	FromTime                       // messages stored at or after Start.Time
	FromBeginning                  // all messages in the stream
)

// Start is the point from which the stream is read.
type Start struct {
	From     StartKind
	Sequence uint64
	Time     time.Time
}

// GapError reports that the destination lacks changes that the stream cannot deliver. Only an
// import of the tables closes the gap.
type GapError struct {
	// Tables are the imported tables that lack changes. If Others is set, tables that were never
	// imported also lack changes.
	Tables []string
	Others bool
	// All is set if Tables lists every imported table.
	All    bool
	Reason GapReason
	Err    error // the error for the reason Unread
	// After is the sequence of the last applied message, or 0 if it is unknown. First is the
	// sequence of the oldest message in the stream.
	After, First uint64
	// Since is the storage time of the message at After, or the time of the snapshot if there is no
	// such message. Since is zero if both times are unknown.
	Since time.Time
}

// GapReason is the reason why changes are missing.
type GapReason uint8

// The reasons.
const (
	Trimmed        GapReason = iota // the stream dropped messages that were not applied
	Recreated                       // the stream was deleted and created again
	CheckpointLost                  // the destination lost its checkpoint
	Replaced                        // the destination is not the one to which changes were applied
	Emptied                         // the destination lost the records of its snapshots
	Unread                          // the time of the reference server's import is unknown
)

func (e *GapError) Error() string {
	since := ""
	if !e.Since.IsZero() {
		since = " since " + e.Since.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s; changes%s may be missing: run %s", e.Event(), since, e.Remedy())
}

// Event returns a description of the event that caused the gap.
func (e *GapError) Event() string {
	switch {
	case e.Reason == Recreated:
		return fmt.Sprintf("the stream is not the one in which message %d was read: it was created again or restored", e.After)
	case e.Reason == CheckpointLost:
		return "the destination has no checkpoint although changes have been applied: " +
			"it was emptied, restored from an old backup, or replaced by another one"
	case e.Reason == Replaced:
		return "the destination is not the one that eds wrote to: it was emptied or replaced, or its file system is not mounted"
	case e.Reason == Emptied:
		return "the destination has no record of imported rows: " +
			"it was emptied, restored from an old backup, or replaced by another one"
	case e.Reason == Unread:
		return e.Err.Error()
	case e.After == 0:
		return fmt.Sprintf("the stream begins with message %d, after the snapshot", e.First)
	default:
		return fmt.Sprintf("the stream no longer has messages %d to %d", e.After+1, e.First-1)
	}
}

// Remedy returns the command that closes the gap.
func (e *GapError) Remedy() string {
	if e.Others || e.All || len(e.Tables) == 0 {
		return "eds import"
	}
	return "eds import --only " + strings.Join(e.Tables, ",")
}
