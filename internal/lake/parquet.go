package lake

import (
	"fmt"
	"io"
	"slices"
	"time"

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

// own are the columns that say what the change is, beside those of the row.
var own = map[string]parquet.Node{
	"_eds_operation": repeated(parquet.String()),
	"_eds_id":        parquet.Optional(text(parquet.String())),                               // of the change
	"_eds_version":   parquet.Optional(repeated(parquet.String())),                           // of the table's schema
	"_eds_time":      parquet.Optional(parquet.TimestampAdjusted(parquet.Microsecond, true)), // when the change happened
	"_eds_clock":     text(parquet.String()),                                                 // thirty digits that sort as changes do
	"_eds_sequence":  parquet.Optional(parquet.Int(64)),                                      // place in the stream; null of an imported row
	"_eds_key":       parquet.Optional(text(parquet.JSON())),                                 // the primary key, as an array
	"_eds_company":   parquet.Optional(repeated(parquet.String())),
	"_eds_location":  parquet.Optional(repeated(parquet.String())),
	"_eds_user":      parquet.Optional(repeated(parquet.String())),
	"_eds_before":    parquet.Optional(text(parquet.JSON())), // of an UPDATE, the row as it was
	"_eds_diff":      parquet.Optional(text(parquet.JSON())), // of an UPDATE, the names of the columns that changed
	"_eds_imported":  parquet.Leaf(parquet.BooleanType),
	"_eds_rest":      parquet.Optional(text(parquet.JSON())), // of the row, what no column holds
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
	own   map[string]int
	slots []int // by slot of the table; -1 where the file has no such column
	count int
	file  *parquet.Schema
}

func columnsOf(name string, t *schema.Table) columns {
	group := make(parquet.Group, len(own))
	for column, node := range own {
		group[column] = node
	}
	c := columns{own: make(map[string]int, len(own))}
	if t != nil {
		c.slots = make([]int, len(t.Columns))
		for _, column := range t.Columns {
			if _, taken := own[column.Name]; !taken && column.Name != "" {
				group[column.Name] = node(column.Type)
			}
		}
	}
	c.file = parquet.NewSchema(name, group)
	c.count = len(c.file.Columns())
	places := make(map[string]int, c.count)
	for i, path := range c.file.Columns() {
		places[path[0]] = i
	}
	for column := range own {
		c.own[column] = places[column]
	}
	for slot := range c.slots {
		c.slots[slot] = -1
		if _, taken := own[t.Columns[slot].Name]; taken {
			continue
		}
		if place, ok := places[t.Columns[slot].Name]; ok {
			c.slots[slot] = place
		}
	}
	return c
}

func (e *Encoder) writeParquet(w io.Writer, p *Part) error {
	c := columnsOf(p.Table, p.Schema)
	out := parquet.NewGenericWriter[any](w, c.file, parquet.Compression(e.codec), parquet.MaxRowsPerRowGroup(rowsPerGroup),
		parquet.DataPageStatistics(true), parquet.CreatedBy("eds", "1", ""), parquet.KeyValueMetadata("eds.table", p.Table))
	const chunk = 256
	rows := make([]parquet.Row, 0, chunk)
	r := &rowWriter{encoder: e, columns: c, table: p.Schema}
	for i, event := range p.Events {
		rows = append(rows, r.row(event))
		if len(rows) == chunk || i == len(p.Events)-1 {
			if _, err := out.WriteRows(rows); err != nil {
				return fmt.Errorf("write parquet: %w", err)
			}
			rows = rows[:0]
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write parquet: %w", err)
	}
	return nil
}

// rowWriter makes rows of a file.
type rowWriter struct {
	encoder *Encoder
	columns columns
	table   *schema.Table // nil: rows have no columns of their own
	room    value.Room
	rest    []byte
	values  parquet.Row
}

// row returns the row of an event: what the change is, and the row that it left,
// or the one that it deleted.
func (r *rowWriter) row(e *cdc.Event) parquet.Row {
	r.values = make(parquet.Row, r.columns.count)
	for i := range r.values {
		r.values[i] = parquet.NullValue().Level(0, 0, i)
	}
	image := e.After
	if image == nil {
		image = e.Before
	} else if e.Before != nil {
		r.json("_eds_before", e.Table, e.Before)
	}
	r.set("_eds_operation", parquet.ByteArrayValue([]byte(e.Op.String())), 0)
	r.set("_eds_clock", parquet.ByteArrayValue([]byte(e.Clock.Sortable())), 0)
	r.set("_eds_imported", parquet.BooleanValue(e.Imported), 0)
	r.text("_eds_id", e.Table, e.ID)
	r.text("_eds_version", e.Table, e.ModelVersion)
	r.text("_eds_company", e.Table, e.CompanyID)
	r.text("_eds_location", e.Table, e.LocationID)
	r.text("_eds_user", e.Table, e.UserID)
	r.json("_eds_key", e.Table, e.Key)
	r.json("_eds_diff", e.Table, e.Diff)
	switch {
	case e.Timestamp != 0:
		r.set("_eds_time", parquet.Int64Value(time.UnixMilli(e.Timestamp).UnixMicro()), 1)
	case !e.Clock.IsZero():
		r.set("_eds_time", parquet.Int64Value(e.Clock.Time().UnixMicro()), 1)
	}
	if e.Position.Sequence > 0 {
		r.set("_eds_sequence", parquet.Int64Value(int64(e.Position.Sequence)), 1)
	}
	r.image(e, image)
	return r.values
}

func (r *rowWriter) set(column string, v parquet.Value, level int) {
	place := r.columns.own[column]
	r.values[place] = v.Level(0, level, place)
}

func (r *rowWriter) text(column, table, text string) {
	if text == "" {
		return
	}
	clean, flaws := value.AppendValid(nil, []byte(text))
	r.count(table, column, flaws)
	r.set(column, parquet.ByteArrayValue(clean), 1)
}

func (r *rowWriter) json(column, table string, raw []byte) {
	if raw == nil {
		return
	}
	clean, flaws := value.AppendValid(nil, raw)
	r.count(table, column, flaws)
	r.set(column, parquet.ByteArrayValue(clean), 1)
}

func (r *rowWriter) count(table, column string, flaws value.Flaw) {
	if flaws&value.UTF8 != 0 {
		r.encoder.adjusted(table, column, "invalid-utf8")
	}
	if flaws&value.Surrogate != 0 {
		r.encoder.adjusted(table, column, "surrogate")
	}
}

// image puts the members of the row into their columns, and what has none, or
// does not fit it, into the rest.
func (r *rowWriter) image(e *cdc.Event, image []byte) {
	r.rest = r.rest[:0]
	m, err := rawjson.OpenObject(image)
	for err == nil && m.Next() {
		raw := m.Value()
		slot := -1
		if r.table != nil {
			slot = r.table.Slot(m.Name())
		}
		if slot >= 0 && r.columns.slots[slot] >= 0 {
			place := r.columns.slots[slot]
			v, fits := r.value(e.Table, &r.table.Columns[slot], raw)
			if fits {
				r.values[place] = v.Level(0, level(v), place)
				continue
			}
			r.encoder.adjusted(e.Table, r.table.Columns[slot].Name, "kept-as-json")
			r.values[place] = parquet.NullValue().Level(0, 0, place)
		}
		r.keep(m.Name(), raw)
	}
	if image == nil || e.Op == cdc.Delete {
		r.fillKey(e)
	}
	if len(r.rest) > 0 {
		r.json("_eds_rest", e.Table, append(slices.Clone(r.rest), '}'))
	}
}

// fillKey puts the event's own key into the key columns that the row lacks.
func (r *rowWriter) fillKey(e *cdc.Event) {
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
		if place < 0 || !r.values[place].IsNull() {
			continue
		}
		if v, fits := r.value(e.Table, &r.table.Columns[slot], raw); fits {
			r.values[place] = v.Level(0, level(v), place)
		}
	}
}

// keep adds a member to the rest.
func (r *rowWriter) keep(name, raw []byte) {
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
func (r *rowWriter) value(table string, c *schema.Column, raw []byte) (parquet.Value, bool) {
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
		clean, flaws := value.AppendValid(nil, raw)
		r.count(table, c.Name, flaws)
		return parquet.ByteArrayValue(clean), true
	default:
		if !rawjson.IsString(raw) {
			return parquet.Value{}, false
		}
		text, flaws := value.AppendText(nil, raw, value.NUL)
		if flaws&value.Surrogate != 0 {
			return parquet.Value{}, false // JSON can hold it
		}
		r.count(table, c.Name, flaws)
		return parquet.ByteArrayValue(text), true
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
