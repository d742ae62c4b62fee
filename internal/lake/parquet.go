package lake

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/compress/gzip"
	"github.com/parquet-go/parquet-go/compress/uncompressed"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/value"
)

// The columns that say what the change is, beside those of the row.
const (
	ownOperation = iota
	ownID
	ownVersion
	ownTime
	ownClock
	ownSequence
	ownKey
	ownCompany
	ownLocation
	ownUser
	ownBefore
	ownDiff
	ownImported
	ownRest
	ownColumns
)

// own are their names and types.
var own = [ownColumns]struct {
	name string
	node parquet.Node
}{
	ownOperation: {"_eds_operation", repeated(parquet.String())},
	ownID:        {"_eds_id", parquet.Optional(text(parquet.String()))},
	ownVersion:   {"_eds_version", parquet.Optional(repeated(parquet.String()))},                        // of the table's schema
	ownTime:      {"_eds_time", parquet.Optional(parquet.TimestampAdjusted(parquet.Microsecond, true))}, // when the change happened
	ownClock:     {"_eds_clock", text(parquet.String())},                                                // thirty digits that sort as changes do
	ownSequence:  {"_eds_sequence", parquet.Optional(parquet.Int(64))},                                  // place in the stream; null of an imported row
	ownKey:       {"_eds_key", parquet.Optional(text(parquet.JSON()))},                                  // the primary key, as an array
	ownCompany:   {"_eds_company", parquet.Optional(repeated(parquet.String()))},
	ownLocation:  {"_eds_location", parquet.Optional(repeated(parquet.String()))},
	ownUser:      {"_eds_user", parquet.Optional(repeated(parquet.String()))},
	ownBefore:    {"_eds_before", parquet.Optional(text(parquet.JSON()))}, // of an UPDATE, the row as it was
	ownDiff:      {"_eds_diff", parquet.Optional(text(parquet.JSON()))},   // of an UPDATE, the names of the columns that changed
	ownImported:  {"_eds_imported", parquet.Leaf(parquet.BooleanType)},
	ownRest:      {"_eds_rest", parquet.Optional(text(parquet.JSON()))}, // of the row, what no column holds
}

// isOwn reports whether a column of the table would have the name of one of ours.
func isOwn(name string) bool {
	for i := range own {
		if own[i].name == name {
			return true
		}
	}
	return false
}

// text is a column of texts one behind the other, which every reader knows how to
// read; repeated is one of few texts that come again and again.
func text(n parquet.Node) parquet.Node     { return parquet.Encoded(n, &parquet.Plain) }
func repeated(n parquet.Node) parquet.Node { return parquet.Encoded(n, &parquet.RLEDictionary) }

// rowsPerGroup bounds the rows that are in memory before they are written.
const rowsPerGroup = 100_000

// codec is how pages are compressed.
func (c Compression) codec() compress.Codec {
	switch c {
	case Gzip:
		return &gzip.Codec{Level: gzip.BestSpeed}
	case Zstd:
		return &zstd.Codec{Level: zstd.SpeedFastest}
	default:
		return &uncompressed.Codec{}
	}
}

// node returns the type of a column. All are optional: a row may lack any.
func node(t schema.Type) parquet.Node {
	switch t {
	case schema.DateTime:
		return parquet.Optional(parquet.TimestampAdjusted(parquet.Microsecond, true))
	case schema.Integer:
		return parquet.Optional(parquet.Int(64))
	case schema.Number:
		return parquet.Optional(parquet.Leaf(parquet.DoubleType))
	case schema.Boolean:
		return parquet.Optional(parquet.Leaf(parquet.BooleanType))
	case schema.Object, schema.Array:
		return parquet.Optional(text(parquet.JSON()))
	case schema.Enum:
		return parquet.Optional(repeated(parquet.String()))
	default:
		return parquet.Optional(text(parquet.String()))
	}
}

// columns are where in a file's rows values stand.
type columns struct {
	own   [ownColumns]int
	slots []int // by slot of the table; -1 where the file has no such column
	file  *parquet.Schema
}

func columnsOf(name string, t *schema.Table) *columns {
	group := make(parquet.Group, ownColumns)
	c := &columns{}
	if t != nil {
		c.slots = make([]int, len(t.Columns))
		for slot, column := range t.Columns {
			if c.slots[slot] = -1; column.Name != "" && !isOwn(column.Name) {
				group[column.Name] = node(column.Type)
			}
		}
	}
	for _, column := range own {
		group[column.name] = column.node
	}
	c.file = parquet.NewSchema(name, group)
	places := make(map[string]int, len(group))
	for i, path := range c.file.Columns() {
		places[path[0]] = i
	}
	for i := range own {
		c.own[i] = places[own[i].name]
	}
	for slot := range c.slots {
		if place, ok := places[t.Columns[slot].Name]; ok && !isOwn(t.Columns[slot].Name) {
			c.slots[slot] = place
		}
	}
	return c
}

// writeParquet writes the part.
func (e *Encoder) writeParquet(w io.Writer, p *Part) error {
	c := columnsOf(p.Table, p.Schema)
	out := parquet.NewGenericWriter[any](w, c.file, parquet.Compression(e.codec),
		parquet.DataPageStatistics(true), parquet.CreatedBy("eds", "1", ""), parquet.KeyValueMetadata("eds.table", p.Table))
	grouped := 0 // rows of the present group
	nulls := c.nulls()
	err := ahead(p.Events, func() *rows { return newRows(e, c, p.Schema, nulls) }, (*rows).fill, func(r *rows) error {
		if grouped += r.count; grouped > rowsPerGroup {
			if err := out.Flush(); err != nil {
				return err
			}
			grouped = r.count
		}
		for i, column := range out.ColumnWriters() {
			if _, err := column.WriteRowValues(r.column(i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return fmt.Errorf("write parquet: %w", err)
	}
	return nil
}

// rows are some rows of a file, column by column. What their values refer to is
// the events' own, or in scratch.
type rows struct {
	encoder *Encoder
	columns *columns
	table   *schema.Table // nil: rows have no columns of their own
	nulls   []parquet.Value
	values  []parquet.Value // of the nth row and column c at c*atOnce+n
	scratch []byte
	order   []int // slots of the members of the row before, in their order
	room    value.Room
	rest    []byte
	count   int
}

func newRows(e *Encoder, c *columns, t *schema.Table, nulls []parquet.Value) *rows {
	return &rows{encoder: e, columns: c, table: t, nulls: nulls, values: slices.Clone(nulls)}
}

// nulls are the values of rows that hold nothing.
func (c *columns) nulls() []parquet.Value {
	nulls := make([]parquet.Value, len(c.file.Columns())*atOnce)
	for i := range nulls {
		nulls[i] = parquet.NullValue().Level(0, 0, i/atOnce)
	}
	return nulls
}

// column returns the values of a column.
func (r *rows) column(place int) []parquet.Value {
	return r.values[place*atOnce:][:r.count]
}

// fill makes the rows of events: what each change is, and the row that it left, or
// the one that it deleted.
func (r *rows) fill(events []*cdc.Event) {
	copy(r.values, r.nulls)
	r.scratch, r.count = r.scratch[:0], 0
	for _, e := range events {
		r.add(e)
		r.count++
	}
}

func (r *rows) add(e *cdc.Event) {
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

// at returns where the value of a column of the row that is made stands.
func (r *rows) at(place int) *parquet.Value { return &r.values[place*atOnce+r.count] }

// set sets one of our own columns.
func (r *rows) set(column int, v parquet.Value, level int) {
	place := r.columns.own[column]
	*r.at(place) = v.Level(0, level, place)
}

// hold returns the text in scratch.
func (r *rows) hold(text string) []byte {
	start := len(r.scratch)
	r.scratch = append(r.scratch, text...)
	return r.scratch[start:]
}

func (r *rows) text(column int, table, text string) {
	if text != "" {
		r.json(column, table, r.hold(text))
	}
}

func (r *rows) json(column int, table string, raw []byte) {
	if raw != nil {
		r.set(column, parquet.ByteArrayValue(r.valid(raw, table, own[column].name)), 1)
	}
}

// valid returns the text as valid UTF-8: itself, where it is.
func (r *rows) valid(raw []byte, table, column string) []byte {
	if utf8.Valid(raw) {
		return raw
	}
	start := len(r.scratch)
	var flaws value.Flaw
	r.scratch, flaws = value.AppendValid(r.scratch, raw)
	r.adjusted(table, column, flaws)
	return r.scratch[start:]
}

func (r *rows) adjusted(table, column string, flaws value.Flaw) {
	if flaws&value.UTF8 != 0 {
		r.encoder.adjusted(table, column, "invalid-utf8")
	}
	if flaws&value.Surrogate != 0 {
		r.encoder.adjusted(table, column, "surrogate")
	}
}

// image puts the members of the row into their columns, and what has none, or
// does not fit it, into the rest.
func (r *rows) image(e *cdc.Event, image []byte) {
	r.rest = r.rest[:0]
	m, err := rawjson.OpenObject(image)
	for n := 0; err == nil && m.Next(); n++ {
		raw := m.Value()
		slot := r.slot(n, m.Name())
		if slot >= 0 && r.columns.slots[slot] >= 0 {
			place := r.columns.slots[slot]
			v, fits := r.value(e.Table, &r.table.Columns[slot], raw)
			if fits {
				*r.at(place) = v.Level(0, level(v), place)
				continue
			}
			r.encoder.adjusted(e.Table, r.table.Columns[slot].Name, "kept-as-json")
			*r.at(place) = parquet.NullValue().Level(0, 0, place)
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

// slot returns that of the column of the nth member of a row, -1 where there is none.
// Rows of one table mostly have their members in one order.
func (r *rows) slot(n int, name []byte) int {
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

// fillKey puts the event's own key into the key columns that the row lacks.
func (r *rows) fillKey(e *cdc.Event) {
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
		place := r.columns.slots[slot]
		if place < 0 || !r.at(place).IsNull() {
			continue
		}
		if v, fits := r.value(e.Table, &r.table.Columns[slot], raw); fits {
			*r.at(place) = v.Level(0, level(v), place)
		}
	}
}

// keep adds a member to the rest.
func (r *rows) keep(name, raw []byte) {
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

// value returns what a column holds for a JSON value; false where its type can't
// hold that without loss.
func (r *rows) value(table string, c *schema.Column, raw []byte) (parquet.Value, bool) {
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

// instant reads an instant that a number of microseconds holds whole.
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

// farthest is a year whose distance from 1970 in microseconds is an int64.
const farthest = 290_000
