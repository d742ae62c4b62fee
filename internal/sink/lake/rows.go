package lake

import (
	"bytes"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/value"
)

// rowBlock is a block of rows of a Parquet file, stored column by column. Its values refer to
// memory of the events or of scratch.
type rowBlock struct {
	encoder *Encoder
	columns *columns
	table   *schema.Table // nil if the file has only eds's own columns
	nulls   []parquet.Value
	values  []parquet.Value // the value of row n and column c is at c*atOnce+n
	scratch []byte
	order   []int // slots of the previous row's members, in that row's order
	room    value.DigitBuffer
	rest    []byte
	count   int
}

func newRowBlock(e *Encoder, c *columns, t *schema.Table, nulls []parquet.Value) *rowBlock {
	return &rowBlock{encoder: e, columns: c, table: t, nulls: nulls, values: slices.Clone(nulls)}
}

// nulls returns the values of a block of rows in which every column is null.
func (c *columns) nulls() []parquet.Value {
	nulls := make([]parquet.Value, len(c.file.Columns())*atOnce)
	for i := range nulls {
		nulls[i] = parquet.NullValue().Level(0, 0, i/atOnce)
	}
	return nulls
}

// column returns the values of the column at a position, one per row.
func (r *rowBlock) column(position int) []parquet.Value {
	return r.values[position*atOnce:][:r.count]
}

// fill replaces the rows of the block with one row per event. Each row describes the change. It
// also has the columns of the row after the change, or of the deleted row.
func (r *rowBlock) fill(events []*cdc.Event) {
	copy(r.values, r.nulls)
	r.scratch, r.count = r.scratch[:0], 0
	for _, e := range events {
		r.add(e)
		r.count++
	}
}

func (r *rowBlock) add(e *cdc.Event) {
	image := e.After
	if image == nil {
		image = e.Before
	} else if e.Before != nil {
		r.json(ownBefore, e.Table, e.Before)
	}
	r.set(ownOperation, parquet.ByteArrayValue(r.hold(e.Op.String())), 0)
	start := len(r.scratch)
	r.scratch = e.Clock.AppendSortable(r.scratch)
	r.set(ownClock, parquet.ByteArrayValue(r.scratch[start:]), 0)
	r.set(ownImported, parquet.BooleanValue(e.Imported), 0)
	r.text(ownID, e.Table, e.ID)
	r.text(ownVersion, e.Table, e.ModelVersion)
	r.text(ownCompany, e.Table, e.CompanyID)
	r.text(ownLocation, e.Table, e.LocationID)
	r.text(ownUser, e.Table, e.UserID)
	r.json(ownKey, e.Table, e.Key)
	r.json(ownDiff, e.Table, e.Diff)
	switch {
	case e.Timestamp != 0:
		r.set(ownTime, parquet.Int64Value(time.UnixMilli(e.Timestamp).UnixMicro()), 1)
	case !e.Clock.IsZero():
		r.set(ownTime, parquet.Int64Value(e.Clock.Time().UnixMicro()), 1)
	}
	if e.Position.Sequence > 0 {
		r.set(ownSequence, parquet.Int64Value(int64(e.Position.Sequence)), 1)
	}
	r.image(e, image)
}

// at returns the place for a column's value in the current row.
func (r *rowBlock) at(position int) *parquet.Value { return &r.values[position*atOnce+r.count] }

// set sets one of eds's own columns in the current row.
func (r *rowBlock) set(column int, v parquet.Value, level int) {
	position := r.columns.own[column]
	*r.at(position) = v.Level(0, level, position)
}

// hold appends the text to scratch, and returns the copy in scratch.
func (r *rowBlock) hold(text string) []byte {
	start := len(r.scratch)
	r.scratch = append(r.scratch, text...)
	return r.scratch[start:]
}

func (r *rowBlock) text(column int, table, text string) {
	if text != "" {
		r.json(column, table, r.hold(text))
	}
}

func (r *rowBlock) json(column int, table string, raw []byte) {
	if raw != nil {
		r.set(column, parquet.ByteArrayValue(r.valid(raw, table, own[column].name)), 1)
	}
}

// valid returns raw as valid UTF-8. If raw is already valid, it returns raw itself.
func (r *rowBlock) valid(raw []byte, table, column string) []byte {
	if utf8.Valid(raw) {
		return raw
	}
	start := len(r.scratch)
	var flaws value.Flaw
	r.scratch, flaws = value.AppendValid(r.scratch, raw)
	r.adjusted(table, column, flaws)
	return r.scratch[start:]
}

func (r *rowBlock) adjusted(table, column string, flaws value.Flaw) {
	if flaws&value.UTF8 != 0 {
		r.encoder.adjusted(table, column, "invalid-utf8")
	}
	if flaws&value.Surrogate != 0 {
		r.encoder.adjusted(table, column, "surrogate")
	}
}

// image stores the members of the row in their columns. If a member has no column, or the column
// cannot hold the value, the member is added to the rest.
func (r *rowBlock) image(e *cdc.Event, image []byte) {
	r.rest = r.rest[:0]
	m, err := rawjson.OpenObject(image)
	for n := 0; err == nil && m.Next(); n++ {
		raw := m.Value()
		slot := r.slot(n, m.Name())
		if slot >= 0 && r.columns.slots[slot] >= 0 {
			position := r.columns.slots[slot]
			v, fits := r.value(e.Table, &r.table.Columns[slot], raw)
			if fits {
				*r.at(position) = v.Level(0, level(v), position)
				continue
			}
			r.encoder.adjusted(e.Table, r.table.Columns[slot].Name, "kept-as-json")
			*r.at(position) = parquet.NullValue().Level(0, 0, position)
		}
		r.keep(m.Name(), raw)
	}
	if image == nil || e.Op == cdc.Delete {
		r.fillKey(e)
	}
	if len(r.rest) > 0 {
		r.json(ownRest, e.Table, r.hold(string(append(r.rest, '}'))))
	}
}

// slot returns the slot of the column for a row's nth member, or -1 if the table has no such
// column. It first compares the name with that of the nth member of the previous row, because
// most rows of a table have their members in the same order.
func (r *rowBlock) slot(n int, name []byte) int {
	if r.table == nil {
		return -1
	}
	if n < len(r.order) {
		if slot := r.order[n]; slot >= 0 && r.table.Columns[slot].Name == string(name) {
			return slot
		}
		r.order[n] = r.table.Slot(name)
		return r.order[n]
	}
	r.order = append(r.order, r.table.Slot(name))
	return r.order[n]
}

// fillKey sets the key columns that the row lacks, using the event's key.
func (r *rowBlock) fillKey(e *cdc.Event) {
	if r.table == nil || e.Key == nil {
		return
	}
	var elements [][]byte
	_ = rawjson.Elements(e.Key, func(s rawjson.Span) error { // it was validated when the event was decoded
		elements = append(elements, e.Key[s.Start:s.End])
		return nil
	})
	if r.table.Keys == 1 && len(elements) > 1 {
		elements = elements[len(elements)-1:]
	}
	if len(elements) != r.table.Keys {
		return
	}
	for slot, raw := range elements {
		position := r.columns.slots[slot]
		if position < 0 || !r.at(position).IsNull() {
			continue
		}
		if v, fits := r.value(e.Table, &r.table.Columns[slot], raw); fits {
			*r.at(position) = v.Level(0, level(v), position)
		}
	}
}

// keep adds a member to the rest, the object of members without a column.
func (r *rowBlock) keep(name, raw []byte) {
	separator := byte(',')
	if len(r.rest) == 0 {
		separator = '{'
	}
	r.rest = append(rawjson.AppendQuoted(append(r.rest, separator), name), ':')
	r.rest = append(r.rest, raw...)
}

func level(v parquet.Value) int {
	if v.IsNull() {
		return 0
	}
	return 1
}

// value converts a JSON value to the type of a column. It returns false if the type cannot hold
// the value without loss.
func (r *rowBlock) value(table string, c *schema.Column, raw []byte) (parquet.Value, bool) {
	if rawjson.IsNull(raw) {
		return parquet.NullValue(), true
	}
	switch c.Type {
	case schema.DateTime:
		return instant(raw)
	case schema.Integer:
		n, err := value.ParseInt(r.room.For(raw), raw)
		return parquet.Int64Value(n), err == nil && isNumber(raw)
	case schema.Number:
		if !isNumber(raw) {
			return parquet.Value{}, false
		}
		f, exact, err := value.ParseFloat(r.room.For(raw), raw, 64)
		return parquet.DoubleValue(f), err == nil && exact
	case schema.Boolean:
		return parquet.BooleanValue(raw[0] == 't'), raw[0] == 't' || raw[0] == 'f'
	case schema.Object, schema.Array:
		return parquet.ByteArrayValue(r.valid(raw, table, c.Name)), true
	default:
		if !rawjson.IsString(raw) {
			return parquet.Value{}, false
		}
		if bytes.IndexByte(raw, '\\') < 0 {
			return parquet.ByteArrayValue(r.valid(raw[1:len(raw)-1], table, c.Name)), true
		}
		start := len(r.scratch)
		var flaws value.Flaw
		if r.scratch, flaws = value.AppendText(r.scratch, raw, value.NUL); flaws&value.Surrogate != 0 {
			return parquet.Value{}, false // JSON can hold it
		}
		r.adjusted(table, c.Name, flaws)
		return parquet.ByteArrayValue(r.scratch[start:]), true
	}
}

func isNumber(raw []byte) bool { return raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' }

// instant converts a JSON string to a number of microseconds. It returns false if the string is
// not an instant, or if microseconds cannot represent it without loss.
func instant(raw []byte) (parquet.Value, bool) {
	if !rawjson.IsString(raw) {
		return parquet.Value{}, false
	}
	at, err := value.ParseInstant(rawjson.Text(raw))
	if err != nil || at.Cut {
		return parquet.Value{}, false
	}
	t := at.Time()
	return parquet.Int64Value(t.UnixMicro()), t.Year() > -farthest && t.Year() < farthest
}

// farthest bounds the year of an instant. Up to this year, in either direction from year 0, an
// int64 can hold the microseconds since 1970.
const farthest = 290_000
