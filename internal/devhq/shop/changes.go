package shop

import (
	"encoding/json"
	"iter"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// ChangeGenerator generates the changes of one table as fast as memory allows, for benchmarks. It
// has no model of a shop, and stores only a counter per row. Of 100 changes, 20 insert a row, 20
// update one of 100 hot rows, and 60 update any row. An update gives one group of four columns new
// values, and increments the column revision. With both row images, the JSON of an event has about
// 1.3 KB on average for 20 columns, and about 3.2 KB for 60 columns.
//
// A row's image depends only on the row's number and its number of updates, so any image can be
// generated at any time. A ChangeGenerator is not safe for concurrent use.
type ChangeGenerator struct {
	layout    *rowLayout
	groups    []group
	values    *generator
	seed      uint64
	clock     cdc.Timestamp
	seq       uint64
	revisions []uint32 // number of updates by row number
	change    Change
	before    []byte
	after     []byte
	key       []byte
	prefix    string // prefix of the changes' ids
}

// group holds ready-made JSON for a few neighbouring columns, in several variants. Row images are
// composed of such pieces.
type group struct {
	pieces [variants]string
	diffs  [variants][]string // names of revision and of the columns that differ from the next variant
}

const (
	groupColumns = 4
	variants     = 64
	hotRows      = 100
)

// NewChangeGenerator returns a generator for a table. The table has at least 8 columns, and
// initially has the given number of rows. The clocks of successive changes are one to two
// microseconds apart. All clocks are later than the given time.
func NewChangeGenerator(seed uint64, table string, columns, rows int, begin time.Time) *ChangeGenerator {
	g := &ChangeGenerator{
		values: newGenerator(), seed: seed, prefix: "g" + strconv.FormatUint(seed, 36) + "-",
		revisions: make([]uint32, rows), clock: cdc.At(begin),
	}
	g.values.reseed(seed, 1, begin)
	own := []generatedColumn{text("id", nil), text("companyId", nil), text("locationId", nil), counter("revision", "0")}
	for i := len(own); i < max(columns, 8); i++ {
		own = append(own, benchmarkColumn(i))
	}
	g.layout = newRowLayout(table, table, definition{primaryKey: []string{"id"}}, own)
	for at := 4; at < len(own); at += groupColumns {
		g.group(own[at:min(at+groupColumns, len(own))], g.layout.names[at:])
	}
	g.change = Change{Table: table, ModelVersion: g.layout.version}
	return g
}

// benchmarkColumn returns the column with index i. The column types are those of a wide business
// table: text, numbers, instants, booleans and a little JSON.
func benchmarkColumn(i int) generatedColumn {
	name := "column" + strconv.Itoa(i)
	switch i % 10 {
	case 0:
		return text(name, oneOf(works...))
	case 1:
		return integer(name, between(0, 1_000_000))
	case 2:
		return date(name, around(300, 300))
	case 3:
		return enum(name, "Open", "Closed", "Waiting", "Cancelled")
	case 4:
		return text(name, oneOf(partNames...)).null(20)
	case 5:
		return number(name, decimal(0, 10_000, 2))
	case 6:
		return boolean(name, 50)
	case 7:
		return integer(name, anyInteger).null(20)
	case 8:
		return text(name, pattern("@@@-####-####"))
	default:
		if i%20 == 9 {
			return object(name, settings).null(30)
		}
		return array(name, "string", list(3, oneOf(tags...)))
	}
}

// group adds a group of columns to the generator, and generates the variants of the group.
func (g *ChangeGenerator) group(columns []generatedColumn, names []string) {
	var values [variants][]string
	var made group
	for v := range variants {
		var piece []byte
		for i := range columns {
			raw := g.values.value(nil, &columns[i])
			values[v] = append(values[v], string(raw))
			piece = append(append(append(piece, ','), names[i]...), raw...)
		}
		made.pieces[v] = string(piece)
	}
	for v := range variants {
		made.diffs[v] = []string{"revision"}
		for i := range columns {
			if values[v][i] != values[(v+1)%variants][i] {
				made.diffs[v] = append(made.diffs[v], columns[i].name)
			}
		}
	}
	g.groups = append(g.groups, made)
}

// Schema returns the schema of the table.
func (g *ChangeGenerator) Schema() json.RawMessage { return g.layout.schema }

// Rows returns the rows as they are after all changes so far. Each row is valid only until the
// next row.
func (g *ChangeGenerator) Rows() iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		var image []byte
		for n, revision := range g.revisions {
			if image = g.appendRow(image[:0], n, revision); !yield(image) {
				return
			}
		}
	}
}

// Len returns the current number of rows.
func (g *ChangeGenerator) Len() int { return len(g.revisions) }

// Next returns the next change. The change and its slices are valid until the next call.
func (g *ChangeGenerator) Next() *Change {
	c := &g.change
	roll := g.values.Uint64()
	kind, at := int(roll%100), roll>>8
	rows := uint64(len(g.revisions))
	var n int
	switch {
	case kind < 20 || rows == 0:
		n = len(g.revisions)
		g.revisions = append(g.revisions, 0)
		c.Op, c.Before, c.Diff = cdc.Insert, nil, nil
	case kind < 40:
		n = int(at % min(rows, hotRows))
		g.update(c, n)
	default:
		n = int(at % rows)
		g.update(c, n)
	}
	g.after = g.appendRow(g.after[:0], n, g.revisions[n])
	c.After = g.after
	g.seq++
	g.clock.Wall += 1000 + int64(roll>>40&1023)
	c.Seq, c.Clock = g.seq, g.clock
	g.identify(c, n)
	return c
}

func (g *ChangeGenerator) update(c *Change, n int) {
	g.before = g.appendRow(g.before[:0], n, g.revisions[n])
	revision := g.revisions[n]
	moves := int(revision) % len(g.groups)
	c.Op, c.Before, c.Diff = cdc.Update, g.before, g.groups[moves].diffs[g.variant(n, moves, revision)]
	g.revisions[n]++
}

// identify sets the id, key, company and location of the change c, which concerns row n.
func (g *ChangeGenerator) identify(c *Change, n int) {
	c.ID = g.prefix + strconv.FormatUint(g.seq, 10)
	g.key = append(appendRowID(append(g.key[:0], '['), n), ']')
	c.Key = g.key
	c.CompanyID, c.LocationID = benchmarkOwners(n)
}

func benchmarkOwners(n int) (company, location string) {
	companies := [...]string{"6500000000000000000000c1", "6500000000000000000000c2"}
	locations := [...]string{"650000000000000000000a01", "650000000000000000000a02", "650000000000000000000b01", "650000000000000000000b02"}
	return companies[n&1], locations[n&3]
}

func appendRowID(dst []byte, n int) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, `"000000000000000000000000"`...)
	x := mix(uint64(n))&^0xffffffff | uint64(uint32(n))
	for i := len(dst) - 2; x != 0; i-- {
		dst[i] = digits[x&15]
		x >>= 4
	}
	return dst
}

// appendRow appends the image that row n has after the given number of updates.
func (g *ChangeGenerator) appendRow(dst []byte, n int, revision uint32) []byte {
	company, location := benchmarkOwners(n)
	dst = append(dst, `{"id":`...)
	dst = appendRowID(dst, n)
	dst = append(append(append(dst, `,"companyId":"`...), company...), '"')
	dst = append(append(append(dst, `,"locationId":"`...), location...), '"')
	dst = append(dst, `,"revision":`...)
	dst = strconv.AppendUint(dst, uint64(revision), 10)
	for i := range g.groups {
		dst = append(dst, g.groups[i].pieces[g.variant(n, i, revision)]...)
	}
	return append(dst, '}')
}

// variant returns the variant of a group that row n has after the given number of updates. The
// update with number r advances one group to its next variant: the group whose index is r modulo
// the number of groups.
func (g *ChangeGenerator) variant(n, group int, revision uint32) uint32 {
	groups := uint32(len(g.groups))
	moved := (revision + groups - 1 - uint32(group)) / groups
	return (uint32((g.seed^uint64(n))*0x9e3779b97f4a7c15>>(20+group&31)) + moved) % variants
}
