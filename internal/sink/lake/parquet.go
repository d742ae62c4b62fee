package lake

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/compress/gzip"
	"github.com/parquet-go/parquet-go/compress/uncompressed"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/shopmonkeyus/eds/internal/schema"
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
