package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Record asks Finish to store the snapshot s in the records. It returns false if the destination
// keeps no records.
func (l *tableLoad) Record(s sink.LoadRecord) bool {
	if l.snapshot == nil {
		return false
	}
	s.Imported = time.Now().UTC()
	l.snapshot.s = &s
	return true
}

// Finish puts the staged rows into the live table, by replacing or merging, and deletes the
// records of the load. It does both in one transaction.
func (l *tableLoad) Finish(ctx context.Context) (int64, error) {
	err := l.attempt(ctx, "finish loading", func(ctx context.Context) error {
		if l.done {
			return nil
		}
		placed, err := l.refresh(ctx)
		if err == nil {
			err = l.snapshot.prepare(ctx, l.conn)
		}
		switch {
		case err != nil:
			return err
		case placed:
			return l.conclude(ctx, func(tx Tx) error { return tx.Drop(ctx, l.stageName()) })
		}
		if l.rows, err = l.seal(ctx); err != nil {
			return err
		}
		if err := l.refuseEmptying(ctx); err != nil {
			return err
		}
		mode := sink.Merge
		if l.mode.Replaces() {
			mode = sink.Replace
		}
		l.snapshot.identify(l.conn, l.stage, l.live, mode)
		if err := l.recordPlacing(ctx); err != nil {
			return fmt.Errorf("record the placing: %w", err)
		}
		l.placing = true
		return l.sink.retryLocked(ctx, l.conn, "place rows", []string{l.live.Real.Name}, func() error {
			return l.conclude(ctx, func(tx Tx) error { return tx.Place(ctx, l.stage, l.live, mode) })
		})
	})
	if err != nil {
		return 0, err
	}
	l.done = true
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	l.sink.forgetTable(l.t.Name)
	return l.rows, nil
}

// conclude runs the callback do and the method complete, in one transaction. The loads of a sink
// commit in the order of their snapshots' generations, because a server that has read one
// generation skips all lower ones.
func (l *tableLoad) conclude(ctx context.Context, do func(Tx) error) error {
	numbered := false
	defer func() {
		if numbered {
			l.sink.numbering.Unlock()
		}
	}()
	return l.sink.transact(ctx, l.conn, func(tx Tx) error {
		if err := do(tx); err != nil {
			return err
		}
		l.sink.numbering.Lock()
		numbered = true
		return l.complete(ctx, tx)
	})
}

// complete deletes the load's file records, and records the snapshot.
func (l *tableLoad) complete(ctx context.Context, tx Tx) error {
	if err := l.forgetFiles(ctx, tx); err != nil {
		return err
	}
	return l.snapshot.write(ctx, tx, l.rows)
}

// refresh reads the descriptions of the staging table and of the live table again. The result
// placed is true if the rows are already in place. In that case an earlier attempt was durable but
// its answer was lost, and the staging table or its records are gone.
func (l *tableLoad) refresh(ctx context.Context) (placed bool, err error) {
	if l.stage == nil {
		return false, lost("the load must start again")
	}
	l.layouts = make(map[*schema.Table]*Layout)
	stage, err := l.describeStage(ctx)
	if err != nil {
		return false, err
	}
	if l.placing && (stage == nil || len(l.files) == 0) {
		return l.wasPlaced(ctx)
	}
	if stage == nil {
		return false, l.loseStage(ctx, fmt.Sprintf("staging table %q no longer exists", l.stageName()))
	}
	live, err := l.readLive(ctx)
	if err != nil {
		return false, err
	}
	if live == nil || loadID(l.job, live) != l.id {
		return false, l.loseStage(ctx, fmt.Sprintf("the columns or constraints of table %q have changed since", l.t.Name))
	}
	l.live, l.stage = live, stage
	return false, l.checkStage(ctx)
}

// wasPlaced reports whether an earlier attempt to place the rows was durable. It is called if the
// staging table or its records are gone. Another possible reason is that the database was restored
// or replaced.
func (l *tableLoad) wasPlaced(ctx context.Context) (bool, error) {
	live, err := l.readLive(ctx)
	if err != nil {
		return false, err
	}
	recorded := true
	if l.snapshot != nil && l.snapshot.s != nil {
		if recorded, err = l.snapshot.holds(ctx, l.conn, l.stageName()); err != nil {
			return false, err
		}
	}
	if live == nil || !recorded {
		return false, l.loseStage(ctx, fmt.Sprintf("the database has lost staging table %q and its rows", l.stageName()))
	}
	return true, nil
}

// seal verifies that all rows are staged, and prepares the stage for Place and for later changes.
// It returns the number of rows in the stage, which then has one row per key.
func (l *tableLoad) seal(ctx context.Context) (int64, error) {
	count, err := l.verify(ctx)
	if err != nil {
		return 0, err
	}
	err = l.conn.Seal(ctx, l.stage, l.live)
	if twice := new(DuplicatesError); errors.As(err, &twice) {
		if err := l.deduplicate(ctx, twice.Rows); err != nil {
			return 0, fmt.Errorf("remove rows that were staged twice: %w", err)
		}
		if count, err = l.verify(ctx); err != nil {
			return 0, err
		}
		err = l.conn.Seal(ctx, l.stage, l.live)
	}
	if err != nil {
		return 0, fmt.Errorf("index the staged rows: %w", err)
	}
	l.least, l.most = count, count // also if seal is called again
	return count, nil
}

// verify compares the number of rows in the stage with the number that its files and changes
// should have left. It returns the actual number.
func (l *tableLoad) verify(ctx context.Context) (int64, error) {
	least, most := l.bounds()
	count, err := l.conn.Count(ctx, l.stage)
	if err != nil {
		return 0, fmt.Errorf("count the staged rows: %w", err)
	}
	if count < least || count > most {
		return 0, l.loseStage(ctx, fmt.Sprintf("staging table %q has %d rows instead of %d", l.stageName(), count, least))
	}
	return count, nil
}

// deduplicate removes each staged row if a later staged row has the same key. It records the
// number of removed rows.
func (l *tableLoad) deduplicate(ctx context.Context, rows int64) error {
	removed := l.files[duplicatesRecord] - rows
	var record change.Row
	err := l.sink.transact(ctx, l.conn, func(tx Tx) error {
		d, ok := tx.(Deduplicator)
		if !ok {
			return fmt.Errorf("%T cannot", tx)
		}
		err := d.Deduplicate(ctx, l.stage)
		if err == nil {
			record, err = l.record(ctx, tx, duplicatesRecord, removed)
		}
		return err
	})
	if err != nil {
		return err
	}
	l.files[duplicatesRecord] = removed
	l.recorded = append(l.recorded, record)
	return nil
}

// refuseEmptying returns sink.ErrWouldEmpty if no rows were loaded from files, the mode is
// sink.Replace, and the live table has rows.
func (l *tableLoad) refuseEmptying(ctx context.Context) error {
	if l.staged() > 0 || l.mode != sink.Replace {
		return nil
	}
	rows, err := l.conn.Count(ctx, l.live)
	if err != nil {
		return fmt.Errorf("count the rows of the table: %w", err)
	}
	if rows > 0 {
		return fault.Mark(fault.Fatal, sink.ErrWouldEmpty)
	}
	return nil
}

// loseStage discards the load. It returns an error that includes the parameter why, which is the
// reason that the load must start again.
func (l *tableLoad) loseStage(ctx context.Context, why string) error {
	if err := l.forget(ctx); err != nil {
		return err
	}
	l.stage = nil
	return lost(why)
}

func lost(why string) error {
	return fault.Mark(fault.Fatal, fmt.Errorf("%w: %s", sink.ErrLoadLost, why))
}
