package mysql

import (
	"context"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

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
		// If the caller stops early, Read cancels the query, which closes the connection.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer s.calls.AllowLong()()
		ctx, call := s.calls.Await(ctx)
		defer call.End()
		ts := s.tableStatements(l)
		rows, err := s.conn.QueryContext(ctx, readText(ts), nil)
		if err != nil {
			yield(nil, s.sessionError(ctx, "read "+ts.label, err))
			return
		}
		values := make([]driver.Value, len(ts.columns))
		row := &change.Row{Op: cdc.Insert}
		for {
			if err = rows.Next(values); err != nil {
				break
			}
			call.Pause()
			if err = ts.decode(row, values); err != nil {
				cancel()
				_ = rows.Close()
				yield(nil, err)
				return
			}
			if !yield(row, nil) {
				cancel()
				_ = rows.Close()
				return
			}
			call.Resume()
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, s.sessionError(ctx, "read "+ts.label, err))
		}
		_ = rows.Close()
	}
}

func readText(ts *tableStatements) string {
	var columns []string
	for i := range ts.columns {
		c := &ts.columns[i]
		name := quote(c.name)
		switch c.kind {
		case kindFloat:
			// The server sends the sum as a DOUBLE. It would send the FLOAT as text, rounded to six
			// digits.
			name = "(" + name + " + 0e0)"
		case kindBit:
			name = "(" + name + " + 0)"
		}
		columns = append(columns, name)
	}
	text := "SELECT " + strings.Join(columns, ", ") + " FROM " + ts.table
	if ts.layout.Soft {
		text += " WHERE NOT " + quote(ts.columns[ts.layout.Meta(sqlsink.MetaDeleted)].name) + " <=> 1"
	}
	return text
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
	case int64:
		if c.Boolean && v&^1 == 0 {
			return strconv.AppendBool(dst, v == 1), nil
		}
		return strconv.AppendInt(dst, v, 10), nil
	case uint64:
		if c.Boolean && v&^1 == 0 {
			return strconv.AppendBool(dst, v == 1), nil
		}
		return strconv.AppendUint(dst, v, 10), nil
	case float64:
		if c.kind == kindFloat {
			return strconv.AppendFloat(dst, v, 'g', -1, 32), nil
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64), nil
	case float32:
		return strconv.AppendFloat(dst, float64(v), 'g', -1, 32), nil
	case []byte:
		return c.appendRawText(dst, v)
	}
	return dst, fmt.Errorf("the driver returned a %T", v)
}

func (c *columnEncoder) appendRawText(dst, v []byte) ([]byte, error) {
	switch c.kind {
	case kindDateTime, kindTimestamp:
		t, err := value.ParseInstant(v)
		if err != nil { // such as 0000-00-00 00:00:00, which eds never writes
			return rawjson.AppendQuoted(dst, v), nil
		}
		if dst, err = t.AppendText(append(dst, '"'), 'T'); err != nil {
			return dst, err
		}
		return append(dst, 'Z', '"'), nil
	case kindJSON:
		return append(dst, v...), nil
	case kindDecimal:
		return appendTrimmed(dst, v), nil
	case kindBytes:
		if !utf8.Valid(v) || strings.HasPrefix(string(v), `\x`) {
			return append(hex.AppendEncode(append(dst, `"\\x`...), v), '"'), nil
		}
	}
	if c.JSON && rawjson.Valid(v) == nil {
		return append(dst, v...), nil
	}
	return rawjson.AppendQuoted(dst, v), nil
}

// appendTrimmed appends a decimal number without the trailing zeros of its fraction.
func appendTrimmed(dst, v []byte) []byte {
	text := string(v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return append(dst, text...)
}
