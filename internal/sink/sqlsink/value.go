package sqlsink

import (
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// TimeFormat is how instants are written as text: RFC 3339 in UTC, microseconds.
const TimeFormat = "2006-01-02T15:04:05.000000Z"

// Raw returns the raw JSON value that the column gets from row: nil for NULL. A
// metadata column's is built in scratch, which is returned grown.
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

// OpName returns what _eds_op says of a row; the rows of a snapshot are inserts.
func OpName(op cdc.Op) string {
	if op == 0 {
		return cdc.Insert.String()
	}
	return op.String()
}
