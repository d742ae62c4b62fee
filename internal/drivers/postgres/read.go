package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
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
		// If the caller stops early, Read cancels the query, which closes the session.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer s.calls.AllowLong()()
		within, call := s.calls.Await(ctx)
		defer call.End()
		ts := s.tableStatements(l)
		formats := make([]int16, 0, len(ts.columns))
		for i := range ts.columns {
			formats = append(formats, ts.columns[i].format())
		}
		result := s.pg.ExecParams(within, readText(ts), nil, nil, nil, formats)
		row := &change.Row{Op: cdc.Insert}
		for ; result.NextRow(); call.Resume() {
			call.Pause()
			if err := ts.decode(row, result.Values()); err != nil {
				cancel()
				_, _ = result.Close()
				yield(nil, err)
				return
			}
			if !yield(row, nil) {
				cancel()
				_, _ = result.Close()
				return
			}
		}
		if _, err := result.Close(); err != nil {
			yield(nil, s.sessionError("read "+ts.label, sqlsink.CallError(within, err)))
		}
	}
}

func readText(ts *tableStatements) string {
	text := "SELECT " + strings.Join(ts.names(0), ", ") + " FROM " + ts.table
	if ts.layout.Soft {
		text += " WHERE " + quote(ts.columns[ts.layout.Meta(sqlsink.MetaDeleted)].name) + " IS NOT TRUE"
	}
	return text
}

// format returns the format code in which the server sends the column's values: 1 (binary) for
// instants and floats, because session settings affect their text, and 0 (text) for other types.
func (c *columnEncoder) format() int16 {
	switch c.kind {
	case kindTimestampTZ, kindTimestamp, kindDate, kindFloat4, kindFloat8:
		return 1
	}
	return 0
}

// decode decodes the server's values into row. It reuses the memory of row.
func (ts *tableStatements) decode(row *change.Row, values [][]byte) error {
	return ts.layout.ReadRow(row, func(dst []byte, i int) ([]byte, error) {
		if values[i] == nil {
			return dst, nil
		}
		return ts.columns[i].appendRaw(dst, values[i])
	})
}

// appendRaw appends v, a value from the server, as a raw JSON value.
func (c *columnEncoder) appendRaw(dst, v []byte) ([]byte, error) {
	switch c.kind {
	case kindBool:
		if string(v) == "t" {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case kindInt2, kindInt4, kindInt8, kindJSON, kindJSONB:
		return append(dst, v...), nil
	case kindFloat4:
		if len(v) != 4 {
			return dst, value.ErrNotNumber
		}
		return appendFloat(dst, float64(math.Float32frombits(binary.BigEndian.Uint32(v))), 32), nil
	case kindFloat8:
		if len(v) != 8 {
			return dst, value.ErrNotNumber
		}
		return appendFloat(dst, math.Float64frombits(binary.BigEndian.Uint64(v)), 64), nil
	case kindNumeric:
		if c := v[len(v)-1]; c-'0' > 9 { // NaN, Infinity
			return rawjson.AppendQuoted(dst, v), nil
		}
		return append(dst, v...), nil
	case kindTimestampTZ, kindTimestamp:
		if len(v) != 8 {
			return dst, value.ErrNotInstant
		}
		return appendInstant(dst, int64(binary.BigEndian.Uint64(v))), nil
	case kindDate:
		if len(v) != 4 {
			return dst, value.ErrNotInstant
		}
		return appendDate(dst, int32(binary.BigEndian.Uint32(v))), nil
	}
	return rawjson.AppendQuoted(dst, v), nil
}

// appendFloat appends f as the shortest number that parses to the same value, or as a JSON string
// if f is not finite. The parameter bits is the size of the column's type: 32 or 64.
func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits)
}

// epoch2000 is PostgreSQL's epoch, 2000-01-01, in seconds since 1970.
const epoch2000 = epochDays * 86400

// appendInstant appends the instant that is the given number of microseconds after 2000, as a JSON
// string in RFC 3339 and UTC. A negative year, or a year of more than four digits, gets a sign and
// six digits.
func appendInstant(dst []byte, micros int64) []byte {
	switch micros {
	case math.MaxInt64:
		return append(dst, `"infinity"`...)
	case math.MinInt64:
		return append(dst, `"-infinity"`...)
	}
	seconds := value.FloorDiv(micros, 1_000_000)
	t := time.Unix(seconds+epoch2000, (micros-seconds*1_000_000)*1000).UTC()
	dst = appendYear(append(dst, '"'), t.Year())
	return append(t.AppendFormat(dst, "-01-02T15:04:05.000000Z"), '"')
}

func appendDate(dst []byte, days int32) []byte {
	switch days {
	case math.MaxInt32:
		return append(dst, `"infinity"`...)
	case math.MinInt32:
		return append(dst, `"-infinity"`...)
	}
	t := time.Unix((int64(days)+epochDays)*86400, 0).UTC()
	dst = appendYear(append(dst, '"'), t.Year())
	return append(t.AppendFormat(dst, "-01-02"), '"')
}

func appendYear(dst []byte, year int) []byte {
	switch {
	case year < 0:
		return fmt.Appendf(dst, "-%06d", -year)
	case year > 9999:
		return fmt.Appendf(dst, "+%06d", year)
	default:
		return fmt.Appendf(dst, "%04d", year)
	}
}
