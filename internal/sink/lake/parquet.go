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

// Indexes of eds's own columns, which describe the change. A file also has the columns of the
// row.
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

// own lists the names and types of eds's own columns.
var own = [ownColumns]struct {
	name string
	node parquet.Node
}{
	ownOperation: {"_eds_operation", repeated(parquet.String())},
	ownID:        {"_eds_id", parquet.Optional(text(parquet.String()))},
	ownVersion:   {"_eds_version", parquet.Optional(repeated(parquet.String()))}, // version of the table's schema
	ownTime:      {"_eds_time", parquet.Optional(instantNode())},                 // when the change happened
	ownClock:     {"_eds_clock", text(parquet.String())},                         // thirty digits that sort like changes
	ownSequence:  {"_eds_sequence", parquet.Optional(parquet.Int(64))},           // sequence in the stream; null for an imported row
	ownKey:       {"_eds_key", parquet.Optional(text(parquet.JSON()))},           // the primary key, as an array
	ownCompany:   {"_eds_company", parquet.Optional(repeated(parquet.String()))},
	ownLocation:  {"_eds_location", parquet.Optional(repeated(parquet.String()))},
	ownUser:      {"_eds_user", parquet.Optional(repeated(parquet.String()))},
	ownBefore:    {"_eds_before", parquet.Optional(text(parquet.JSON()))}, // the row before an UPDATE
	ownDiff:      {"_eds_diff", parquet.Optional(text(parquet.JSON()))},   // the names of the columns that an UPDATE changed
	ownImported:  {"_eds_imported", parquet.Leaf(parquet.BooleanType)},
	ownRest:      {"_eds_rest", parquet.Optional(text(parquet.JSON()))}, // members of the row that no column can hold, as an object
}

// isOwn reports whether one of eds's own columns has the given name.
func isOwn(name string) bool {
	for i := range own {
		if own[i].name == name {
			return true
		}
	}
	return false
}

// text sets the encoding for a column whose texts are mostly different. Every reader supports this
// encoding. The function repeated sets the encoding for a column that has few different texts.
func text(n parquet.Node) parquet.Node     { return parquet.Encoded(n, &parquet.Plain) }
func repeated(n parquet.Node) parquet.Node { return parquet.Encoded(n, &parquet.RLEDictionary) }

// instantNode returns the type of an instant: microseconds since 1970, in UTC.
func instantNode() parquet.Node { return parquet.TimestampAdjusted(parquet.Microsecond, true) }

// rowsPerGroup is the maximum number of rows in a row group, which stays in memory until it is
// written.
const rowsPerGroup = 100_000

// codec returns the Parquet codec that compresses pages.
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

// node returns the Parquet type of a column. All columns are optional, because a row may lack any
// of them.
func node(t schema.Type) parquet.Node {
	switch t {
	case schema.DateTime:
		return parquet.Optional(instantNode())
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

// columns are the positions of columns in a file.
type columns struct {
	own   [ownColumns]int // positions of eds's own columns
	slots []int           // positions by slot of the table; -1 if the file has no such column
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
	positions := make(map[string]int, len(group))
	for i, path := range c.file.Columns() {
		positions[path[0]] = i
	}
	for i := range own {
		c.own[i] = positions[own[i].name]
	}
	for slot := range c.slots {
		if position, ok := positions[t.Columns[slot].Name]; ok && !isOwn(t.Columns[slot].Name) {
			c.slots[slot] = position
		}
	}
	return c
}

// writeParquet writes the part as a Parquet file.
func (e *Encoder) writeParquet(w io.Writer, p *Part) error {
	c := columnsOf(p.Table, p.Schema)
	out := parquet.NewGenericWriter[any](w, c.file, parquet.Compression(e.codec),
		parquet.DataPageStatistics(true), parquet.CreatedBy("eds", "1", ""), parquet.KeyValueMetadata("eds.table", p.Table))
	grouped := 0 // number of rows in the current group
	nulls := c.nulls()
	err := ahead(p.Events, func() *rowBlock { return newRowBlock(e, c, p.Schema, nulls) }, (*rowBlock).fill, func(r *rowBlock) error {
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
