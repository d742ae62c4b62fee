package sink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// State is the state of a table's rows.
type State string

// The states.
const (
	// OK: the table has every change up to the checkpoint.
	OK State = "ok"
	// Behind: its rows are correct as of TableState.Applied. Later changes are in the
	// stream.
	Behind State = "behind"
	// Missing: its rows cannot be trusted. Only an export brings it back.
	Missing State = "missing"
	// Incomplete: some changes are known to be missing. Later changes still apply.
	Incomplete State = "incomplete"
)

// OtherTables is the name of a table that represents all tables without a record.
const OtherTables = "*"

// Cause is why a table is not OK.
type Cause string

// The causes. Each belongs to the states in parentheses.
const (
	CauseImporting Cause = "importing"       // an import is putting it in place (Behind)
	CauseDenied    Cause = "schema denied"   // HQ denies the version of its changes (Behind)
	CauseRefused   Cause = "refused"         // the destination refuses the table (Behind)
	CausePoison    Cause = "too many errors" // too many of its changes cannot be applied (Behind)
	CauseNew       Cause = "new"             // it is new at HQ and not imported yet (Missing)
	CauseAbsent    Cause = "absent"          // it was dropped from the destination (Missing)
	CauseEmptied   Cause = "emptied"         // its rows were removed from the destination (Incomplete)
	CauseGap       Cause = "gap"             // the stream no longer has some of its changes (Incomplete)
	CauseLetters   Cause = "dead letters"    // some of its dead letters were dropped (Incomplete)
)

// TableState is the state of a table, as a destination records it.
type TableState struct {
	Table string
	State State
	// Applied is the position up to which the table has every change. Changes up to there
	// are skipped.
	Applied cdc.Position
	Cause   Cause
	Reason  string // a sentence without a full stop; no values of rows
	Since   time.Time
	// Attempts counts the attempts to bring the table back that failed because of the table
	// itself. Next is when the next attempt may begin; zero: now.
	Attempts int
	Next     time.Time
	// Gap says which changes are lost; "" if none are. A table with a gap can be Behind for
	// another reason, and is Incomplete afterwards.
	Gap string
	// Accepted reports whether the operator has accepted the gap.
	Accepted bool
}

// Applies reports whether changes of the table are applied as they are received.
func (s State) Applies() bool { return s != Behind && s != Missing }

// Remedy returns the command that brings the table back, or "" if it comes back by
// itself.
func (t *TableState) Remedy() string {
	switch {
	case t.State == OK, t.Cause == CauseImporting, t.Cause == CauseDenied:
		return ""
	case t.Table == OtherTables:
		return "eds import"
	case t.State == Behind && t.Cause == CausePoison:
		return "eds dlq list --table " + argument(t.Table)
	default:
		return "eds import --only " + argument(t.Table)
	}
}

// argument quotes a name for the command line of a shell: the stream chooses names of tables.
func argument(name string) string {
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	if plain && name[0] != '-' {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// gapIDBytes is the number of bytes of a gap's id: few to type, and enough to distinguish the
// gaps of one destination.
const gapIDBytes = 3

// GapID returns the id of the gap that makes the table Incomplete, six hexadecimal digits, or ""
// in any other state. All tables of one gap share it: it is a hash of the cause and of Since,
// in seconds, because a destination may not store fractions.
func (t *TableState) GapID() string {
	if t.State != Incomplete {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", t.Cause, t.Since.Unix()))
	return hex.EncodeToString(sum[:gapIDBytes])
}

// ErrMissing says that an imported table no longer exists. Only an import creates it again.
var ErrMissing = errors.New("the table was imported but no longer exists")

// TableError says that the destination cannot hold a table, or any change of it: the database
// refuses its definition, another object has its name, or the error is ErrMissing. Other tables
// are not affected, and nothing of the failed call is durable.
type TableError struct {
	Table string
	Err   error
}

func (e *TableError) Error() string { return fmt.Sprintf("table %q: %v", e.Table, e.Err) }
func (e *TableError) Unwrap() error { return e.Err }

// Inspector is a sink that finds tables that lost rows by other means than eds.
type Inspector interface {
	// Inspect inspects the tables with a snapshot, without reading their rows, and returns
	// its findings. It needs a few queries and changes nothing.
	Inspect(ctx context.Context) ([]Finding, error)
}

// Finding is a defect of a table.
type Finding struct {
	Table string
	Kind  FindingKind
	Other string // the other object with the table's name, such as "a view"; "" if there is none
}

// FindingKind is a kind of Finding.
type FindingKind uint8

// The kinds.
const (
	FoundAbsent  FindingKind = iota + 1 // it does not exist, or another object has its name
	FoundEmpty                          // it has no rows, although fewer were deleted than it had
	FoundLocked                         // another session has locked it, so it is unknown whether it has rows
	FoundAnother                        // it is another object than the imported one, in the same database
)

// Names returns the names of the tables, for a message: at most five of them.
func Names(tables []string) string {
	const most = 5
	if len(tables) <= most {
		return strings.Join(tables, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(tables[:most], ", "), len(tables)-most)
}
