package shop

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// step is one business action in progress. It changes rows, and collects the changes. Its random
// values depend only on the seed and the number of the step.
type step struct {
	*generator
	m        *model
	clock    func() time.Time
	spread   bool   // each change reads the clock; otherwise, all changes have the time of the step
	user     string // id of the user who makes the changes, or "" for the shop's machinery
	imported bool

	changes []Change
	keep    bool // collect the changes; false while a new shop is being filled

	sets  []assignment   // reusable buffers
	slab  []rawjson.Span // memory for the spans of rows that are read
	image []byte
}

// begin starts the next step.
func (st *step) begin() {
	st.m.step++
	st.reseed(st.m.seed, st.m.step, st.clock())
	st.user, st.imported = "", false
	st.spread = st.percent(50)
	st.changes = st.changes[:0]
}

// columnValue is a new raw value for the column with the given name.
type columnValue struct {
	column string
	raw    []byte
}

func str(column, s string) columnValue { return columnValue{column, rawjson.AppendQuoted(nil, s)} }

func num(column string, n int64) columnValue {
	return columnValue{column, strconv.AppendInt(nil, n, 10)}
}
func raw(column, v string) columnValue { return columnValue{column, []byte(v)} }
func nullIn(column string) columnValue { return columnValue{column, []byte("null")} }

func flag(column string, b bool) columnValue { return columnValue{column, strconv.AppendBool(nil, b)} }

// optional returns a value with the text s, or null if s is empty.
func optional(column, s string) columnValue {
	if s == "" {
		return nullIn(column)
	}
	return str(column, s)
}

// hundredths returns the number n/100 as a value with two decimal places.
func hundredths(column string, n int64) columnValue {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	return columnValue{column, fmt.Appendf(nil, "%s%d.%02d", sign, n/100, n%100)}
}

// nowIn returns the time of the step as the value of the given date column.
func (st *step) nowIn(column string) columnValue { return columnValue{column, instant(nil, st.now)} }

func (st *step) table(name string) *tableRows { return st.m.byName[name] }

// actAt sets the company and the location for all rows that are inserted from now on. Both are
// those of the row r.
func (st *step) actAt(r cutRow) {
	st.company, st.location = r.text("companyId"), r.text("locationId")
}

func (st *step) tick() cdc.Timestamp {
	if st.spread {
		return st.m.tick(st.clock().UnixNano())
	}
	return st.m.tick(st.now.UnixNano())
}

func (st *step) assign(l *rowLayout, values []columnValue) []assignment {
	st.sets = st.sets[:0]
	for _, v := range values {
		i := l.slot(v.column)
		if i < 0 {
			panic("shop: " + l.table + " has no column " + v.column)
		}
		st.sets = append(st.sets, assignment{i, v.raw})
	}
	slices.SortStableFunc(st.sets, func(a, b assignment) int { return a.column - b.column })
	return st.sets
}

// insert inserts a row with the given values, generates all other values, and returns the key of
// the row. If the values contain no id, the row gets the next id.
func (st *step) insert(name string, values ...columnValue) string {
	t := st.table(name)
	id := ""
	if !slices.ContainsFunc(values, func(v columnValue) bool { return v.column == "id" }) {
		id = hex24(st.m.seed, name, t.next)
		values = append(values, str("id", id))
	}
	l := t.latest()
	st.image = st.row(st.image[:0], l, st.assign(l, values))
	st.apply(operation{op: cdc.Insert, table: t, image: bytes.Clone(st.image)})
	return t.rows[len(t.rows)-1].key
}

// reinsert inserts a row with the given image.
func (st *step) reinsert(t *tableRows, image []byte) {
	st.apply(operation{op: cdc.Insert, table: t, image: image})
}

// update sets some columns of a row to the given values. If the row already has these values,
// update does nothing.
func (st *step) update(r cutRow, values ...columnValue) {
	t := r.table
	st.check(r)
	l := t.latest()
	if i := l.slot("updatedDate"); i >= 0 {
		values = append(values, st.nowIn("updatedDate"))
	}
	if i := l.slot("revision"); i >= 0 {
		values = append(values, num("revision", r.int("revision")+1))
	}
	sets := st.assign(l, values)
	var diff []string
	if st.image, diff = r.rewrite(st.image, sets); len(diff) > 0 {
		st.apply(operation{op: cdc.Update, table: t, sets: sets, row: &r, image: bytes.Clone(st.image), diff: diff})
	}
}

// check panics if r is no longer the current row in its slot.
func (st *step) check(r cutRow) {
	if r.slot >= len(r.table.rows) || &r.image[0] != &r.table.rows[r.slot].image[0] {
		panic("shop: a row of " + r.table.name() + " changed since it was read")
	}
}

// edit generates new values for up to n editable columns of a row.
func (st *step) edit(r cutRow, n int) {
	l := r.table.latest()
	values := make([]columnValue, 0, n)
	for range n {
		c := &l.columns[st.IntN(len(l.columns))]
		if c.editable() && !slices.ContainsFunc(values, func(v columnValue) bool { return v.column == c.name }) {
			values = append(values, columnValue{c.name, st.value(nil, c)})
		}
	}
	st.update(r, values...)
}

func (st *step) delete(r cutRow) {
	st.check(r)
	st.apply(operation{op: cdc.Delete, table: r.table, row: &r})
}

func (st *step) apply(o operation) {
	o.clock, o.user, o.imported = st.tick(), st.user, st.imported
	c := st.m.apply(&o)
	if st.keep {
		st.changes = append(st.changes, c)
	}
}

// find returns the row with the given key. It panics if there is none.
func (st *step) find(name, key string) cutRow {
	r, ok := st.lookup(name, key)
	if !ok {
		panic("shop: there is no such " + name)
	}
	return r
}

// lookup returns the row with the given key, and reports whether that row exists. The row is valid
// until the step changes it, or removes any row of the same table.
func (st *step) lookup(name, key string) (cutRow, bool) {
	t := st.table(name)
	i, ok := t.byKey[key]
	if !ok {
		return cutRow{}, false
	}
	return st.read(t, int(i)), true
}

// any returns a random row of a table. It returns false if the table is empty.
func (st *step) any(name string) (cutRow, bool) {
	t := st.table(name)
	if len(t.rows) == 0 {
		return cutRow{}, false
	}
	return st.read(t, st.IntN(len(t.rows))), true
}

// read returns the row in slot i of a table. The row has its own spans, which later reads do not
// overwrite.
func (st *step) read(t *tableRows, i int) cutRow {
	r := st.m.at(t, i)
	if len(st.slab) < len(r.spans) {
		st.slab = make([]rawjson.Span, 4096)
	}
	spans := st.slab[:len(r.spans):len(r.spans)]
	st.slab = st.slab[len(spans):]
	copy(spans, r.spans)
	r.spans = spans
	return r
}

// childKeys returns the keys of the rows in a table that belong to a parent row. The result is a
// copy, so that the caller may remove rows while iterating over it.
func (st *step) childKeys(name, parent string) []string {
	return slices.Clone(st.table(name).children[parent])
}
