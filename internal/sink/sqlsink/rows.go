package sqlsink

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// How much of a file is staged in one transaction if it has rows that are refused.
const (
	partRows  = 2000
	partBytes = 4 << 20
)

// partSeparator is between the name of a file and that of a part of it, in records.
const partSeparator = "#"

// LoadRows stages the rows of a file in parts, each with a record of its own, and halves
// those that are refused. A part that an interrupted call has staged is not staged again.
// The record of the file takes the place of those of its parts at the end.
func (l *load) LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused func(*change.Row, int64, error) error) (int64, error) {
	var count, first int64
	var part []change.Row
	size := 0
	stage := func() error {
		err := sink.Isolate(len(part), func(from, to int) error {
			_, err := l.LoadFile(ctx, fmt.Sprintf("%s%s%d-%d", file, partSeparator, first+int64(from), first+int64(to)), each(part[from:to]))
			if fault.Of(err) == fault.Poison {
				l.unsure = false // nothing of it is durable
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

func each(rows []change.Row) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		for i := range rows {
			if !yield(&rows[i], nil) {
				return
			}
		}
	}
}

// joinParts records the file in the place of its parts.
func (l *load) joinParts(ctx context.Context, file string) error {
	if l.stage == nil {
		return lost("the load has to begin again")
	}
	if l.Loaded(file) { // only the answer was lost
		return nil
	}
	isPart := func(row change.Row) bool {
		r := record{l.records.Table, &row}
		return r.text("job") == l.id && strings.HasPrefix(r.text("file"), file+partSeparator)
	}
	var added int64
	var parts []change.Row
	for _, row := range l.recorded {
		if isPart(row) {
			parts = append(parts, row)
			added += l.files[record{l.records.Table, &row}.text("file")]
		}
	}
	joined, err := recordRow(l.records.Table, values{"target": l.t.Name, "file": file, "job": l.id, "row_count": added, "staged": time.Now().UnixMilli()})
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
		delete(l.files, record{l.records.Table, &row}.text("file"))
	}
	l.files[file] = added
	l.recorded = append(slices.DeleteFunc(l.recorded, isPart), joined)
	return nil
}
