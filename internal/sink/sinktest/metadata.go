package sinktest

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var metadataChecks = []property{
	{"update strategy after: an older change never wins", func(c features) bool { return c.rows }, checkAfter},
	{"metadata columns", func(c features) bool { return c.rows && c.metadata }, checkMetadata},
	{"metadata columns keep older changes out", func(c features) bool { return c.rows && c.metadata }, checkMetadataGuard},
	{"soft deletes", func(c features) bool { return c.rows && c.softDelete }, checkSoftDelete},
	{"loads fill metadata columns", func(c features) bool { return c.rows && c.metadata }, checkLoadedMetadata},
}

func checkAfter(h *harness) {
	h.checkGuard(h.open(func(e *sink.Env) { e.After = true }))
}

func checkMetadataGuard(h *harness) {
	h.checkGuard(h.openURL(h.option("metadata=true")))
}

// checkGuard applies changes in an order that differs from the order of their clocks.
func (h *harness) checkGuard(s sink.Sink) {
	h.Helper()
	t := customers(h)
	h.migrate(s, t)
	at := func(op cdc.Op, row string, clock int64) textChange {
		before, after := "", row
		if op == cdc.Delete {
			before, after = row, ""
		}
		return h.at(t, op, before, after, startClock+clock)
	}
	var want *tableModel
	keep := func() { want = h.model(t.Name).clone() }
	h.apply(s, at(cdc.Insert, `{"id":"1","name":"new"}`, 100), at(cdc.Insert, `{"id":"2","name":"new"}`, 100),
		at(cdc.Insert, `{"id":"3","name":"new"}`, 100))
	keep()
	h.expectRows(s, t, want)
	h.apply(s, at(cdc.Update, `{"id":"1","name":"older"}`, 99), at(cdc.Insert, `{"id":"2","name":"older"}`, 1),
		at(cdc.Delete, `{"id":"3"}`, 99))
	h.expectRows(s, t, want)

	h.models[t.Name] = want
	h.apply(s, at(cdc.Update, `{"id":"1","name":"of the same clock"}`, 100))
	h.apply(s, at(cdc.Update, `{"id":"2","name":"newer"}`, 101), at(cdc.Delete, `{"id":"3"}`, 101),
		at(cdc.Insert, `{"id":"4","name":"first"}`, 50))
	keep()
	h.expectRows(s, t, want)
	// Clocks are compared as numbers, including their logical part.
	late := at(cdc.Update, `{"id":"4","name":"newest"}`, 900_000_000_000_000_000)
	h.apply(s, late)
	keep()
	h.apply(s, at(cdc.Update, `{"id":"4","name":"older"}`, 100_000_000_000_000_000))
	h.expectRows(s, t, want)
	h.expectRows(h.open(), t, want)
}

// metaTable returns t with the named metadata columns, as another tool sees the table.
func metaTable(h *harness, t *schema.Table, names ...string) *schema.Table {
	columns := append([]schema.Column{}, t.Columns...)
	for _, name := range names {
		kind := map[string]schema.Type{
			"_eds_op": schema.String, "_eds_version": schema.String, "_eds_synced_at": schema.DateTime,
			"_eds_deleted": schema.Boolean,
		}[name]
		columns = append(columns, column(name, kind))
	}
	return newTable(h, t.Name, "with metadata", t.Keys, columns...)
}

func checkMetadata(h *harness) {
	t := customers(h)
	s := h.openURL(h.option("metadata=true"))
	h.migrate(s, t)
	inserted, updated := h.insert(t, `{"id":"1","name":"one"}`), h.insert(t, `{"id":"2","name":"two"}`)
	h.apply(s, inserted, updated)
	h.apply(s, h.update(t, `{"id":"2","name":"new"}`))
	h.expect(s, t)
	meta := metaTable(h, t, "_eds_op", "_eds_version")
	want := newTableModel()
	want.load(h, meta, fmt.Sprintf(`{"id":"1","name":"one","_eds_op":"INSERT","_eds_version":%q}`, versionOf(h, inserted)),
		fmt.Sprintf(`{"id":"2","name":"new","_eds_op":"UPDATE","_eds_version":%q}`, clockOf(*h.sequence)))
	plain := h.open()
	h.expectRows(plain, meta, want)
	synced := metaTable(h, t, "_eds_synced_at")
	for row, err := range plain.(sink.Reader).Read(h.ctx(), synced) {
		if err != nil {
			h.Fatal(err)
		}
		if row.IsNull(synced.Slot([]byte("_eds_synced_at"))) {
			h.Errorf("row %s has no _eds_synced_at", row.Value(0))
		}
	}
}

func versionOf(h *harness, st textChange) string {
	e, _ := st.decode(h)
	return e.Clock.Sortable()
}

// clockOf returns the _eds_version of the change with the given sequence.
func clockOf(sequence uint64) string {
	return cdc.Timestamp{Wall: startClock + int64(sequence)*1_000_000}.Sortable()
}

func checkSoftDelete(h *harness) {
	t := customers(h)
	s := h.openURL(h.option("delete=soft"))
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one","visits":1}`), h.insert(t, `{"id":"2","name":"two","visits":2}`),
		h.insert(t, `{"id":"3","name":"three"}`))
	h.apply(s, h.delete(t, `{"id":"2"}`), h.delete(t, `{"id":"3"}`), h.delete(t, `{"id":"never there"}`))
	h.expect(s, t) // reading skips deleted rows
	// A later change restores the deleted row. An older change does not.
	h.apply(s, h.insert(t, `{"id":"3","name":"again"}`))
	h.apply(s, h.at(t, cdc.Insert, "", `{"id":"2","name":"older than its end"}`, startClock+1))
	h.model(t.Name).forget(t, h, `{"id":"2"}`)
	h.expect(s, t)

	meta := metaTable(h, t, "_eds_op", "_eds_deleted")
	found := make(map[string]string)
	for row, err := range h.open().(sink.Reader).Read(h.ctx(), meta) {
		if err != nil {
			h.Fatal(err)
		}
		value := func(name string) string { return string(rawjson.Text(row.Value(meta.Slot([]byte(name))))) }
		found[value("id")] = fmt.Sprint(value("name"), " ", value("_eds_op"), " ", value("_eds_deleted"))
	}
	for id, want := range map[string]string{"1": "one INSERT false", "2": "two DELETE true", "3": "again INSERT false"} {
		if found[id] != want {
			h.Errorf("row %s is %q, want %q", id, found[id], want)
		}
	}
}

func checkLoadedMetadata(h *harness) {
	t := customers(h)
	s := h.openURL(h.option("metadata=true"))
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "one", `{"id":"1","name":"loaded"}`)
	h.end(l, true)
	meta := metaTable(h, t, "_eds_op", "_eds_version")
	want := newTableModel()
	want.load(h, meta, fmt.Sprintf(`{"id":"1","name":"loaded","_eds_op":"INSERT","_eds_version":%q}`,
		cdc.Timestamp{Wall: startClock}.Sortable()))
	h.expectRows(h.open(), meta, want)
	// A change that is older than the snapshot does not overwrite the loaded row.
	h.apply(s, h.at(t, cdc.Update, "", `{"id":"1","name":"older"}`, startClock-1))
	h.expectRows(h.open(), meta, want)
}
