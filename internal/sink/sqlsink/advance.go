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

// advance is the progress of changes that are applied to the stage of a load.
type advance struct {
	layouts     map[*schema.Table]*Layout // of the stage, by version of the table
	through     uint64                    // sequence of the last durable change; 0: none
	least, most int64                     // bounds of the stage's number of rows
}

// Seal makes the stage ready for Finish and Advance.
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

// Advance applies changes to the stage and records their position, in one transaction.
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

// write makes the writes of b durable and records b's position.
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

// writes maps the sets of b onto the stage. It guards and soft-deletes rows like those of the live
// table.
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

// checkStage returns an error if the stage is missing or lacks applied changes. A database that was
// restored or has failed over may have lost the latest transactions.
func (l *tableLoad) checkStage(ctx context.Context) error {
	switch {
	case l.stage == nil:
		return lost("the load must start again")
	case uint64(l.files[advancedRecord]) < l.through:
		return l.loseStage(ctx, fmt.Sprintf("staging table %q lacks changes that were applied to it", l.stageName()))
	}
	return nil
}

// staged returns the number of rows in the stage that came from files.
func (l *tableLoad) staged() (rows int64) {
	for file, n := range l.files {
		if file != advancedRecord {
			rows += n
		}
	}
	return rows
}

// bounds returns the bounds of the stage's number of rows. Each applied change may have added or
// removed one.
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

// union returns t with the additional columns of u, and with types that hold the values of both. It
// returns nil if t holds the values of u already.
func union(t, u *schema.Table) (*schema.Table, error) {
	columns, wider := slices.Clone(t.Columns), false
	for _, c := range u.Columns {
		slot := t.Slot([]byte(c.Name))
		if slot < 0 {
			c.Required = false
			columns, wider = append(columns, c), true
			continue
		}
		have := &Column{Holds: t.Columns[slot].Type, Narrow: t.Columns[slot].Type == schema.Enum}
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
