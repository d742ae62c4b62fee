package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Kinds of rows in the table of states.
const (
	stateRow    = "table"    // the row has the state of the table in column "name"
	positionRow = "position" // the row has the position of the filter in column "name"
)

// statesTable returns the table of table states. It has one row for each table, except tables that
// are OK and not ahead of the checkpoint. "since" and "next" are Unix times in ms.
//
// The position in the checkpoint table is the lowest position of all tables, so that earlier
// versions, which do not know states, start to read from there. If a table is behind, a positionRow
// stores the position of the remaining tables. It also stores the checkpoint's own position ("low",
// "low_stored"). If this position no longer matches the checkpoint, an earlier version has moved
// the checkpoint in the meantime, and the positionRow is invalid.
func statesTable() *schema.Table {
	return ownTable(stateTable, []string{"consumer", "kind", "name"},
		integer("position"), integer("stored"), optional("low"), optional("low_stored"),
		text("state"), text("cause"), text("reason"), optional("since"), optional("attempts"), optional("next"), text("gap"),
		optional("accepted"))
}

// states are the stored states of one consumer.
type states struct {
	tables    map[string]sink.TableState
	positions map[string]pairedPosition // by filter
}

// pairedPosition has the position of the tables that are not behind. It also has low, the position
// of the checkpoint at the time of recording.
type pairedPosition struct{ position, low cdc.Position }

// readStates reads the states and positions of the given consumer.
func readStates(ctx context.Context, conn Conn, l *Layout, consumer string) (states, error) {
	all := states{make(map[string]sink.TableState), make(map[string]pairedPosition)}
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return all, fmt.Errorf("read the states of tables: %w", err)
		}
		r := engineRow{l.Table, row}
		if r.text("consumer") != consumer {
			continue
		}
		at, err := storedPosition(r)
		if err != nil {
			return all, err
		}
		if name := r.text("name"); r.text("kind") == positionRow {
			low := cdc.Position{Sequence: uint64(r.integer("low")), Stored: r.integer("low_stored")}
			all.positions[name] = pairedPosition{at, low}
		} else {
			all.tables[name] = sink.TableState{
				Table: name, State: sink.RowsState(r.text("state")), Applied: fromStored(at), Cause: sink.Cause(r.text("cause")),
				Reason: r.text("reason"), Since: instant(r.integer("since")), Attempts: int(r.integer("attempts")),
				Next: instant(r.integer("next")), Gap: r.text("gap"), Accepted: r.integer("accepted") != 0,
			}
		}
	}
	return all, nil
}

func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// restorePositions sets the position of each checkpoint of the consumer to the position in the
// checkpoint's positionRow, if that row is valid.
func (all states) restorePositions(rows []checkpoint, consumer string) {
	for i := range rows {
		c := &rows[i]
		if p, ok := all.positions[c.filter]; ok && c.consumer == consumer && p.low == c.low {
			c.position = p.position
		}
	}
}

// lowest returns the position from which earlier versions must read: the lowest of the given
// position and the Applied positions of all tables that are behind.
func lowest(at cdc.Position, tables map[string]sink.TableState) cdc.Position {
	for _, t := range tables {
		if t.State == sink.Behind && t.Applied.Sequence < at.Sequence {
			at = t.Applied
		}
	}
	if at == (cdc.Position{}) {
		at.Stored = nothingStored
	}
	return at
}

// writeStates replaces the recorded states with new states. The parameter before has the recorded
// states, and the parameter after has the new states.
func (s *Sink) writeStates(ctx context.Context, tx Tx, l *Layout, before, after states) error {
	set := change.RowSet{Table: l.Table}
	err := addDifferences(&set, before.tables, after.tables, s.stateRow)
	if err == nil {
		err = addDifferences(&set, before.positions, after.positions, s.positionRow)
	}
	if err != nil || len(set.Deletes)+len(set.Upserts) == 0 {
		return err
	}
	set.SortByKey()
	return tx.Write(ctx, &Write{Layout: l, Deletes: set.Deletes, Upserts: set.Upserts})
}

// addDifferences compares old rows with new rows, which are the parameters before and after. The
// upserts and deletes that turn the old rows into the new rows are added to the parameter set.
func addDifferences[V comparable](
	set *change.RowSet, before, after map[string]V, row func(t *schema.Table, name string, v V) (change.Row, error),
) error {
	for name, v := range after {
		if old, ok := before[name]; ok && old == v {
			continue
		}
		r, err := row(set.Table, name, v)
		if err != nil {
			return err
		}
		set.Upserts = append(set.Upserts, r)
	}
	for name, v := range before {
		if _, ok := after[name]; ok {
			continue
		}
		r, err := row(set.Table, name, v)
		if err != nil {
			return err
		}
		set.Deletes = append(set.Deletes, keysOf(set.Table, r)...)
	}
	return nil
}

func (s *Sink) stateRow(t *schema.Table, name string, state sink.TableState) (change.Row, error) {
	at := state.Applied
	if at == (cdc.Position{}) {
		at.Stored = nothingStored
	}
	return recordRow(t, recordValues{
		"consumer": s.env.Consumer, "kind": stateRow, "name": name, "position": int64(at.Sequence), "stored": at.Stored,
		"state": string(state.State), "cause": string(state.Cause), "reason": state.Reason,
		"since": milliseconds(state.Since), "attempts": int64(state.Attempts), "next": milliseconds(state.Next),
		"gap": state.Gap, "accepted": number(state.Accepted),
	})
}

func (s *Sink) positionRow(t *schema.Table, filter string, p pairedPosition) (change.Row, error) {
	return recordRow(t, recordValues{
		"consumer": s.env.Consumer, "kind": positionRow, "name": filter,
		"position": int64(p.position.Sequence), "stored": p.position.Stored,
		"low": int64(p.low.Sequence), "low_stored": p.low.Stored,
	})
}

// withChanges returns two results. The result after has this process's states, in which the given
// states replace earlier ones. The result low is the lowest position of all tables. The parameter
// at is the position of the tables without a state.
func (s *Sink) withChanges(changed []sink.TableState, at cdc.Position) (after states, low cdc.Position) {
	after = states{maps.Clone(s.states.tables), maps.Clone(s.states.positions)}
	if after.tables == nil {
		after.tables, after.positions = make(map[string]sink.TableState), make(map[string]pairedPosition)
	}
	for _, t := range changed {
		// The database stores milliseconds.
		t.Since, t.Next = t.Since.UTC().Truncate(time.Millisecond), t.Next.UTC().Truncate(time.Millisecond)
		if t.State == sink.OK && t.Applied.Sequence <= at.Sequence {
			delete(after.tables, t.Table)
		} else {
			after.tables[t.Table] = t
		}
	}
	filter := s.key().filter
	if low = lowest(at, after.tables); low == at {
		delete(after.positions, filter)
	} else {
		after.positions[filter] = pairedPosition{at, low}
	}
	return after, low
}

// ApplyTables is like Apply, but also records the changed states.
func (s *Sink) ApplyTables(ctx context.Context, b *change.Batch, changed []sink.TableState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempt(ctx, "apply the batch", func(conn Conn) error { return s.apply(ctx, conn, b, changed) })
}

// Advance applies the changes of b to tables that are behind, and records the changed states.
func (s *Sink) Advance(ctx context.Context, b *change.Batch, changed []sink.TableState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempt(ctx, "bring tables forward", func(conn Conn) error {
		l, err := s.checkpoints(ctx, conn)
		if err != nil {
			return err
		}
		if l == nil || s.unavailable != nil {
			return fault.Mark(fault.Fatal, errNoStates)
		}
		return s.store(ctx, conn, l, b, s.position, changed)
	})
}

// errNoStates says that the destination cannot record states, because it keeps no records.
var errNoStates = errors.New("the destination keeps no records of the states of tables")

// store writes the changes of b, moves the checkpoint to next and records the changed states, in
// one transaction. It does nothing if the stored checkpoint and states show that an earlier
// attempt was durable.
func (s *Sink) store(ctx context.Context, conn Conn, l *Layout, b *change.Batch, next cdc.Position, changed []sink.TableState) error {
	after, low := s.withChanges(changed, next)
	if l != nil && s.position == next && s.recorded(after) {
		return nil
	}
	writes, err := s.writes(ctx, conn, b)
	if err != nil {
		return err
	}
	var records *Layout
	if s.unavailable == nil && s.epoch > 0 {
		if records, err = s.layoutOfOwn(ctx, conn, stateTable); err != nil {
			return err
		}
	}
	s.attempted = next
	err = s.transact(ctx, conn, func(tx Tx) error {
		for _, w := range writes {
			if err := tx.Write(ctx, w); err != nil {
				return err
			}
		}
		if l == nil {
			return nil
		}
		if records != nil {
			if err := s.writeStates(ctx, tx, records, s.states, after); err != nil {
				return err
			}
		}
		return tx.Checkpoint(ctx, l, s.low, s.at(low))
	})
	if errors.Is(err, ErrMoved) {
		return s.moved(ctx, conn, next, after)
	}
	if err != nil {
		return err
	}
	s.position, s.low, s.states = next, low, after
	return nil
}

// recorded reports whether the destination has already recorded the given states.
func (s *Sink) recorded(after states) bool {
	return maps.Equal(s.states.tables, after.tables) && maps.Equal(s.states.positions, after.positions)
}
