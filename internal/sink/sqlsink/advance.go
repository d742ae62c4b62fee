package sqlsink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// advance is the progress of a load that applies later changes to its stage.
type advance struct {
	layouts     map[*schema.Table]*Layout // layouts of the stage, by version of the table
	through     uint64                    // sequence of the last durable change, or 0 for none
	least, most int64                     // bounds of the stage's number of rows
}

// Seal checks the stage, and prepares it for Finish and Advance.
func (l *tableLoad) Seal(ctx context.Context) error {
	return l.attempt(ctx, "seal the load of", func(ctx context.Context) error {
		if _, err := l.refresh(ctx); err != nil {
			return err
		}
		if _, err := l.seal(ctx); err != nil {
			return err
		}
		if err := l.refuseEmptying(ctx); err != nil {
			return err
		}
		_, err := l.refresh(ctx) // the stage has a key now
		return err
	})
}

// Advance applies the changes of b to the stage, and records the position of b, in one
// transaction.
func (l *tableLoad) Advance(ctx context.Context, b *change.Batch) error {
	if len(b.Sets) == 0 {
		return nil
	}
	if err := l.fits(b); err != nil {
		return err
	}
	var deletes, upserts int
	err := l.attempt(ctx, "apply changes to the load of", func(ctx context.Context) error {
		if err := l.checkStage(ctx); err != nil {
			return err
		}
		writes, err := l.writes(b)
		if err != nil {
			return err
		}
		for _, w := range writes {
			deletes, upserts = deletes+len(w.Deletes), upserts+len(w.Upserts)
		}
		if l.files[advancedRecord] >= int64(b.Last.Sequence) { // only the answer was lost
			return nil
		}
		return l.write(ctx, writes, b)
	})
	if err != nil {
		return err
	}
	l.through = max(l.through, b.Last.Sequence)
	l.least, l.most = l.least-int64(deletes), l.most+int64(upserts)
	return nil
}

// write executes the writes of b and records b's position, in one transaction.
func (l *tableLoad) write(ctx context.Context, writes []*Write, b *change.Batch) error {
	var record change.Row
	err := l.sink.transact(ctx, l.conn, func(tx Tx) (err error) {
		for _, w := range writes {
			if err := tx.Write(ctx, w); err != nil {
				return err
			}
		}
		record, err = l.record(ctx, tx, advancedRecord, int64(b.Last.Sequence))
		return err
	})
	if err != nil {
		return err
	}
	if !l.Loaded(advancedRecord) {
		l.recorded = append(l.recorded, record)
	}
	l.files[advancedRecord] = int64(b.Last.Sequence)
	return nil
}

// writes maps the sets of b onto the stage. The writes respect Layout.Guard and Layout.Soft in
// the same way as writes to the live table.
func (l *tableLoad) writes(b *change.Batch) ([]*Write, error) {
	now := time.Now().UTC()
	var writes []*Write
	for _, set := range b.Sets {
		layout := l.layouts[set.Table]
		if layout == nil {
			var err error
			if layout, err = l.sink.newLayout(set.Table, l.stage.Real); err != nil {
				return nil, err
			}
			l.layouts[set.Table] = layout
		}
		writes = append(writes, &Write{Layout: layout, Deletes: set.Deletes, Upserts: set.Upserts, Synced: now})
	}
	return writes, nil
}

// checkStage returns an error if the stage is missing, or lacks changes that were applied to it.
// The latest transactions may be lost after a restore or a fail-over of the database.
func (l *tableLoad) checkStage(ctx context.Context) error {
	switch {
	case l.stage == nil:
		return lost("the load must start again")
	case uint64(l.files[advancedRecord]) < l.through:
		return l.loseStage(ctx, fmt.Sprintf("staging table %q lacks changes that were applied to it", l.stageName()))
	}
	return nil
}

// staged returns the number of rows that were staged from files. It ignores applied changes.
func (l *tableLoad) staged() (rows int64) {
	for file, n := range l.files {
		if file != advancedRecord {
			rows += n
		}
	}
	return rows
}

// bounds returns the lowest and highest possible number of rows in the stage. Each applied change
// may have added or removed one row.
func (l *tableLoad) bounds() (least, most int64) {
	if l.through == 0 {
		n := l.staged()
		return n, n
	}
	return l.least, l.most
}

// fits returns a *sink.NarrowLoadError if the stage cannot hold the columns of b.
func (l *tableLoad) fits(b *change.Batch) error {
	for _, set := range b.Sets {
		if l.layouts[set.Table] != nil {
			continue
		}
		wider, err := union(l.t, set.Table)
		if err != nil {
			return fault.Mark(fault.Fatal, fmt.Errorf("apply changes to the load of table %q: %w", l.t.Name, err))
		}
		if wider != nil {
			return fault.Mark(fault.Fatal, &sink.NarrowLoadError{Table: wider})
		}
	}
	return nil
}

// union returns t with the additional columns of u, and with column types that can hold the
// values of both tables. It returns nil if t can already hold the values of u.
func union(t, u *schema.Table) (*schema.Table, error) {
	columns, wider := slices.Clone(t.Columns), false
	for _, c := range u.Columns {
		slot := t.Slot([]byte(c.Name))
		if slot < 0 {
			c.Required = false
			columns, wider = append(columns, c), true
			continue
		}
		have := &RealColumn{Holds: t.Columns[slot].Type, Narrow: t.Columns[slot].Type == schema.Enum}
		if to, more := have.widened(c.Type); more {
			columns[slot].Type, wider = to, true
		}
	}
	if !wider {
		return nil, nil
	}
	var key []string
	for _, c := range t.Key() {
		key = append(key, c.Name)
	}
	return schema.New(t.Name, u.Version, key, columns)
}
