package sqlserver

import (
	"context"
	"time"

	mssql "github.com/microsoft/go-mssqldb"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// bulkLoad streams rows into a table.
type bulkLoad struct {
	s       *session
	sh      *shape
	indexes []int
	load    *mssql.Bulk
	release func()
	call    *sqlsink.Deadline // paused while eds makes the next row
	explain func(err error) error
}

// bulk begins a bulk load into a table, which has the columns of the indexes.
// done or abandon must follow.
func (s *session) bulk(ctx context.Context, sh *shape, table string, indexes []int) *bulkLoad {
	names := make([]string, len(indexes))
	for i, index := range indexes {
		names[i] = sh.layout.Columns[index].Real.Name
	}
	ctx, call := s.calls.Await(ctx)
	call.Pause()
	load := s.conn.CreateBulkContext(ctx, table, names)
	load.Options = mssql.BulkOptions{KeepNulls: true, Tablock: true}
	b := &bulkLoad{s: s, sh: sh, indexes: indexes, load: load, call: call}
	release := s.guard(ctx)
	b.release = func() {
		release()
		call.End()
	}
	b.explain = func(err error) error { return s.explain(b.what(), sqlsink.CallError(ctx, err)) }
	return b
}

// add sends a row. Of an error of the row's own nothing was sent.
func (b *bulkLoad) add(ctx context.Context, row *change.Row, synced time.Time) error {
	if err := b.s.ready(ctx, b.what()); err != nil {
		return err
	}
	values, err := b.s.encode(b.s.row[:0], b.sh, b.indexes, row, synced)
	b.s.row = values
	if err != nil {
		return err
	}
	b.call.Resume()
	defer b.call.Pause()
	return b.explain(b.load.AddRow(values))
}

func (b *bulkLoad) what() string { return "load rows for " + b.sh.label }

// done ends the load and returns how many rows the server took.
func (b *bulkLoad) done() (int64, error) {
	defer b.release()
	b.call.Resume()
	count, err := b.load.Done()
	return count, b.explain(err)
}

// abandon ends the load because of err. What was sent is undone with the transaction.
func (b *bulkLoad) abandon(err error) error {
	defer b.release()
	b.call.Resume()
	if !b.s.broken {
		if _, failed := b.load.Done(); failed != nil {
			b.s.broken = true
		}
	}
	return err
}
