package sinktest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// advances reports whether the loads of the sink are sink.Advancers, which is so if the sink keeps
// records.
func advances(c features) bool { return c.records }

var advanceChecks = []property{
	{"a load is brought forward before it is put in place", advances, checkAdvance},
	{
		"a load is brought forward with metadata columns", func(c features) bool { return advances(c) && c.metadata },
		func(h *harness) { h.checkAdvance(h.option("metadata=true")) },
	},
	{
		"a load is brought forward with soft deletes", func(c features) bool { return advances(c) && c.softDelete },
		func(h *harness) { h.checkAdvance(h.option("delete=soft")) },
	},
	{"a load that is brought forward keeps older changes out", advances, checkAdvanceGuard},
	{"a load without rows empties no table, whatever comes later", advances, checkAdvanceEmpty},
	{"a load that was brought forward starts afresh", advances, checkAdvanceResumed},
	{"a stage that was brought forward and lost its rows is not put in place", func(c features) bool {
		return advances(c) &&
			c.losesStage
	}, checkAdvanceLost},
	{"the columns change twice while a load is brought forward", advances, checkAdvanceColumns},
	{
		"a load is brought forward despite a fault at any step", func(c features) bool { return advances(c) && c.faulty },
		checkAdvanceFaults,
	},
}

// batchOf returns one batch with all the steps.
func (h *harness) batchOf(steps ...textChange) *change.Batch {
	h.Helper()
	all := h.batches(h, steps)
	if len(all) != 1 {
		h.Fatalf("the steps make %d batches", len(all))
	}
	return all[0].batch
}

// sealed begins a load, adds the rows of some files to the load, and seals the load.
func (h *harness) sealed(s sink.Sink, job string, t *schema.Table, images ...string) (sink.Load, sink.Advancer) {
	h.Helper()
	l := h.begin(s, job, t, sink.Replace)
	h.loadRest(l, t, images...)
	a, ok := l.(sink.Advancer)
	if !ok {
		h.Fatalf("%T cannot be brought forward", l)
	}
	if err := a.Seal(h.ctx()); err != nil {
		h.Fatalf("seal: %v", err)
	}
	return l, a
}

// bring applies later changes, in one batch, to a sealed load.
func (h *harness) bring(a sink.Advancer, steps ...textChange) {
	h.Helper()
	if err := a.Advance(h.ctx(), h.batchOf(steps...)); err != nil {
		h.Fatalf("bring a load forward: %v", err)
	}
}

func checkAdvance(h *harness) { h.checkAdvance(h.url) }

func (h *harness) checkAdvance(raw string) {
	h.Helper()
	t := customers(h)
	s := h.openURL(raw, importing, process("importing"))
	h.migrate(s, t)
	h.load(s, "before", t, sink.Replace, `{"id":"1","name":"old"}`)
	old := newTableModel()
	old.load(h, t, `{"id":"1","name":"old"}`)
	images := []string{`{"id":"1","name":"loaded"}`, `{"id":"2","name":"it's","visits":2}`, `{"id":"3"}`, `{"id":"2","name":"twice"}`}
	l, a := h.sealed(s, "job", t, images...)
	h.model(t.Name).load(h, t, images...)
	for range 2 {
		if err := a.Seal(h.ctx()); err != nil {
			h.Errorf("seal again: %v", err)
		}
	}
	first := h.batchOf(h.update(t, `{"id":"1","name":"later","visits":9007199254740993}`), h.insert(t, `{"id":"4"}`),
		h.delete(t, `{"id":"3"}`))
	for range 2 { // as if the first answer were lost
		if err := a.Advance(h.ctx(), first); err != nil {
			h.Fatalf("bring a load forward: %v", err)
		}
	}
	h.bring(a, h.delete(t, `{"id":"2"}`), h.insert(t, `{"id":"2","visits":5}`), h.insert(t, `{"id":"3","name":"again"}`))
	if err := a.Advance(h.ctx(), &change.Batch{First: h.position(), Last: h.position()}); err != nil {
		h.Errorf("bring a load forward over nothing: %v", err)
	}
	h.expectRows(s, t, old)
	applied := h.position()
	want := sink.LoadRecord{Table: t.Name, Clock: at(5), Rows: 4, Job: "job", Applied: applied}
	l.(sink.SnapshotLoad).Record(want)
	if rows := h.finish(l); rows != 4 {
		h.Errorf("the load reports %d rows, want 4", rows)
	}
	h.end(l, false)
	h.expect(s, t)
	h.expectRecords(h.records(s), sink.Records{ID: "id of importing", Snapshots: []sink.LoadRecord{want}})
	again := h.begin(s, "job", t, sink.Replace)
	if again.Loaded("file 0") {
		h.Error("a finished load is not forgotten")
	}
	h.end(again, false)
	h.apply(h.open(), h.update(t, `{"id":"4","name":"after"}`))
	h.expect(s, t)
}

// checkAdvanceGuard applies changes that are older than a staged row, under the update strategy
// that ignores older changes.
func checkAdvanceGuard(h *harness) {
	t := customers(h)
	s := h.open(importing, func(e *sink.Env) { e.After = true })
	h.migrate(s, t)
	l, a := h.sealed(s, "job", t, `{"id":"1","name":"loaded"}`)
	later := h.at(t, cdc.Update, "", `{"id":"1","name":"later"}`, startClock+100)
	h.bring(a, later)
	want := h.model(t.Name).clone()
	h.bring(a, h.at(t, cdc.Update, "", `{"id":"1","name":"older"}`, startClock+99), h.at(t, cdc.Delete, `{"id":"1"}`, "", startClock+98))
	h.end(l, true)
	h.expectRows(s, t, want)
}

func checkAdvanceEmpty(h *harness) {
	s, t := withOldRows(h)
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "one")
	if err := l.(sink.Advancer).Seal(h.ctx()); !errors.Is(err, sink.ErrWouldEmpty) {
		h.Errorf("sealing a load without rows: %v", err)
	}
	old := h.model(t.Name).clone()
	h.bring(l.(sink.Advancer), h.insert(t, `{"id":"new"}`))
	if _, err := l.Finish(h.ctx()); !errors.Is(err, sink.ErrWouldEmpty) {
		h.Errorf("finishing it: %v", err)
	}
	h.expectRows(s, t, old)
	h.end(l, false)

	// A load whose rows were all deleted by later changes may be finished.
	images := []string{`{"id":"1"}`}
	l, a := h.sealed(s, "another job", t, images...)
	h.bring(a, h.delete(t, `{"id":"1"}`))
	if rows := h.finish(l); rows != 0 {
		h.Errorf("%d rows were put in place", rows)
	}
	h.end(l, false)
	h.expectRows(s, t, newTableModel())
}

func checkAdvanceResumed(h *harness) {
	s, t := withOldRows(h)
	old := h.model(t.Name).clone()
	images := []string{`{"id":"a"}`, `{"id":"b"}`}
	l, _ := h.sealed(s, "job", t, images...)
	h.end(l, false)
	l = h.begin(s, "job", t, sink.Replace)
	if !l.Loaded("file 0") {
		h.Error("a load that was only sealed starts afresh")
	}
	a := l.(sink.Advancer)
	if err := a.Seal(h.ctx()); err != nil {
		h.Fatal(err)
	}
	h.bring(a, h.insert(t, `{"id":"c"}`))
	h.end(l, false)
	l = h.begin(s, "job", t, sink.Replace)
	if l.Loaded("file 0") {
		h.Error("a load that was brought forward is resumed")
	}
	h.expectRows(s, t, old)
	h.loadRest(l, t, images...)
	h.end(l, true)
	want := newTableModel()
	want.load(h, t, images...)
	h.expectRows(s, t, want)
}

func checkAdvanceLost(h *harness) {
	s, t := withOldRows(h)
	old := h.model(t.Name).clone()
	l, a := h.sealed(s, "job", t, `{"id":"a"}`, `{"id":"b"}`, `{"id":"c"}`)
	h.bring(a, h.update(t, `{"id":"a","name":"later"}`))
	h.config.LoseStage(h.outer, h.url, "job", t.Name, "b")
	h.config.LoseStage(h.outer, h.url, "job", t.Name, "c")
	if _, err := l.Finish(h.ctx()); !errors.Is(err, sink.ErrLoadLost) {
		h.Errorf("finishing with a stage that lost rows: %v", err)
	}
	h.end(l, false)
	h.expectRows(s, t, old)
}

// checkAdvanceColumns applies changes with a new column, and then changes with another type of a
// column.
func checkAdvanceColumns(h *harness) {
	t := newTable(h, "part", "1", 1, column("id", schema.String), column("size", schema.Integer))
	second := newTable(h, "part", "2", 1, column("id", schema.String), column("size", schema.Integer), column("note", schema.String))
	third := newTable(h, "part", "3", 1, column("id", schema.String), column("size", schema.Number))
	s := h.open(importing)
	h.migrate(s, t)
	for i, steps := range [][]textChange{
		{h.update(second, `{"id":"1","size":1,"note":"new"}`)},
		{h.update(third, `{"id":"1","size":0.5}`)},
		nil,
	} {
		l, a := h.sealed(s, "job", t, `{"id":"1","size":7}`)
		if steps == nil {
			h.models[t.Name] = newTableModel()
			h.bring(a, h.update(second, `{"id":"1","size":2,"note":"kept"}`))
			h.bring(a, h.update(third, `{"id":"1","size":0.25}`), h.insert(third, `{"id":"2"}`))
			h.end(l, true)
			break
		}
		narrow := new(sink.NarrowLoadError)
		if err := a.Advance(h.ctx(), h.batchOf(steps...)); !errors.As(err, &narrow) {
			h.Fatalf("change %d of the columns: %v", i+1, err)
		}
		t = narrow.Table
		h.end(l, false)
	}
	want := newTable(h, "part", t.Version, 1, column("id", schema.String), column("note", schema.String), column("size", schema.Number))
	if diff := cmp.Diff(want.Columns, t.Columns); diff != "" {
		h.Errorf("the columns are not those of all versions: %s", diff)
	}
	h.expect(s, t)
}

// checkAdvanceFaults applies two consecutive batches with Advance, and breaks these calls at each
// of their steps.
func checkAdvanceFaults(h *harness) {
	env := h.env()
	importing(&env)
	s, faults := h.config.Faulty(h.outer, h.url, env)
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	converge := func(what string, do func(ctx context.Context) error) {
		h.Helper()
		err := do(h.ctx())
		faults.Repair()
		for attempt := 0; err != nil; attempt++ {
			if attempt == 5 || errors.Is(err, sink.ErrLoadLost) {
				h.Fatalf("%s once the destination is back: %v", what, err)
			}
			err = do(h.ctx())
		}
	}
	round := 0
	run := func(n int, mode Mode) (steps int) {
		h.Helper()
		round++
		images := []string{fmt.Sprintf(`{"id":"1","visits":%d}`, round), `{"id":"2"}`}
		l, a := h.sealed(s, fmt.Sprint("job ", round), t, images...)
		h.models[t.Name] = newTableModel()
		h.model(t.Name).load(h, t, images...)
		first := h.batchOf(h.update(t, `{"id":"1","name":"first"}`), h.insert(t, `{"id":"3"}`))
		second := h.batchOf(h.update(t, `{"id":"1","name":"second"}`), h.delete(t, `{"id":"2"}`))
		before := faults.Steps()
		if mode != "" {
			faults.Break(n, mode)
		}
		what := strings.TrimSpace(fmt.Sprintf("broken %s %d", mode, n+1))
		converge(what+": the first batch", func(ctx context.Context) error { return a.Advance(ctx, first) })
		converge(what+": the second batch", func(ctx context.Context) error { return a.Advance(ctx, second) })
		steps = faults.Steps() - before
		h.end(l, true)
		h.expect(s, t)
		return steps
	}
	total := run(0, "")
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total+2, mostBreaks/4) {
			run(n, mode)
		}
	}
}
