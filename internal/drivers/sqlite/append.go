package sqlite

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Append adds rows to a stage. What yields them runs ahead of what writes them,
// on a goroutine of its own, so that reading the files of several tables goes on
// while one of them is written.
func (t *tx) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	st := t.s.statementsOf(stage)
	if len(st.upsert) > 1 {
		return t.appendByRow(ctx, st, rows)
	}
	a := appender{
		insert: insertSQL(stage, "VALUES "+parameters(len(stage.Columns))), upsert: &st.upsert[0], encoder: st.encoder,
		free: make(chan *chunk, chunksAhead), full: make(chan *chunk, chunksAhead),
	}
	for range chunksAhead {
		a.free <- new(chunk)
	}
	ahead, stop := context.WithCancel(ctx)
	filled := make(chan error, 1)
	go func() { filled <- a.fill(ahead, rows) }()
	added, err := t.drain(ctx, &a)
	stop()
	// What fills stops because of what writes, never the other way round.
	if failed := <-filled; err == nil {
		err = failed
	}
	return added, err
}

// drain writes chunks until there are no more, and returns how many rows the stage
// has more.
func (t *tx) drain(ctx context.Context, a *appender) (added int64, err error) {
	count := 0
	for c := range a.full {
		n, fresh, err := t.write(ctx, a, &c.args)
		count += n
		added += int64(fresh)
		if err != nil {
			return added, fmt.Errorf("row %d: %w", count+1, err)
		}
		c.args.Reset() // large rows let go of their memory
		a.free <- c
	}
	return added, nil
}

const (
	chunksAhead = 3 // as many chunks there are, full, being filled and being written
	chunkSize   = 512 << 10
	// largeChunk is the size above which no other chunk is filled meanwhile, in bytes.
	largeChunk = 4 << 20
)

// chunk is a number of rows, ready to be bound.
type chunk struct{ args capi.Args }

// appender passes chunks to and fro between what fills and what writes them.
type appender struct {
	insert     string   // inserts a row with a key that the stage does not have
	upsert     *command // of any row
	encoder    *encoder
	free, full chan *chunk
}

// fill encodes rows into chunks until there are no more. An error of rows is
// returned as it is, once the chunks before it were passed on.
func (a *appender) fill(ctx context.Context, rows iter.Seq2[*change.Row, error]) error {
	defer close(a.full)
	now := time.Now()
	var c *chunk
	count := 0
	for row, err := range rows {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if c == nil {
			select {
			case c = <-a.free:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		count++
		if err := a.encoder.row(&c.args, a.upsert.columns, row, now); err != nil {
			return fmt.Errorf("row %d: %w", count, err)
		}
		if size := c.args.Size(); size >= chunkSize {
			a.full <- c // there is room for all chunks there are
			c = nil
			if size > largeChunk {
				if err := a.empty(ctx); err != nil {
					return err
				}
			}
		}
	}
	if c != nil {
		a.full <- c
	}
	return nil
}

// empty waits until all chunks are written.
func (a *appender) empty(ctx context.Context) error {
	for range chunksAhead {
		select {
		case c := <-a.free:
			defer func() { a.free <- c }() // there is room for all chunks there are
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// write writes a row for each set of args in the transaction. It returns how many
// there were, and how many of them the stage has more.
func (t *tx) write(ctx context.Context, a *appender, args *capi.Args) (n, added int, err error) {
	err = t.within(ctx, func() error {
		insert, err := t.s.prepare(a.insert)
		if err != nil {
			return err
		}
		upsert, err := t.s.prepare(a.upsert.sql)
		if err != nil {
			return err
		}
		n, added, err = insert.ExecElse(upsert, args)
		return err
	})
	return n, added, err
}

// appendByRow is for stages whose key nothing makes unique.
func (t *tx) appendByRow(ctx context.Context, st *tableStatements, rows iter.Seq2[*change.Row, error]) (int64, error) {
	var count, added int64
	now := time.Now()
	err := t.within(ctx, func() error {
		for row, err := range rows {
			if err != nil {
				return err
			}
			inserted, err := t.s.upsert(ctx, st, row, now)
			if err != nil {
				return fmt.Errorf("row %d: %w", count+1, err)
			}
			count++
			if inserted {
				added++
			}
		}
		return nil
	})
	return added, err
}
