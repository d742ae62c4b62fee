package sinktest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

var historyChecks = []property{
	{"every event is kept, in the order of its row", keepsHistory, checkHistory},
	{"any batches and replays keep every event", keepsHistory, checkHistoryReplays},
	{"every value is kept in an event", keepsHistory, checkHistoryValues},
	{"events of ten megabytes", keepsHistory, checkLargeEvents},
	{"hostile names, keys and ids stay apart", keepsHistory, checkHistoryNames},
	{"an import adds one INSERT per row", func(c features) bool { return c.history }, checkHistoryImport},
	{"a history survives a fault at any step of a batch", func(c features) bool { return c.history && c.faulty }, checkHistoryFaults},
}

func keepsHistory(c features) bool { return c.history }

// storedEvent has the parts of a stored event that are compared by the checks.
type storedEvent struct {
	ID, Table, Key, Op, After string
	Imported                  bool
}

// recall returns the stored events by table and key, in the order of the history. If the
// destination may repeat events, recall omits repeated events.
func (h *harness) recall() map[string][]storedEvent {
	h.Helper()
	history := make(map[string][]storedEvent)
	places := make(map[string]bool)
	for _, stored := range h.config.History(h.outer, h.url) {
		if places[stored.Place] {
			h.Errorf("%s is stored twice", stored.Place)
		}
		places[stored.Place] = true
		if !json.Valid(stored.Event) || strings.ContainsRune(strings.TrimSuffix(string(stored.Event), "\n"), '\n') {
			h.Errorf("%s is not one line of JSON: %.100q", stored.Place, stored.Event)
			continue
		}
		var e cdc.Event
		if err := cdc.NewDecoder().Decode(&e, stored.Event, ""); err != nil {
			h.Errorf("%s does not decode: %v", stored.Place, err)
			continue
		}
		r := recordOf(&e)
		row := r.Table + " " + r.Key
		if h.config.Duplicates && slices.Contains(history[row], r) {
			continue
		}
		history[row] = append(history[row], r)
	}
	return history
}

func recordOf(e *cdc.Event) storedEvent {
	c := schema.Column{Type: schema.Object}
	key, _ := verify.Canonical(c, e.Key)
	after, _ := verify.Canonical(c, e.After)
	return storedEvent{ID: e.ID, Table: e.Table, Key: key, Op: e.Op.String(), After: after, Imported: e.Imported}
}

// expectHistory compares the stored events of each row with the steps.
func (h *harness) expectHistory(steps []textChange) {
	h.Helper()
	want := make(map[string][]storedEvent)
	for _, st := range steps {
		e, _ := st.decode(h)
		r := recordOf(e)
		row := r.Table + " " + r.Key
		want[row] = append(want[row], r)
	}
	got := h.recall()
	for row, events := range want {
		if !slices.Equal(got[row], events) {
			h.Errorf("row %.100q has the events %.500v, want %.500v", row, got[row], events)
		}
		delete(got, row)
	}
	for row := range got {
		h.Errorf("row %.100q has events that were not sent", row)
	}
}

func checkHistory(h *harness) {
	t, other := customers(h), newTable(h, "line", "1", 2, column("a", schema.String), column("b", schema.Integer))
	s := h.open()
	h.migrate(s, t, other)
	var steps []textChange
	for i := range 30 {
		id := i % 4
		steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":"%d","name":"it's %d"}`, id, i)),
			h.update(t, fmt.Sprintf(`{"id":"%d","visits":%d}`, id, i)),
			h.insert(other, fmt.Sprintf(`{"a":"%d","b":%d}`, id, 9007199254740993)), h.delete(t, fmt.Sprintf(`{"id":"%d"}`, id)))
	}
	h.apply(s, steps[:50]...)
	h.expectHistory(steps[:50])
	h.apply(s, steps[50:]...)
	h.apply(s, h.update(t, `{"id":"0","name":"last"}`))
	d := h.passing()
	if err := d.deliver(h.ctx(), s); err != nil {
		h.Errorf("a batch without events: %v", err)
	}
	h.close(s)
	all := append(slices.Clone(steps), h.last(t, `{"id":"0","name":"last"}`))
	h.expectHistory(all)
}

// last returns an update whose position is the one before the latest position, so that the update
// looks like an earlier step.
func (h *harness) last(t *schema.Table, row string) textChange {
	*h.sequence -= 2
	st := h.update(t, row)
	*h.sequence++
	return st
}

func checkHistoryReplays(h *harness) {
	rapid.Check(h.property(), func(t *rapid.T) {
		h := h.within(t)
		h.url = h.config.URL(h.outer)
		s := h.open()
		table := customers(h)
		h.migrate(s, table)
		var steps []textChange
		for i := range rapid.IntRange(1, 30).Draw(t, "changes") {
			steps = append(steps, h.update(table, fmt.Sprintf(`{"id":"%d","visits":%d}`, rapid.IntRange(0, 3).Draw(t, "id"), i)))
		}
		for next := 0; next < len(steps); {
			n := rapid.IntRange(1, len(steps)-next).Draw(t, "batch")
			h.apply(s, steps[next:next+n]...)
			next += n
			switch rapid.IntRange(0, 9).Draw(t, "replay") {
			case 0:
				h.apply(s, steps[next-n:next]...)
			case 1, 2, 3: // the server is killed, and opens the sink again
				h.close(s)
				s = h.open()
				next = h.resume(s, steps, rapid.IntRange(0, next).Draw(t, "place"))
			}
		}
		h.close(s)
		h.expectHistory(steps)
	})
}

func checkHistoryValues(h *harness) {
	t := valueTable(h)
	s := h.open()
	h.migrate(s, t)
	var steps []textChange
	for id, v := range values() {
		steps = append(steps, h.insert(t, v.row(t, id)))
	}
	h.apply(s, steps...)
	h.expectHistory(steps)
}

func checkLargeEvents(h *harness) {
	t := valueTable(h)
	s := h.open()
	h.migrate(s, t)
	steps := []textChange{
		h.insert(t, `{"id":"small"}`), h.insert(t, fmt.Sprintf(`{"id":"large","col_string":"%s"}`, tenMegabytes())),
		h.update(t, `{"id":"large"}`),
	}
	h.apply(s, steps...)
	h.expectHistory(steps)
}

func checkHistoryNames(h *harness) {
	s := h.open()
	var steps []textChange
	names := append([]string{
		"..", ".", "../..", "/etc/passwd", "a/../../b", "CON", "nul.json", "a\x00b", "%2e%2e", "%", "a%b",
		".hidden", "trailing.", "trailing ", strings.Repeat("k", 300), strings.Repeat("k", 300) + "2", "A", "a", "a-b", "a-b-c",
	},
		hostileNames...)
	for _, name := range names {
		t := newTable(h, name, "1", 1, column("id", schema.String))
		steps = append(steps, h.insert(t, `{"id":"1"}`), h.insert(customers(h), fmt.Sprintf(`{"id":%s}`, quoted(name))))
		odd := h.insert(customers(h), `{"id":"b"}`)
		odd.payload = strings.Replace(odd.payload, fmt.Sprintf(`"ev%d"`, *h.sequence), quoted(name), 1)
		steps = append(steps, odd)
	}
	h.apply(s, steps...)
	h.expectHistory(steps)
	if !h.config.Duplicates {
		h.apply(s, steps...)
		h.expectHistory(steps)
	}
}

func checkHistoryImport(h *harness) {
	t := customers(h)
	streamed := []textChange{}
	s := h.open()
	h.migrate(s, t)
	streamed = append(streamed, h.insert(t, `{"id":"s","name":"streamed"}`))
	h.apply(s, streamed...)

	files := map[string][]string{
		"one": {`{"id":"1","name":"it's"}`, `{"id":"2","visits":9007199254740993}`},
		"two": {`{"id":"3","name":"\u0000"}`},
	}
	importAll := func(job string) {
		l := h.begin(s, job, t, sink.Replace)
		if _, err := l.LoadFile(h.ctx(), "broken", failing(imagesOf(h, t, files["two"]...), errBroken)); !errors.Is(err, errBroken) ||
			l.Loaded("broken") {
			h.Errorf("a file that breaks: %v, loaded: %v", err, l.Loaded("broken"))
		}
		for _, name := range []string{"one", "two"} {
			if n, err := l.LoadFile(h.ctx(), name, imagesOf(h, t, files[name]...)); err != nil || n != int64(len(files[name])) {
				h.Errorf("import %s: %d rows, %v", name, n, err)
			}
		}
		h.end(l, true)
	}
	want := map[string]storedEvent{
		`customer ["1"]`: {Table: "customer", Key: `["1"]`, Op: "INSERT", After: `{"id":"1","name":"it's"}`, Imported: true},
		`customer ["2"]`: {Table: "customer", Key: `["2"]`, Op: "INSERT", After: `{"id":"2","visits":9007199254740993}`, Imported: true},
		`customer ["3"]`: {Table: "customer", Key: `["3"]`, Op: "INSERT", After: "{\"id\":\"3\",\"name\":\"\ufffd\"}", Imported: true},
	}
	var ids []string
	for range 2 { // the second time adds nothing, or the same again
		importAll("job")
		got := h.recall()
		for row, r := range want {
			if len(got[row]) != 1 {
				h.Errorf("row %s has the events %v, want one", row, got[row])
				continue
			}
			ids = append(ids, got[row][0].ID)
			r.ID = got[row][0].ID
			if got[row][0] != r || r.ID == "" {
				h.Errorf("row %s: %+v, want %+v", row, got[row][0], r)
			}
		}
		if len(got) != len(want)+1 {
			h.Errorf("there are events of %d rows, want %d", len(got), len(want)+1)
		}
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != len(want) {
		h.Error("ids of imported events differ from one import to the next, or are not unique")
	}
	h.apply(s, h.update(t, `{"id":"1","name":"changed"}`))
	if events := h.recall()[`customer ["1"]`]; len(events) != 2 || events[0].Op != "INSERT" || events[1].Op != "UPDATE" {
		h.Errorf("after a change of an imported row its events are %v", events)
	}
}

func checkHistoryFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	var all []textChange
	batch := func() []textChange {
		steps := []textChange{
			h.update(t, fmt.Sprintf(`{"id":"a","visits":%d}`, *h.sequence)),
			h.update(t, fmt.Sprintf(`{"id":"a","name":"%d"}`, *h.sequence)), h.insert(t, fmt.Sprintf(`{"id":"%d"}`, *h.sequence)),
		}
		all = append(all, steps...)
		return steps
	}
	h.apply(s, batch()...)
	before := faults.Steps()
	h.apply(s, batch()...)
	total := faults.Steps() - before
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total, mostBreaks) {
			steps := batch()
			faults.Break(n, mode)
			err := h.tryBroken(s, steps)
			faults.Repair()
			if err == nil {
				continue
			}
			h.checkTransient(err, n, mode)
			if n%2 == 0 { // as after a crash
				h.close(s)
				s, faults = h.config.Faulty(h.outer, h.url, h.env())
				steps = steps[h.resume(s, steps, 0):]
			}
			h.untilApplied(s, steps)
		}
	}
	h.expectHistory(all)
}
