package sqlsink

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// TimeFormat is the format of instants as text: RFC 3339 in UTC with microseconds.
const TimeFormat = "2006-01-02T15:04:05.000000Z"

// Raw returns the raw JSON value of the column in row, or nil for NULL. It appends the value of a
// metadata column to scratch. The result grown is scratch, which may have been reallocated.
func (t *Target) Raw(row *change.Row, synced time.Time, scratch []byte) (raw, grown []byte) {
	if t.Slot >= 0 {
		raw = row.Value(t.Slot)
		if rawjson.IsNull(raw) {
			raw = nil
		}
		return raw, scratch
	}
	start := len(scratch)
	switch t.Meta {
	case MetaOp:
		scratch = rawjson.AppendQuoted(scratch, OpName(row.Op))
	case MetaVersion:
		scratch = rawjson.AppendQuoted(scratch, row.Clock.Sortable())
	case MetaSynced:
		scratch = append(scratch, '"')
		scratch = synced.UTC().AppendFormat(scratch, TimeFormat)
		scratch = append(scratch, '"')
	case MetaDeleted:
		if row.Op == cdc.Delete {
			scratch = append(scratch, "true"...)
		} else {
			scratch = append(scratch, "false"...)
		}
	}
	return scratch[start:len(scratch):len(scratch)], scratch
}

// OpName returns the value of the column _eds_op. A row of a snapshot has no operation, and
// counts as an insert.
func OpName(op cdc.Op) string {
	if op == 0 {
		return cdc.Insert.String()
	}
	return op.String()
}
