package snowflake

import (
	"context"
	"database/sql/driver"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Read yields the rows of the layout's real table. It leaves out rows that are marked as deleted.
// Each row is valid until the next iteration.
func (s *sqlSession) Read(ctx context.Context, l *sqlsink.Layout) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		sql, targets := s.tableStatements(l).selection()
		row := change.Row{Spans: make([]rawjson.Span, len(l.Table.Columns))}
		stopped := false
		err := s.each(ctx, "read "+s.tableStatements(l).label, sql, nil, func(_ []string, values []driver.Value) bool {
			row.Image = row.Image[:0]
			clear(row.Spans)
			for i, t := range targets {
				start := len(row.Image)
				row.Image = appendStored(row.Image, t.Type, t.Real.Native.(*attribute).kind, values[i])
				if len(row.Image) > start {
					row.Spans[t.Slot] = rawjson.Span{Start: uint32(start), End: uint32(len(row.Image))}
				}
			}
			stopped = !yield(&row, nil)
			return !stopped
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// selection returns a query that selects the source's columns, without eds's metadata columns and
// without rows that are marked as deleted. It also returns the targets of the selected columns, in
// the same order. The query converts values to text, except those of FLOAT columns, because their
// text may lose digits.
func (ts *tableStatements) selection() (sql string, targets []sqlsink.Target) {
	var columns []string
	where := ""
	for i, t := range ts.layout.Columns {
		if t.Slot >= 0 {
			expression := ts.name(i)
			if ts.columns[i].kind != kindFloat {
				expression = textExpression(expression, &ts.columns[i].attribute)
			}
			columns = append(columns, expression)
			targets = append(targets, t)
		}
		if t.Meta == sqlsink.MetaDeleted {
			where = " WHERE NOT COALESCE(" + ts.name(i) + ", FALSE)"
		}
	}
	return fmt.Sprintf("SELECT %s FROM %s%s", strings.Join(columns, ", "), ts.table, where), targets
}

// textOf returns a value from the driver as text. It returns false if the value is NULL.
func textOf(v driver.Value) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case []byte:
		return string(v), true
	case float64:
		switch {
		case math.IsNaN(v):
			return "NaN", true
		case math.IsInf(v, 0):
			return strings.TrimPrefix(strings.Replace(strconv.FormatFloat(v, 'g', -1, 64), "Inf", "Infinity", 1), "+"), true
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case time.Time:
		return v.UTC().Format(sqlsink.TimeFormat), true
	default:
		return fmt.Sprint(v), true
	}
}

// appendStored appends v, a value from the driver, as a raw JSON value. The parameter wanted is the
// type of the source's column, and stored is the kind of the real column. If v is NULL, it appends
// nothing.
func appendStored(dst []byte, wanted schema.Type, stored kind, v driver.Value) []byte {
	text, ok := textOf(v)
	if !ok {
		return dst
	}
	if stored == kindVariant || stored == kindObject || stored == kindArray {
		return append(dst, text...) // the text is JSON
	}
	switch wanted {
	case schema.String, schema.Enum, schema.DateTime:
		return rawjson.AppendQuoted(dst, text)
	case schema.Boolean:
		if stored == kindFixed && (text == "1" || text == "0") {
			return strconv.AppendBool(dst, text == "1")
		}
	case schema.Object, schema.Array:
		if stored != kindText {
			return rawjson.AppendQuoted(dst, text)
		}
	}
	if rawjson.Valid([]byte(text)) == nil {
		return append(dst, text...)
	}
	return rawjson.AppendQuoted(dst, text)
}
