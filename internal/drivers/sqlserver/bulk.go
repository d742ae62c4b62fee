package sqlserver

import (
	"context"
	"time"

	mssql "github.com/microsoft/go-mssqldb"

	"github.com/shopmonkeyus/eds/internal/change"
)

// bulkLoad streams rows into a table.
type bulkLoad struct {
	s       *session
	sh      *shape
	indexes []int
	load    *mssql.Bulk
	release func()
}

// bulk begins a bulk load into a table, which has the columns of the indexes.
// done or abandon must follow.
func (s *session) bulk(ctx context.Context, sh *shape, table string, indexes []int) *bulkLoad {
	names := make([]string, len(indexes))
	for i, index := range indexes {
		names[i] = sh.layout.Columns[index].Real.Name
	}
	load := s.conn.CreateBulkContext(ctx, table, names)
	load.Options = mssql.BulkOptions{KeepNulls: true, Tablock: true}
	return &bulkLoad{s: s, sh: sh, indexes: indexes, load: load, release: s.guard(ctx)}
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
	if err := b.load.AddRow(values); err != nil {
		return b.s.explain(b.what(), err)
	}
	return nil
}

func (b *bulkLoad) what() string { return "load rows for " + b.sh.label }

// done ends the load and returns how many rows the server took.
func (b *bulkLoad) done() (int64, error) {
	defer b.release()
	count, err := b.load.Done()
	return count, b.s.explain(b.what(), err)
}

// abandon ends the load because of err. What was sent is undone with the transaction.
func (b *bulkLoad) abandon(err error) error {
	defer b.release()
	if !b.s.broken {
		if _, failed := b.load.Done(); failed != nil {
			b.s.broken = true
		}
	}
	return err
}
