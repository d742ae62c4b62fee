package sqlserver

import (
	"context"
	"database/sql/driver"
	"iter"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// Read yields the rows of a table while the server streams them. It leaves out rows that are marked
// as deleted. Each row is valid until the next iteration.
func (s *sqlSession) Read(ctx context.Context, l *sqlsink.Layout) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		ts := s.tableStatements(l)
		row := &change.Row{Op: cdc.Insert}
		more := true
		err := s.streamRows(ctx, "read "+ts.label, readText(ts), nil, func(values []driver.Value) (bool, error) {
			if err := ts.decode(row, values); err != nil {
				return false, err
			}
			more = yield(row, nil)
			return more, nil
		})
		if err != nil && more {
			yield(nil, err)
		}
	}
}

func readText(ts *tableStatements) string {
	text := "SELECT "
	for i := range ts.columns {
		if i > 0 {
			text += ", "
		}
		text += ts.columns[i].readExpression()
	}
	text += " FROM " + ts.table
	if ts.layout.Soft {
		name := ts.columns[ts.layout.Meta(sqlsink.MetaDeleted)].name
		text += " WHERE " + name + " IS NULL OR " + name + " = 0"
	}
	return text
}

// readExpression returns the SQL expression that selects the column in a type that appendRaw
// expects.
func (c *columnEncoder) readExpression() string {
	switch {
	case c.kind == kindBinary:
		return "CONVERT(VARCHAR(MAX), CAST(" + c.name + " AS VARBINARY(MAX)), 1)"
	case c.kind == kindCast:
		return "CAST(" + c.name + " AS NVARCHAR(MAX))"
	case c.base == "money", c.base == "smallmoney":
		return "CAST(" + c.name + " AS " + c.parameter() + ")"
	}
	return c.name
}

// decode decodes the server's values into row. It reuses the memory of row.
func (ts *tableStatements) decode(row *change.Row, values []driver.Value) error {
	return ts.layout.ReadRow(row, func(dst []byte, i int) ([]byte, error) {
		if values[i] == nil {
			return dst, nil
		}
		return ts.columns[i].appendRaw(dst, values[i])
	})
}

// appendRaw appends v, a value from the driver, as a raw JSON value.
func (c *columnEncoder) appendRaw(dst []byte, v driver.Value) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		bits := 64
		if c.kind == kindReal {
			bits = 32
		}
		return value.AppendFloat(dst, v, bits), nil
	case []byte: // the text of a decimal number
		return append(dst, v...), nil
	case time.Time:
		if c.kind == kindDate {
			return append(v.UTC().AppendFormat(append(dst, '"'), time.DateOnly), '"'), nil
		}
		return append(v.UTC().AppendFormat(append(dst, '"'), sqlsink.TimeFormat), '"'), nil
	case string:
		if c.JSON && isJSON(v) {
			return append(dst, v...), nil
		}
		return rawjson.AppendQuoted(dst, v), nil
	}
	return dst, value.ErrNotNumber
}

// isJSON reports whether text is valid JSON. A JSON column may hold other text, because it is a
// text column that other programs can write.
func isJSON(text string) bool { return rawjson.Valid([]byte(text)) == nil }
