package shop

import (
	"fmt"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// model is the entire state of the shop. Only apply, evolve, tick and step.begin change it.
type model struct {
	seed      uint64
	customers int   // number of customers that the shop was created for
	history   int64 // when the history began, in Unix nanoseconds; part of every change's id

	step    uint64 // number of steps done
	seq     uint64 // number of changes made
	clock   cdc.Timestamp
	evolved int // number of evolutions done

	tables  []*tableRows
	byName  map[string]*tableRows
	owners  []string // ids of companies and locations; owners[0] is ""
	ownerID map[string]uint16

	open, closed []string // sorted keys of unpaid and of paid orders

	spans []rawjson.Span // reusable buffer
}

func newModel(seed uint64, customers int, history int64) *model {
	m := &model{
		seed: seed, customers: customers, history: history,
		byName: make(map[string]*tableRows), owners: []string{""}, ownerID: map[string]uint16{"": 0},
	}
	for _, l := range firstLayouts() {
		m.addTable(l)
	}
	return m
}

func (m *model) addTable(l *rowLayout) {
	t := &tableRows{index: len(m.tables), layouts: []*rowLayout{l}, byKey: make(map[string]int32), children: make(map[string][]string)}
	m.tables = append(m.tables, t)
	m.byName[l.table] = t
}

// tick returns a clock that is newer than all clocks that it returned before. The clock has the
// given wall time, if that wall time is newer than those of all earlier clocks.
func (m *model) tick(now int64) cdc.Timestamp {
	if now > m.clock.Wall {
		m.clock = cdc.Timestamp{Wall: now}
	} else {
		m.clock.Logical++
	}
	return m.clock
}

// owner returns the index of an id in owners, and adds the id if it is missing.
func (m *model) owner(id []byte) uint16 {
	if n, ok := m.ownerID[string(id)]; ok {
		return n
	}
	n := uint16(len(m.owners))
	m.owners = append(m.owners, string(id))
	m.ownerID[string(id)] = n
	return n
}

// at returns the row in slot i of a table. The row is valid until the next call.
func (m *model) at(t *tableRows, i int) cutRow {
	s := &t.rows[i]
	l := t.layouts[s.layout]
	m.spans = cut(l, s.image, m.spans)
	return cutRow{table: t, layout: l, slot: i, image: s.image, spans: m.spans}
}

// apply performs the operation o, and returns the resulting change.
func (m *model) apply(o *operation) Change {
	switch o.op {
	case cdc.Insert:
		return m.insert(o)
	case cdc.Update:
		return m.update(o)
	default:
		return m.delete(o)
	}
}

func (m *model) insert(o *operation) Change {
	t, l := o.table, o.table.latest()
	m.spans = cut(l, o.image, m.spans)
	r := cutRow{table: t, layout: l, image: o.image, spans: m.spans}
	c := m.change(o, &r)
	c.After = o.image
	m.put(&r, len(t.layouts)-1)
	if t.name() == orderTable {
		m.fileOrder(r.keyOf(), "", r.text("status"))
	}
	return c
}

// put adds a row to its table. The second argument is the index of the row's layout.
func (m *model) put(r *cutRow, layout int) {
	l := r.layout
	r.slot = r.table.add(slot{
		key: r.keyOf(), image: r.image, layout: uint16(layout),
		company: m.owner(textOrNil(r.raw(l.company))), location: m.owner(textOrNil(r.raw(l.location))),
	}, string(textOrNil(r.raw(l.parent))))
}

// textOrNil returns the text of a raw value, or nil if the value is missing or null.
func textOrNil(raw []byte) []byte {
	if isNull(raw) {
		return nil
	}
	return rawjson.Text(raw)
}

func (m *model) update(o *operation) Change {
	t, r := o.table, o.row
	c := m.change(o, r)
	c.Before, c.After, c.Diff = r.image, o.image, o.diff
	s := &t.rows[r.slot]
	s.image, s.layout = c.After, uint16(len(t.layouts)-1)
	if t.name() == orderTable {
		for _, set := range o.sets {
			if t.latest().columns[set.column].name == "status" {
				m.fileOrder(s.key, r.text("status"), string(rawjson.Text(set.value)))
			}
		}
	}
	return c
}

func (m *model) delete(o *operation) Change {
	r := o.row
	c := m.change(o, r)
	c.Before = r.image
	if o.table.name() == orderTable {
		m.fileOrder(r.key(), r.text("status"), "")
	}
	o.table.remove(r.slot, string(textOrNil(r.raw(r.layout.parent))))
	return c
}

// change returns the change that the operation o makes to the row r, without the row images.
func (m *model) change(o *operation, r *cutRow) Change {
	m.seq++
	m.clock = o.clock
	return Change{
		Seq: m.seq, ID: m.changeID(m.seq), Op: o.op, Table: o.table.name(), Key: r.wireKey(), ModelVersion: o.table.latest().version,
		CompanyID:  m.owners[m.owner(textOrNil(r.raw(r.layout.company)))],
		LocationID: m.owners[m.owner(textOrNil(r.raw(r.layout.location)))],
		UserID:     o.user, Clock: o.clock, Imported: o.imported,
	}
}

// changeID returns the id of the change with the number seq. The id is a UUID whose last twelve
// digits are seq.
func (m *model) changeID(seq uint64) string {
	h := mix(m.seed ^ mix(uint64(m.history)))
	const digits = "0123456789abcdef"
	id := []byte("00000000-0000-8000-8000-000000000000")
	for i, at := range [...]int{0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 15, 16, 17} {
		id[at] = digits[h>>(4*i)&15]
	}
	for at := len(id) - 1; at > len(id)-13; at-- {
		id[at] = digits[seq&15]
		seq >>= 4
	}
	return string(id)
}

// mix is the finaliser of SplitMix64. It maps neighbouring numbers to unrelated ones.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fileOrder moves an order between the lists of open and closed orders after its status has
// changed. The parameters are the key, the old status and the new status of the order. The status
// "" means that the order does not exist.
func (m *model) fileOrder(key, was, now string) {
	from, to := m.orderList(was), m.orderList(now)
	if from == to {
		return
	}
	if from != nil {
		i, found := slices.BinarySearch(*from, key)
		if !found {
			panic(fmt.Sprintf("shop: an order with the status %s is not in its list", was))
		}
		*from = slices.Delete(*from, i, i+1)
	}
	if to != nil {
		i, _ := slices.BinarySearch(*to, key)
		*to = slices.Insert(*to, i, key)
	}
}

// orderList returns the list for orders with the given status, or nil for the status "".
func (m *model) orderList(status string) *[]string {
	switch status {
	case "":
		return nil
	case statusPaid:
		return &m.closed
	default:
		return &m.open
	}
}
