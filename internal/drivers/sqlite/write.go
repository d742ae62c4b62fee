package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// boundStatement is a statement that takes values of one row as parameters: those of the columns
// with the given indexes.
type boundStatement struct {
	sql     string
	columns []int
}

// tableStatements has the commands and the encoder for rows of one layout.
type tableStatements struct {
	// upsert is one command if the key has a unique index. Otherwise it is two commands: an update,
	// and an insert for the case that the update changes no row.
	upsert  []boundStatement
	remove  boundStatement
	encoder *rowEncoder
}

// statementsOf returns the statements for layout l. It builds the statements on first use and keeps
// them in l.Native.
func (s *fileSession) statementsOf(l *sqlsink.Layout) *tableStatements {
	if l.Native == nil {
		l.Native = newStatements(l, s.dialect.adjusted)
	}
	return l.Native.(*tableStatements)
}

func newStatements(l *sqlsink.Layout, adjusted func(table, column, rule string)) *tableStatements {
	st := &tableStatements{remove: removal(l), encoder: newRowEncoder(l, adjusted)}
	if relationOf(l).unique(l.KeyNames()) {
		st.upsert = []boundStatement{{upsertSQL(l, "VALUES "+parameters(len(l.Columns))), l.All()}}
	} else {
		st.upsert = []boundStatement{update(l), insertion(l)}
	}
	return st
}

// Write deletes the rows of w.Deletes, then upserts the rows of w.Upserts.
func (t *transaction) Write(ctx context.Context, w *sqlsink.Write) error {
	return t.within(ctx, func() error {
		s, st := t.s, t.s.statementsOf(w.Layout)
		for i := range w.Deletes {
			if err := s.execRow(ctx, &st.remove, st.encoder, &w.Deletes[i], w.Synced); err != nil {
				return sqlsink.About(w.Layout, fmt.Errorf("delete from table %q: %w", w.Layout.Real.Name, err))
			}
		}
		for i := range w.Upserts {
			if _, err := s.upsert(ctx, st, &w.Upserts[i], w.Synced); err != nil {
				return sqlsink.About(w.Layout, fmt.Errorf("write into table %q: %w", w.Layout.Real.Name, err))
			}
		}
		return nil
	})
}

// upsert writes a row with up to two commands, and reports whether the second command wrote the
// row.
func (s *fileSession) upsert(ctx context.Context, st *tableStatements, row *change.Row, synced time.Time) (second bool, err error) {
	for i := range st.upsert {
		if i > 0 && s.db.Changes() > 0 {
			return false, nil
		}
		if err := s.execRow(ctx, &st.upsert[i], st.encoder, row, synced); err != nil {
			return false, err
		}
	}
	return len(st.upsert) > 1 && s.db.Changes() > 0, nil
}

// execRow executes the command with the values of the row.
func (s *fileSession) execRow(ctx context.Context, c *boundStatement, e *rowEncoder, row *change.Row, synced time.Time) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := s.prepare(c.sql)
	if err != nil {
		return err
	}
	s.args.Reset()
	if err := e.row(&s.args, c.columns, row, synced); err != nil {
		return err
	}
	_, err = p.Exec(&s.args)
	return err
}

// Checkpoint moves the stored checkpoint to c. The parameter from is the expected stored position.
// If the stored position is another one, Checkpoint returns sqlsink.ErrMoved.
func (t *transaction) Checkpoint(ctx context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	return t.within(ctx, func() error {
		sql := checkpointSQL(l, &c, from)
		p, err := t.s.prepare(sql)
		if err != nil {
			return err
		}
		a := &t.s.args
		a.Reset()
		a.Int(int64(c.Position.Sequence))
		a.Int(c.Position.Stored)
		if c.Epoch > 0 {
			a.Int(c.Seen)
		}
		a.String(c.Stream)
		a.String(c.Consumer)
		a.String(c.Filter)
		if !c.New(from) {
			a.Int(int64(from.Sequence))
			a.Int(from.Stored)
		}
		if c.Epoch > 0 {
			a.Int(c.Epoch)
			a.Int(c.Generation)
		}
		if _, err := p.Exec(a); err != nil {
			return fmt.Errorf("write the checkpoint: %w", err)
		}
		if t.s.db.Changes() != 1 {
			return sqlsink.ErrMoved
		}
		return nil
	})
}

// Raise increments the generation of every checkpoint in the table.
func (t *transaction) Raise(ctx context.Context, l *sqlsink.Layout) error {
	return t.within(ctx, func() error {
		return t.execAll(fmt.Sprintf(`UPDATE %s SET "generation" = coalesce("generation", 0) + 1`, quote(l.Real.Name)))
	})
}
