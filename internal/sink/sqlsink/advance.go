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

// advance is how far the stage of a load was brought forward.
type advance struct {
	layouts map[*schema.Table]*Layout // of the stage, by version of the table
	through uint64                    // sequence of the last change that is durable; 0: none
	// The stage has at least, and at most, so many rows.
	least, most int64
}

// Seal makes the stage ready to be put in place, or to be brought forward.
func (l *load) Seal(ctx context.Context) error {
	return l.attempt(ctx, "seal what was loaded into", func(ctx context.Context) error {
		if _, err := l.look(ctx); err != nil {
			return err
		}
		if _, err := l.seal(ctx); err != nil {
			return err
		}
		if err := l.spare(ctx); err != nil {
			return err
		}
		_, err := l.look(ctx) // the stage has a key now
		return err
	})
}

// Advance applies changes to the stage, and records how far it is, in one transaction.
func (l *load) Advance(ctx context.Context, b *change.Batch) error {
	if len(b.Sets) == 0 {
		return nil
	}
	if err := l.fits(b); err != nil {
		return err
	}
	var deletes, upserts int
	err := l.attempt(ctx, "bring forward what was loaded into", func(ctx context.Context) error {
		if err := l.kept(ctx); err != nil {
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

// write makes the writes durable, up to the end of b.
func (l *load) write(ctx context.Context, writes []*Write, b *change.Batch) error {
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

// writes maps the sets of b onto the stage. What guards the rows of the live table, and
// marks them as deleted, does so in the stage.
func (l *load) writes(b *change.Batch) ([]*Write, error) {
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

// kept makes sure that the stage is there and has what was applied to it. A database that
// was put back, or has failed over, may have lost the latest transactions.
func (l *load) kept(ctx context.Context) error {
	switch {
	case l.stage == nil:
		return lost("the load has to begin again")
	case uint64(l.files[advancedRecord]) < l.through:
		return l.lose(ctx, fmt.Sprintf("staging table %q lacks changes that were applied to it", l.stageName()))
	}
	return nil
}

// staged returns how many rows the stage has of files.
func (l *load) staged() (rows int64) {
	for file, n := range l.files {
		if file != advancedRecord {
			rows += n
		}
	}
	return rows
}

// bounds returns how many rows the stage has at least, and at most. Each change that was
// applied may have added or removed one.
func (l *load) bounds() (least, most int64) {
	if l.through == 0 {
		n := l.staged()
		return n, n
	}
	return l.least, l.most
}

// fits returns a *sink.NarrowLoadError if the stage cannot hold the columns of b.
func (l *load) fits(b *change.Batch) error {
	for _, set := range b.Sets {
		if l.layouts[set.Table] != nil {
			continue
		}
		wider, err := union(l.t, set.Table)
		if err != nil {
			return fault.Mark(fault.Fatal, fmt.Errorf("bring forward what was loaded into table %q: %w", l.t.Name, err))
		}
		if wider != nil {
			return fault.Mark(fault.Fatal, &sink.NarrowLoadError{Table: wider})
		}
	}
	return nil
}

// union returns t with the columns that u has more, and types that hold the values of both;
// nil if t holds the values of u as it is.
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
