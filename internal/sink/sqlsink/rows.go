package sqlsink

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Bounds of a part of a file. One transaction stages a part, which ends at either bound.
const (
	partRows  = 2000
	partBytes = 4 << 20
)

// partSeparator is used in the record of a part. It stands between the name of the file and the
// numbers of the part's rows.
const partSeparator = "#"

// LoadRows stages the rows of a file in parts, each with its own record. If the database refuses a
// part, LoadRows halves the part until it finds the refused rows, and calls the callback refused
// for each of them. If an earlier call was interrupted, the parts that it staged are not staged
// again. At the end, one record of the file replaces the records of the parts.
func (l *tableLoad) LoadRows(
	ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused func(*change.Row, int64, error) error,
) (int64, error) {
	var count, first int64
	var part []change.Row
	size := 0
	stage := func() error {
		err := sink.Isolate(len(part), func(from, to int) error {
			name := fmt.Sprintf("%s%s%d-%d", file, partSeparator, first+int64(from), first+int64(to))
			_, err := l.LoadFile(ctx, name, rowsOf(part[from:to]))
			if fault.Of(err) == fault.Poison {
				l.unsure = false // the transaction is not durable
			}
			return err
		}, func(i int, reason error) error {
			count--
			return refused(&part[i], first+int64(i)+1, reason)
		})
		first, part, size = first+int64(len(part)), part[:0], 0
		return err
	}
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		count++
		part = append(part, change.Row{Image: slices.Clone(row.Image), Spans: slices.Clone(row.Spans), Op: row.Op, Clock: row.Clock})
		if size += len(row.Image); len(part) < partRows && size < partBytes {
			continue
		}
		if err := stage(); err != nil {
			return 0, err
		}
	}
	if err := stage(); err != nil {
		return 0, err
	}
	return count, l.attempt(ctx, "stage a file of", func(ctx context.Context) error { return l.joinParts(ctx, file) })
}

func rowsOf(rows []change.Row) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		for i := range rows {
			if !yield(&rows[i], nil) {
				return
			}
		}
	}
}

// joinParts replaces the records of the file's parts with one record of the file.
func (l *tableLoad) joinParts(ctx context.Context, file string) error {
	if l.stage == nil {
		return lost("the load must start again")
	}
	if l.Loaded(file) { // only the answer was lost
		return nil
	}
	isPart := func(row change.Row) bool {
		r := engineRow{l.records.Table, &row}
		return r.text("job") == l.id && strings.HasPrefix(r.text("file"), file+partSeparator)
	}
	var added int64
	var parts []change.Row
	for _, row := range l.recorded {
		if isPart(row) {
			parts = append(parts, row)
			added += l.files[engineRow{l.records.Table, &row}.text("file")]
		}
	}
	joined, err := l.fileRecord(file, added)
	if err != nil {
		return err
	}
	err = l.sink.transact(ctx, l.conn, func(tx Tx) error {
		if err := l.deleteRecords(ctx, tx, parts); err != nil {
			return err
		}
		return tx.Write(ctx, &Write{Layout: l.records, Upserts: []change.Row{joined}})
	})
	if err != nil {
		return err
	}
	for _, row := range parts {
		delete(l.files, engineRow{l.records.Table, &row}.text("file"))
	}
	l.files[file] = added
	l.recorded = append(slices.DeleteFunc(l.recorded, isPart), joined)
	return nil
}
