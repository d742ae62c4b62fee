package sqlite

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// Read yields the rows of the layout's real table. It leaves out rows that are marked as deleted.
// Each row is valid until the next iteration.
func (s *fileSession) Read(ctx context.Context, l *sqlsink.Layout) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		stopped := false
		if err := s.db.Within(ctx, func() error {
			return s.read(l, func(row *change.Row) bool {
				stopped = !yield(row, nil)
				return !stopped
			})
		}); err != nil && !stopped {
			yield(nil, err)
		}
	}
}

func (s *fileSession) read(l *sqlsink.Layout, yield func(*change.Row) bool) error {
	sql, targets := selection(l)
	st, err := s.db.Prepare(sql)
	if err != nil {
		return fmt.Errorf("read table %q: %w", l.Real.Name, err)
	}
	defer st.Finalize()
	row := change.Row{Spans: make([]rawjson.Span, len(l.Table.Columns))}
	for {
		more, err := st.Step()
		if err != nil {
			return fmt.Errorf("read table %q: %w", l.Real.Name, err)
		}
		if !more {
			return nil
		}
		row.Image = row.Image[:0]
		clear(row.Spans)
		for i, t := range targets {
			start := len(row.Image)
			row.Image = appendStored(row.Image, t.Type, st, i)
			if len(row.Image) > start {
				row.Spans[t.Slot] = rawjson.Span{Start: uint32(start), End: uint32(len(row.Image))}
			}
		}
		if !yield(&row) {
			return nil
		}
	}
}

// selection returns a query that selects the source's columns, without eds's metadata columns and
// without rows that are marked as deleted. It also returns the targets of the selected columns, in
// the same order.
func selection(l *sqlsink.Layout) (sql string, targets []sqlsink.Target) {
	var columns []string
	where := ""
	for _, t := range l.Columns {
		if t.Slot >= 0 {
			columns = append(columns, here+"."+quote(t.Real.Name))
			targets = append(targets, t)
		}
		if t.Meta == sqlsink.MetaDeleted {
			where = fmt.Sprintf(" WHERE %s.%s IS NOT 1", here, quote(t.Real.Name))
		}
	}
	return fmt.Sprintf("SELECT %s FROM %s AS %s%s", strings.Join(columns, ", "), quote(l.Real.Name), here, where), targets
}

// appendStored appends value i of the current row of st as a raw JSON value. The parameter kind is
// the type of the source's column. If the value is NULL, appendStored appends nothing.
func appendStored(dst []byte, kind schema.Type, st *capi.Stmt, i int) []byte {
	quoted := kind == schema.String || kind == schema.Enum || kind == schema.DateTime
	start := len(dst)
	if quoted {
		dst = append(dst, '"')
	}
	switch st.Kind(i) {
	case capi.Null:
		return dst[:start]
	case capi.Integer:
		n := st.Int(i)
		if kind == schema.Boolean && n&^1 == 0 {
			return append(dst, [...]string{"false", "true"}[n]...)
		}
		dst = appendInt(dst, n)
	case capi.Real:
		dst = appendFloat(dst, st.Float(i))
	default:
		return appendStoredText(dst[:start], kind, st.Bytes(i))
	}
	if quoted {
		dst = append(dst, '"')
	}
	return dst
}

func appendStoredText(dst []byte, kind schema.Type, text []byte) []byte {
	switch kind {
	case schema.String, schema.Enum:
		return rawjson.AppendQuoted(dst, text)
	case schema.DateTime:
		start := len(dst)
		if t, err := value.ParseInstant(text); err == nil {
			if out, err := appendInstant(append(dst, '"'), t); err == nil {
				return append(out, '"')
			}
		}
		return rawjson.AppendQuoted(dst[:start], text)
	}
	if rawjson.Valid(text) == nil {
		return append(dst, text...)
	}
	return rawjson.AppendQuoted(dst, text)
}
