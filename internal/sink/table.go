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

// RowsState is the state of a table's rows.
type RowsState string

// The states.
const (
	// OK means that the table has every change up to the checkpoint.
	OK RowsState = "ok"
	// Behind means that the table's rows are correct as of TableState.Applied. Later changes are
	// still in the stream.
	Behind RowsState = "behind"
	// Missing means that the table's rows cannot be trusted. Only an import restores them.
	Missing RowsState = "missing"
	// Incomplete means that the table is known to lack some changes. Later changes are still
	// applied.
	Incomplete RowsState = "incomplete"
)

// OtherTables is a table name that means all tables without a record.
const OtherTables = "*"

// Cause is the reason that a table is not OK.
type Cause string

// The causes, each with its state in parentheses.
const (
	CauseImporting Cause = "importing"       // an import is putting the table's rows in place (Behind)
	CauseDenied    Cause = "schema denied"   // HQ denies access to the schema version of the table's changes (Behind)
	CauseRefused   Cause = "refused"         // the destination refuses the table (Behind)
	CausePoison    Cause = "too many errors" // too many changes of the table cannot be applied (Behind)
	CauseNew       Cause = "new"             // the table is new at HQ and not imported yet (Missing)
	CauseAbsent    Cause = "absent"          // the table was dropped from the destination (Missing)
	CauseEmptied   Cause = "emptied"         // the table's rows were removed from the destination (Incomplete)
	CauseGap       Cause = "gap"             // the stream no longer has some of the table's changes (Incomplete)
	CauseLetters   Cause = "dead letters"    // some of the table's dead letters were dropped (Incomplete)
)

// TableState is the state of a table that a destination records.
type TableState struct {
	Table string
	State RowsState
	// Applied is the position up to which the table has every change. Changes up to this position
	// are skipped.
	Applied cdc.Position
	Cause   Cause
	Reason  string // a sentence without a full stop; no values of rows
	Since   time.Time
	// Attempts is the number of failed attempts to restore the table, counting only failures that
	// the table itself caused. Next is the earliest time of the next attempt; zero means now.
	Attempts int
	Next     time.Time
	// Gap says which changes are lost, or "" if none are. A table with a gap can be Behind for
	// another reason. When such a table has caught up, it becomes Incomplete.
	Gap string
	// Accepted reports whether the operator has accepted the gap.
	Accepted bool
}

// Applies reports whether eds applies changes of the table as it receives them.
func (s RowsState) Applies() bool { return s != Behind && s != Missing }

// Remedy returns the command that restores the table, or "" if eds restores it without a command.
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

// argument quotes a table name for a shell, because table names come from the stream and may
// contain any character.
func argument(name string) string {
	plain := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	if plain && name[0] != '-' {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// gapIDBytes is the number of bytes in the id of a gap. Three bytes are quick to type, and still
// distinguish the gaps of one destination.
const gapIDBytes = 3

// GapID returns the id of the gap that makes the table Incomplete, as six hexadecimal digits. It
// returns "" in any other state. All tables of one gap have the same id. The id is a hash of
// Cause and of Since in seconds, because some destinations do not store fractions of a second.
func (t *TableState) GapID() string {
	if t.State != Incomplete {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", t.Cause, t.Since.Unix()))
	return hex.EncodeToString(sum[:gapIDBytes])
}

// ErrMissing says that an imported table no longer exists. Only another import recreates it.
var ErrMissing = errors.New("the table was imported but no longer exists")

// TableError says that the destination cannot hold a table, or cannot apply any change to it.
// Either the database refuses the table's definition, or another object has its name, or Err is
// ErrMissing. Other tables are not affected. The failed call has had no durable effect.
type TableError struct {
	Table string
	Err   error
}

func (e *TableError) Error() string { return fmt.Sprintf("table %q: %v", e.Table, e.Err) }
func (e *TableError) Unwrap() error { return e.Err }

// Inspector is a sink that detects tables whose rows were removed by a program other than eds.
type Inspector interface {
	// Inspect checks the tables that have a snapshot, and returns its findings. It needs only a
	// few queries, reads at most one row of each table, and changes nothing.
	Inspect(ctx context.Context) ([]Finding, error)
}

// Finding is a defect of a table.
type Finding struct {
	Table string
	Kind  FindingKind
	Other string // kind of another object that has the table's name, such as "a view"; or ""
}

// FindingKind is a kind of Finding.
type FindingKind uint8

// The kinds of findings.
const (
	FoundAbsent  FindingKind = iota + 1 // the table does not exist, or another object has its name
	FoundEmpty                          // the table has no rows, although one of its snapshots had some
	FoundLocked                         // another session has locked the table, so it is unknown whether it has rows
	FoundAnother                        // the table is not the object that was imported into, although the database is the same
)

// Names joins the names of at most five tables for a message, and counts the remaining tables.
func Names(tables []string) string {
	const most = 5
	if len(tables) <= most {
		return strings.Join(tables, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(tables[:most], ", "), len(tables)-most)
}
