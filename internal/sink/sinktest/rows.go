package sinktest

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var rowChecks = []property{
	{"inserts, updates and deletes", keepsRows, checkChanges},
	{"tables without a batch are empty", keepsRows, checkEmptyTable},
	{"composite keys", keepsRows, checkCompositeKeys},
	{"integer keys", keepsRows, checkIntegerKeys},
	{"keys that differ by case, accents and spaces", keepsRows, checkSimilarKeys},
	{"keys that the destination cannot keep are refused or stay apart", keepsRows, checkUnportableKeys},
	{"keys that move", keepsRows, checkMovedKeys},
	{"a row deleted and inserted again starts empty", keepsRows, checkRowsStartEmpty},
	{"two layouts of a table", keepsRows, checkTwoLayouts},
	{"many rows and tables in one batch", keepsRows, checkLargeBatch},
	{"batches that settle without changing rows", keepsRows, checkBatchWithoutRows},
}

func customers(h *harness) *schema.Table {
	return newTable(h, "customer", "1", 1, column("id", schema.String), column("name", schema.String), column("visits", schema.Integer))
}

func checkChanges(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s,
		h.insert(t, `{"id":"1","name":"Ann","visits":1}`),
		h.insert(t, `{"id":"2","name":"Bob","visits":2}`),
		h.insert(t, `{"id":"3","name":"Cid","visits":3}`),
	)
	h.expect(s, t)
	h.apply(s,
		h.update(t, `{"id":"2","name":null}`), // both values become NULL
		h.delete(t, `{"id":"3","name":"Cid","visits":3}`),
		h.update(t, `{"id":"4","name":"Dan","visits":4}`), // updates a missing row
		h.delete(t, `{"id":"5"}`),                         // deletes a missing row
		h.insert(t, `{"id":"1","name":"Ann again"}`),      // inserts an existing row
	)
	h.expect(s, t)
	h.apply(s, h.update(t, `{"id":"4","name":"","visits":0}`)) // neither is NULL
	h.expect(s, t)
	h.expect(h.open(), t)
}

func checkEmptyTable(h *harness) {
	t := customers(h)
	s := h.open()
	h.expect(s, t) // no table, no rows
	h.migrate(s, t)
	h.expect(s, t)
}

func checkCompositeKeys(h *harness) {
	t := newTable(h, "line", "1", 3, column("z", schema.String), column("n", schema.Integer), column("a", schema.String),
		column("value", schema.String))
	s := h.open()
	h.migrate(s, t)
	h.apply(s,
		h.insert(t, `{"z":"a","n":1,"a":"b","value":"1"}`),
		h.insert(t, `{"z":"b","n":1,"a":"a","value":"2"}`),
		h.insert(t, `{"z":"a","n":2,"a":"b","value":"3"}`),
		h.insert(t, `{"z":"ab","n":1,"a":"","value":"4"}`),
		h.insert(t, `{"z":"","n":1,"a":"ab","value":"5"}`),
	)
	h.expect(s, t)
	h.apply(s,
		h.update(t, `{"z":"a","n":1,"a":"b","value":"new"}`),
		h.delete(t, `{"z":"b","n":1,"a":"a"}`),
		h.move(t, `{"z":"","n":1,"a":"ab"}`, `{"z":"","n":9,"a":"ab","value":"moved"}`),
	)
	h.expect(s, t)
}

func checkIntegerKeys(h *harness) {
	t := newTable(h, "counter", "1", 1, column("id", schema.Integer), column("value", schema.String))
	s := h.open()
	h.migrate(s, t)
	ids := []string{"0", "1", "-1", "10", "9", "9007199254740993", "9007199254740992", "9223372036854775807", "-9223372036854775808"}
	var steps []textChange
	for _, id := range ids {
		steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":%s,"value":"%s"}`, id, id)))
	}
	h.apply(s, steps...)
	h.expect(s, t)
	h.apply(s, h.update(t, `{"id":9007199254740993,"value":"new"}`), h.delete(t, `{"id":9}`),
		h.update(t, `{"id":1.0,"value":"the same row"}`))
	h.expect(s, t)
}

func checkSimilarKeys(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	var steps []textChange
	for i, id := range []string{
		"a", "A", "á", "Á", " a", "", "aa", "ss", "ß", "é", `e\u0301`, "1", "01", "1.0", "null", "%", "_",
		`\\`, "'", `\"`,
	} {
		steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":"%s","name":"row %d","visits":%d}`, id, i, i)))
	}
	h.apply(s, steps...)
	h.expect(s, t)
	blank := h.insert(t, `{"id":"a ","name":"a blank","visits":0}`)
	if h.config.PadsKeys {
		h.model(t.Name).forget(t, h, `{"id":"a "}`)
		h.expectClass(h.try(s, blank), fault.Poison)
	} else {
		h.apply(s, blank)
	}
	h.expect(s, t)
	h.apply(s, h.delete(t, `{"id":"A"}`), h.delete(t, `{"id":"%"}`), h.delete(t, `{"id":""}`))
	h.expect(s, t)
}

// checkUnportableKeys checks that two rows never become one row because a column cuts their keys,
// or because a rule makes the keys equal. The sink must refuse such keys.
func checkUnportableKeys(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	long := strings.Repeat("k", 250)
	want := make(map[string]string)
	for i, id := range []string{
		`a\u0000b`, `a\ufffdb`, "a\xffb", "a\xfeb", "a\xff\xffb", long + "12345", long + "123456",
		long + "123457", strings.Repeat(long, 12) + "1", strings.Repeat(long, 12) + "2", strings.Repeat(long, 400),
	} {
		visits := fmt.Sprint(i)
		err := h.try(s, h.insert(t, fmt.Sprintf(`{"id":"%s","visits":%s}`, id, visits)))
		if rule, changed := h.adjusted.take(t.Name, "id"); changed {
			h.Errorf("key %.20q was changed by rule %s", id, rule)
		}
		if err == nil {
			want[visits] = id
			continue
		}
		h.expectClass(err, fault.Poison)
		if text := err.Error(); !strings.Contains(text, t.Name) || strings.Contains(text, id) {
			h.Errorf("key %.20q: the error does not name table %s, or contains the key: %.300s", id, t.Name, text)
		}
	}
	got := make(map[string]bool)
	for row, err := range s.(sink.Reader).Read(h.ctx(), t) {
		if err != nil {
			h.Fatal(err)
		}
		got[string(row.Value(t.Slot([]byte("visits"))))] = true
	}
	for visits, id := range want {
		if !got[visits] {
			h.Errorf("the row of key %.20q... was accepted, and another row has replaced it", id)
		}
	}
	if len(want) < 3 {
		h.Errorf("only %d keys were accepted", len(want))
	}
}

func checkMovedKeys(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one"}`), h.insert(t, `{"id":"2","name":"two"}`), h.insert(t, `{"id":"7","name":"seven"}`))
	h.apply(s, h.move(t, `{"id":"7","name":"seven"}`, `{"id":"8","name":"seven"}`))
	h.expect(s, t)
	// Two rows swap keys through a third key, within one batch.
	h.apply(s,
		h.move(t, `{"id":"1","name":"one"}`, `{"id":"x","name":"one"}`),
		h.move(t, `{"id":"2","name":"two"}`, `{"id":"1","name":"two"}`),
		h.move(t, `{"id":"x","name":"one"}`, `{"id":"2","name":"one"}`),
		h.move(t, `{"id":"8","name":"seven"}`, `{"id":"9","name":"seven"}`),
		h.delete(t, `{"id":"9","name":"seven"}`),
	)
	h.expect(s, t)
}

func checkRowsStartEmpty(h *harness) {
	v1 := customers(h)
	v2 := newTable(h, "customer", "2", 1, column("id", schema.String), column("name", schema.String), column("visits", schema.Integer),
		column("email", schema.String))
	s := h.open()
	h.migrate(s, v2)
	h.apply(s, h.insert(v2, `{"id":"1","name":"a","email":"a@x"}`), h.insert(v2, `{"id":"2","name":"b","email":"b@x"}`),
		h.insert(v2, `{"id":"3","name":"c","email":"c@x"}`))
	// A change in the older layout keeps the email of a row that still exists.
	h.apply(s,
		h.update(v1, `{"id":"1","name":"keeps the email"}`),
		h.delete(v1, `{"id":"2"}`),
		h.insert(v1, `{"id":"2","name":"has none any more"}`),
		h.insert(v1, `{"id":"3","name":"keeps the email, since nothing deleted it"}`),
	)
	h.expect(s, v2)
}

func checkTwoLayouts(h *harness) {
	v1 := customers(h)
	v2 := newTable(h, "customer", "2", 1, column("id", schema.String), column("name", schema.String), column("aaa", schema.Boolean),
		column("zzz", schema.DateTime))
	both := newTable(h, "customer", "3", 1, column("id", schema.String), column("name", schema.String),
		column("visits", schema.Integer), column("aaa", schema.Boolean), column("zzz", schema.DateTime))
	s := h.open()
	h.migrate(s, v1, v2)
	h.apply(s,
		h.insert(v1, `{"id":"1","name":"one","visits":1}`),
		h.insert(v2, `{"id":"2","name":"two","aaa":true,"zzz":"2026-01-02T03:04:05Z"}`),
		h.insert(v1, `{"id":"3","name":"three","visits":3}`),
	)
	h.expect(s, both)
	// One row is written under both layouts, and another is written under one and deleted under
	// the other.
	h.apply(s,
		h.update(v2, `{"id":"1","name":"one","aaa":false}`),
		h.update(v1, `{"id":"2","name":"two","visits":2}`),
		h.delete(v2, `{"id":"3"}`),
	)
	h.expect(s, both)
	h.expect(s, v1)
	h.expect(s, v2)
}

func checkLargeBatch(h *harness) {
	s := h.open()
	var tables []*schema.Table
	for i := range 5 {
		tables = append(tables, newTable(h, fmt.Sprintf("t%d", i), "1", 1, column("id", schema.String), column("n", schema.Integer),
			column("text", schema.String)))
	}
	h.migrate(s, tables...)
	const rows = 3000
	var steps []textChange
	for i := range rows {
		steps = append(steps, h.insert(tables[i%5], fmt.Sprintf(`{"id":"%d","n":%d,"text":"row %d"}`, i, i, i)))
	}
	h.apply(s, steps...)
	steps = steps[:0]
	for i := range rows {
		row := fmt.Sprintf(`{"id":"%d","n":%d,"text":null}`, i, -i)
		if i%3 == 0 {
			steps = append(steps, h.delete(tables[i%5], row))
		} else {
			steps = append(steps, h.update(tables[i%5], row))
		}
	}
	h.apply(s, steps...)
	for _, t := range tables {
		h.expect(s, t)
	}
}

func checkBatchWithoutRows(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one"}`))
	d := h.passing()
	if err := d.deliver(h.ctx(), s); err != nil {
		h.Fatalf("apply a batch of skipped messages: %v", err)
	}
	h.expect(s, t)
}
