package sqlserver

import (
	"context"
	"time"

	mssql "github.com/microsoft/go-mssqldb"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// bulkLoad streams rows into a table with the bulk load protocol.
type bulkLoad struct {
	s       *sqlSession
	table   *tableStatements
	indexes []int
	load    *mssql.Bulk
	release func()
	call    *sqlsink.Deadline     // paused while eds encodes the next row
	wrap    func(err error) error // converts an error of the driver
}

// bulk starts a bulk load into columns of a table. The parameter indexes has the columns' indexes
// in the layout. The caller must end the load with done or abandon.
func (s *sqlSession) bulk(ctx context.Context, ts *tableStatements, table string, indexes []int) *bulkLoad {
	names := make([]string, len(indexes))
	for i, index := range indexes {
		names[i] = ts.layout.Columns[index].Real.Name
	}
	ctx, call := s.calls.Await(ctx)
	call.Pause()
	load := s.conn.CreateBulkContext(ctx, table, names)
	load.Options = mssql.BulkOptions{KeepNulls: true, Tablock: true}
	b := &bulkLoad{s: s, table: ts, indexes: indexes, load: load, call: call}
	release := s.abortOnDone(ctx)
	b.release = func() {
		release()
		call.End()
	}
	b.wrap = func(err error) error { return s.sessionError(b.what(), sqlsink.CallError(ctx, err)) }
	return b
}

// add sends a row. If the row cannot be encoded, it sends nothing.
func (b *bulkLoad) add(ctx context.Context, row *change.Row, synced time.Time) error {
	if err := b.s.checkUsable(ctx, b.what()); err != nil {
		return err
	}
	values, err := b.s.encode(b.s.row[:0], b.table, b.indexes, row, synced)
	b.s.row = values
	if err != nil {
		return err
	}
	b.call.Resume()
	defer b.call.Pause()
	return b.wrap(b.load.AddRow(values))
}

func (b *bulkLoad) what() string { return "load rows for " + b.table.label }

// The method named done completes the load and returns the number of rows that the server stored.
func (b *bulkLoad) done() (int64, error) {
	defer b.release()
	b.call.Resume()
	count, err := b.load.Done()
	return count, b.wrap(err)
}

// abandon ends the load after the error err, and returns err. The caller must roll the transaction
// back, which removes the rows that were sent.
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
