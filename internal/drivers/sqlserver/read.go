package sqlserver

import (
	"context"
	"database/sql/driver"
	"iter"
	"math"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/value"
)

// Read yields the rows of a table as they are streamed by the server.
func (s *session) Read(ctx context.Context, l *sqlsink.Layout) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		sh := s.shape(l)
		row := &change.Row{Op: cdc.Insert}
		going := true
		err := s.stream(ctx, "read "+sh.label, readText(sh), nil, func(values []driver.Value) (bool, error) {
			if err := sh.decode(row, values); err != nil {
				return false, err
			}
			going = yield(row, nil)
			return going, nil
		})
		if err != nil && going {
			yield(nil, err)
		}
	}
}

func readText(sh *shape) string {
	text := "SELECT "
	for i := range sh.columns {
		if i > 0 {
			text += ", "
		}
		text += sh.columns[i].readable()
	}
	text += " FROM " + sh.table
	if sh.layout.Soft {
		for i, t := range sh.layout.Columns {
			if t.Meta == sqlsink.MetaDeleted {
				name := sh.columns[i].name
				text += " WHERE " + name + " IS NULL OR " + name + " = 0"
			}
		}
	}
	return text
}

// readable is the expression by which a column is read.
func (c *column) readable() string {
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

// decode makes a row of the server's values, in the memory of the last one.
func (sh *shape) decode(row *change.Row, values []driver.Value) error {
	return sh.layout.ReadRow(row, func(dst []byte, i int) ([]byte, error) {
		if values[i] == nil {
			return dst, nil
		}
		return sh.columns[i].appendRaw(dst, values[i])
	})
}

// appendRaw appends the raw JSON value that stands for a value of the driver.
func (c *column) appendRaw(dst []byte, v driver.Value) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		return c.appendFloat(dst, v), nil
	case []byte: // of a decimal
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

// isJSON reports whether text, of a column that another tool may have filled, is JSON.
func isJSON(text string) bool { return rawjson.Valid([]byte(text)) == nil }

// appendFloat appends a float's shortest exact form, as JSON writes it.
func (c *column) appendFloat(dst []byte, f float64) []byte {
	bits := 64
	if c.kind == kindReal {
		bits = 32
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, bits)
}
