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
	a := appender{command: &st.upsert[0], encoder: &st.encoder, free: make(chan *chunk, chunksAhead), full: make(chan *chunk, chunksAhead)}
	for range chunksAhead {
		a.free <- new(chunk)
	}
	ahead, stop := context.WithCancel(ctx)
	filled := make(chan error, 1)
	go func() { filled <- a.fill(ahead, rows) }()
	count, err := t.drain(ctx, &a)
	stop()
	// What fills stops because of what writes, never the other way round.
	if failed := <-filled; err == nil {
		err = failed
	}
	return count, err
}

// drain writes chunks until there are no more.
func (t *tx) drain(ctx context.Context, a *appender) (count int64, err error) {
	for c := range a.full {
		n, err := t.write(ctx, a.command.sql, &c.args)
		if count += int64(n); err != nil {
			return count, fmt.Errorf("row %d: %w", count+1, err)
		}
		a.free <- c
	}
	return count, nil
}

const (
	chunksAhead = 3 // as many chunks there are, full, being filled and being written
	chunkSize   = 512 << 10
)

// chunk is a number of rows, ready to be bound.
type chunk struct{ args capi.Args }

// appender passes chunks to and fro between what fills and what writes them.
type appender struct {
	command    *command
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
				c.args.Reset()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		count++
		if err := a.encoder.row(&c.args, a.command.takes, row, now); err != nil {
			return fmt.Errorf("row %d: %w", count, err)
		}
		if c.args.Size() >= chunkSize {
			a.full <- c // there is room for all chunks there are
			c = nil
		}
	}
	if c != nil {
		a.full <- c
	}
	return nil
}

// write executes sql for each set of args in the transaction.
func (t *tx) write(ctx context.Context, sql string, args *capi.Args) (n int, err error) {
	err = t.within(ctx, func() error {
		p, err := t.s.prepare(sql)
		if err == nil {
			n, err = p.Exec(args)
		}
		return err
	})
	return n, err
}

// appendByRow is for stages whose key nothing makes unique.
func (t *tx) appendByRow(ctx context.Context, st *statements, rows iter.Seq2[*change.Row, error]) (int64, error) {
	var count int64
	now := time.Now()
	err := t.within(ctx, func() error {
		for row, err := range rows {
			if err != nil {
				return err
			}
			if err := t.s.upsert(ctx, st, row, now); err != nil {
				return fmt.Errorf("row %d: %w", count+1, err)
			}
			count++
		}
		return nil
	})
	return count, err
}
