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

// Append adds rows to a stage and returns the number of rows by which the stage has grown. Another
// goroutine reads and encodes rows ahead of the writer, so that files of several tables can be read
// while one table is written.
func (t *transaction) Append(ctx context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
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
	// Wait for fill. Canceling its context has made it stop, if it was still running.
	if failed := <-filled; err == nil {
		err = failed
	}
	return added, err
}

// drain writes all full chunks to the stage, and returns the number of rows by which the stage has
// grown.
func (t *transaction) drain(ctx context.Context, a *appender) (added int64, err error) {
	count := 0
	for c := range a.full {
		n, fresh, err := t.write(ctx, a, &c.args)
		count += n
		added += int64(fresh)
		if err != nil {
			return added, fmt.Errorf("row %d: %w", count+1, err)
		}
		c.args.Reset() // frees the memory of large rows
		a.free <- c
	}
	return added, nil
}

const (
	chunksAhead = 3         // number of chunks: one full, one being filled and one being written
	chunkSize   = 512 << 10 // size, in bytes, at which a chunk is full
	largeChunk  = 4 << 20   // size, in bytes, above which fill waits until the chunk is written
)

// chunk has the encoded values of some rows.
type chunk struct{ args capi.Args }

// appender passes chunks between fill and drain.
type appender struct {
	insert     string          // inserts a row, unless the stage has a row with the same key
	upsert     *boundStatement // inserts or updates a row
	encoder    *rowEncoder
	free, full chan *chunk
}

// fill encodes all rows into chunks and passes the chunks to drain. If the iterator rows yields an
// error, fill returns that error unchanged.
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
			a.full <- c // never blocks, because the channel has the capacity for all chunks
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
			defer func() { a.free <- c }() // never blocks, because the channel has the capacity for all chunks
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// write writes the rows in args to the stage. It returns the number of written rows, and the number
// of rows by which the stage has grown.
func (t *transaction) write(ctx context.Context, a *appender, args *capi.Args) (n, added int, err error) {
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

// appendByRow does the work of Append for a stage that has no unique index on the key.
func (t *transaction) appendByRow(ctx context.Context, st *tableStatements, rows iter.Seq2[*change.Row, error]) (int64, error) {
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
