package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var errBroken = errors.New("the file ends in the middle")

func checkBrokenFile(h *harness) {
	s, t := withOldRows(h)
	old := h.model(t.Name)
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "good", `{"id":"a","name":"good"}`)
	broken := []string{`{"id":"b"}`, `{"id":"c"}`}
	for range 2 {
		if _, err := l.LoadFile(h.ctx(), "bad", failing(imagesOf(h, t, broken...), errBroken)); !errors.Is(err, errBroken) {
			h.Errorf("a file that breaks: %v", err)
		}
		if l.Loaded("bad") || !l.Loaded("good") {
			h.Errorf("loaded: bad %v, good %v", l.Loaded("bad"), l.Loaded("good"))
		}
	}
	h.expectRows(s, t, old)
	h.loadFile(l, t, "bad", `{"id":"d","name":"repaired"}`)
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, `{"id":"a","name":"good"}`, `{"id":"d","name":"repaired"}`)
	h.expectRows(s, t, loaded)
}

func checkRefusedRow(h *harness) {
	t, bad, ok := h.poisonRow()
	if !ok {
		return
	}
	s := h.open()
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "good", `{"id":"a"}`)
	_, err := l.LoadFile(h.ctx(), "bad", imagesOf(h, t, `{"id":"b"}`, bad("c"), `{"id":"d"}`))
	h.expectClass(err, fault.Poison)
	if e := new(sink.RowError); errors.As(err, &e) && e.Row != 2 {
		h.Errorf("row %d is reported as refused, want 2", e.Row)
	}
	if l.Loaded("bad") {
		h.Error("the file counts as loaded")
	}
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, `{"id":"a"}`)
	h.expectRows(s, t, loaded)
}

func checkResumedLoad(h *harness) {
	s, t := withOldRows(h)
	old := h.model(t.Name)
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "one", `{"id":"a"}`, `{"id":"b"}`)
	if _, err := l.LoadFile(h.ctx(), "two", failing(imagesOf(h, t, `{"id":"x"}`), errBroken)); err == nil {
		h.Error("a file that breaks is no error")
	}
	h.end(l, false)

	again := h.open()
	h.expectRows(again, t, old)
	l = h.begin(again, "job", t, sink.Replace)
	if !l.Loaded("one") || l.Loaded("two") {
		h.Errorf("after a restart, loaded: one %v, two %v", l.Loaded("one"), l.Loaded("two"))
	}
	h.loadFile(l, t, "two", `{"id":"c"}`)
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, `{"id":"a"}`, `{"id":"b"}`, `{"id":"c"}`)
	h.expectRows(again, t, loaded)
}

func checkOtherJob(h *harness) {
	s, t := withOldRows(h)
	l := h.begin(s, "first", t, sink.Replace)
	h.loadFile(l, t, "one", `{"id":"of the first job"}`)
	h.end(l, false)
	l = h.begin(s, "second", t, sink.Replace)
	if l.Loaded("one") {
		h.Error("files of another job count as loaded")
	}
	h.loadFile(l, t, "two", `{"id":"of the second job"}`)
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, `{"id":"of the second job"}`)
	h.expectRows(s, t, loaded)
}

// resumeLoad begins a load and loads the first of the images. Then it resumes the load over a new
// connection, and loads all images. Its arguments are the table's schema
// for the first load, and for the resumed one.
func (h *harness) resumeLoad(before, after *schema.Table, images []string, changes ...func(*sink.Env)) sink.Sink {
	h.Helper()
	l := h.begin(h.open(), "job", before, sink.Replace)
	h.loadRest(l, before, images[0])
	h.end(l, false)
	s := h.open(changes...)
	l = h.begin(s, "job", after, sink.Replace)
	h.loadRest(l, after, images...)
	h.end(l, true)
	return s
}

func checkResumedUnderSchema(h *harness) {
	id, visits := column("id", schema.String), column("visits", schema.Integer)
	before := newTable(h, "customer", "1", 1, id, visits)
	for _, c := range []struct {
		what  string
		after *schema.Table
		last  string
	}{
		{"a new column", newTable(h, "customer", "2", 1, id, visits, column("name", schema.String)), `{"id":"b","name":"two"}`},
		{"one column for another", newTable(h, "customer", "4", 1, id, column("name", schema.String)), `{"id":"b","name":"two"}`},
		{"a wider type", newTable(h, "customer", "5", 1, id, column("visits", schema.String)), `{"id":"b","visits":"many"}`},
	} {
		images := []string{`{"id":"a","visits":1,"name":"one"}`, c.last}
		s := h.resumeLoad(before, c.after, images)
		loaded := newTableModel()
		loaded.load(h, c.after, images...)
		if report := h.compare(s, c.after, loaded); !report.Equal() {
			h.Errorf("%s: %s", c.what, report)
		}
	}
}

func checkResumedUnderStrategy(h *harness) {
	t := customers(h)
	images := []string{`{"id":"a","name":"one"}`, `{"id":"b","name":"two"}`}
	for _, after := range []bool{true, false} {
		s := h.resumeLoad(t, t, images, func(env *sink.Env) { env.After = after })
		loaded := newTableModel()
		loaded.load(h, t, images...)
		h.expectRows(s, t, loaded)
	}
}

func checkResumedWithoutStage(h *harness) {
	s, t := withOldRows(h)
	images := []string{`{"id":"a"}`, `{"id":"b"}`, `{"id":"c"}`}
	l := h.begin(s, "job", t, sink.Replace)
	h.loadRest(l, t, images[:2]...)
	h.end(l, false)
	l = h.begin(s, "job", t, sink.Replace)
	h.config.LoseStage(h.outer, h.url, "job", t.Name, "")
	if _, err := l.LoadFile(h.ctx(), "file 2", imagesOf(h, t, images[2])); err != nil && !errors.Is(err, sink.ErrLoadLost) {
		h.expectTransient(err)
	}
	h.end(l, false)
	again := h.open()
	l = h.begin(again, "job", t, sink.Replace)
	h.loadRest(l, t, images...)
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, images...)
	h.expectRows(again, t, loaded)
}

// checkFinishWithoutStage drops a complete stage. Finish must then return an error, because it
// has put no rows in place.
func checkFinishWithoutStage(h *harness) {
	h.checkLostLoad("")
}

// checkFinishWithLostRow deletes one row of a complete stage.
func checkFinishWithLostRow(h *harness) {
	h.checkLostLoad("b")
}

// checkLostLoad loads a table and damages the stage. Finish must return an error and leave the
// table unchanged. Then the load must be able to start again.
func (h *harness) checkLostLoad(id string) {
	h.Helper()
	s, t := withOldRows(h)
	images := []string{`{"id":"a"}`, `{"id":"b"}`, `{"id":"a","name":"again"}`}
	for _, mode := range []sink.LoadMode{sink.Replace, sink.Merge} {
		job := fmt.Sprint("job ", mode)
		before := h.rowsOf(s, t)
		l := h.begin(s, job, t, mode)
		h.loadRest(l, t, images...)
		h.config.LoseStage(h.outer, h.url, job, t.Name, id)
		if _, err := l.Finish(h.ctx()); !errors.Is(err, sink.ErrLoadLost) {
			h.Errorf("finishing with a damaged stage: %v", err)
		}
		if after := h.rowsOf(s, t); !slices.Equal(after, before) {
			h.Errorf("the rows changed: %q", after)
		}
		h.end(l, false)
		l = h.begin(s, job, t, mode)
		h.loadRest(l, t, images...)
		h.end(l, true)
		want := h.model(t.Name)
		if mode == sink.Replace {
			want = newTableModel()
			h.models[t.Name] = want
		}
		want.load(h, t, images...)
		h.expect(s, t)
	}
}

func checkDiscard(h *harness) {
	s, t := withOldRows(h)
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "one", `{"id":"a"}`)
	if err := l.Discard(h.ctx()); err != nil {
		h.Fatalf("discard: %v", err)
	}
	h.end(l, false)
	h.expect(s, t)
	l = h.begin(s, "job", t, sink.Merge)
	if l.Loaded("one") {
		h.Error("a discarded load is not forgotten")
	}
	h.end(l, true)
	h.expect(s, t)
}

func checkCancelledLoad(h *harness) {
	s, t := withOldRows(h)
	old := h.model(t.Name)
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "one", `{"id":"a"}`)
	ctx, cancel := context.WithCancel(h.ctx())
	defer cancel()
	cancelling := func(yield func(*change.Row, error) bool) {
		for row, err := range imagesOf(h, t, `{"id":"b"}`, `{"id":"c"}`) {
			if !yield(row, err) {
				return
			}
			cancel()
		}
		yield(nil, ctx.Err())
	}
	if _, err := l.LoadFile(ctx, "two", cancelling); err == nil || l.Loaded("two") {
		h.Errorf("a cancelled file: %v, loaded: %v", err, l.Loaded("two"))
	}
	if _, err := l.Finish(ctx); err == nil {
		h.Error("finishing with a cancelled context is no error")
	}
	h.expectRows(s, t, old)
	h.loadFile(l, t, "two", `{"id":"d"}`)
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, `{"id":"a"}`, `{"id":"d"}`)
	h.expectRows(s, t, loaded)
}
