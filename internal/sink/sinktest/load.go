package sinktest

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var loadChecks = []property{
	{"a load replaces a table, when it is finished and not before", loadsRows, checkReplace},
	{"a load merges into a table", loadsRows, checkMerge},
	{"a load without rows empties a table only on request", loadsRows, checkEmptyLoad},
	{"a file that fails stages nothing", loadsRows, checkBrokenFile},
	{"a file with a refused row stages nothing", loadsRows, checkRefusedRow},
	{"an interrupted load resumes", loadsRows, checkResumedLoad},
	{"another job starts afresh", loadsRows, checkOtherJob},
	{"a load resumed under another schema starts afresh", loadsRows, checkResumedUnderSchema},
	{"a load resumed under another update strategy starts afresh", loadsRows, checkResumedUnderStrategy},
	{"a load resumed without its stage starts afresh", losesStage, checkResumedWithoutStage},
	{"a stage that is gone is not put in place", losesStage, checkFinishWithoutStage},
	{"a stage that lost a row is not put in place", losesStage, checkFinishWithLostRow},
	{"a file is loaded once", loadsRows, checkLoadedTwice},
	{"the last row of a repeated key stays", loadsRows, checkDuplicateKeys},
	{"a discarded load leaves the table alone", loadsRows, checkDiscard},
	{"a cancelled load leaves the table alone", loadsRows, checkCancelledLoad},
	{"tables load concurrently", loadsRows, checkConcurrentLoads},
	{"loads of tables with similar names stay apart", loadsRows, checkLoadsOfSimilarNames},
	{"readers see the old rows or the new ones", loadsRows, checkAtomicFinish},
	{"changes apply after a load", loadsRows, checkChangesAfterLoad},
	{"a load of a large file", loadsRows, checkLargeLoad},
}

func loadsRows(c features) bool { return c.rows }

func losesStage(c features) bool { return c.losesStage }

// imagesOf yields rows given as JSON objects. It reuses the memory of a row for the next row.
func imagesOf(h *harness, t *schema.Table, images ...string) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		var buffer []byte
		splitter := change.NewSplitter(t)
		for _, image := range images {
			row := split(h, splitter, image)
			buffer = append(buffer[:0], image...)
			row.Image = buffer
			if !yield(&row, nil) {
				return
			}
			for i := range buffer {
				buffer[i] = '!'
			}
		}
	}
}

// failing yields the rows, and then err.
func failing(rows iter.Seq2[*change.Row, error], err error) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		for row, e := range rows {
			if !yield(row, e) {
				return
			}
		}
		yield(nil, err)
	}
}

func (h *harness) begin(s sink.Sink, job string, t *schema.Table, mode sink.LoadMode) sink.Load {
	h.Helper()
	return h.beginScope(s, job, t, mode, sink.Scope{})
}

func (h *harness) loadFile(l sink.Load, t *schema.Table, file string, images ...string) {
	h.Helper()
	n, err := l.LoadFile(h.ctx(), file, imagesOf(h, t, images...))
	if err != nil {
		h.Fatalf("load %s: %v", file, err)
	}
	if n != int64(len(images)) || !l.Loaded(file) {
		h.Errorf("load %s: %d rows of %d, loaded: %v", file, n, len(images), l.Loaded(file))
	}
}

// end closes the load. If the argument finish is true, the load is finished before it is closed.
func (h *harness) end(l sink.Load, finish bool) {
	h.Helper()
	if finish {
		h.finish(l)
	}
	if err := l.Close(h.ctx()); err != nil {
		h.Fatalf("close the load: %v", err)
	}
}

// finish finishes a load, and returns the number of rows that Finish reports.
func (h *harness) finish(l sink.Load) int64 {
	h.Helper()
	rows, err := l.Finish(h.ctx())
	if err != nil {
		h.Fatalf("finish: %v", err)
	}
	return rows
}

// withOldRows creates a table, with rows that a load can replace.
func withOldRows(h *harness) (sink.Sink, *schema.Table) {
	h.Helper()
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"old","visits":1}`), h.insert(t, `{"id":"2","name":"old","visits":2}`))
	return s, t
}

func checkReplace(h *harness) {
	s, t := withOldRows(h)
	old := h.model(t.Name)
	l := h.begin(s, "job", t, sink.Replace)
	first, second := []string{`{"id":"2","name":"new"}`, `{"id":"3","name":"it's","visits":9007199254740993}`}, []string{`{"id":"4"}`}
	h.loadFile(l, t, "one", first...)
	h.expectRows(s, t, old)
	h.loadFile(l, t, "two", second...)
	h.loadFile(l, t, "empty")
	h.expectRows(h.open(), t, old)
	h.end(l, true)

	loaded := newTableModel()
	loaded.load(h, t, append(first, second...)...)
	h.expectRows(s, t, loaded)
	h.expectRows(h.open(), t, loaded)
	again := h.begin(s, "job", t, sink.Replace)
	if again.Loaded("one") || again.Loaded("two") {
		h.Error("a finished load is not forgotten")
	}
	h.end(again, false)
	h.expectRows(s, t, loaded)
}

func checkMerge(h *harness) {
	s, t := withOldRows(h)
	l := h.begin(s, "job", t, sink.Merge)
	images := []string{`{"id":"2","name":"new"}`, `{"id":"3","name":"new","visits":3}`}
	h.loadFile(l, t, "one", images...)
	h.expect(s, t)
	h.end(l, true)
	h.model(t.Name).load(h, t, images...)
	h.expect(s, t)
}

func checkEmptyLoad(h *harness) {
	s, t := withOldRows(h)
	if rows := h.load(s, "merge", t, sink.Merge); rows != 0 {
		h.Errorf("the load reports %d merged rows", rows)
	}
	h.expect(s, t)
	for job, files := range map[string][]string{"no file": nil, "empty files": {"one", "two"}} {
		l := h.begin(s, job, t, sink.Replace)
		for _, file := range files {
			h.loadFile(l, t, file)
		}
		for range 2 {
			if _, err := l.Finish(h.ctx()); !errors.Is(err, sink.ErrWouldEmpty) {
				h.Errorf("%s: finishing a load without rows: %v", job, err)
			}
		}
		h.expect(s, t)
		if err := l.Discard(h.ctx()); err != nil {
			h.Fatalf("discard: %v", err)
		}
		h.end(l, false)
		h.expect(s, t)
	}
	if rows := h.load(s, "on request", t, sink.ReplaceOrEmpty); rows != 0 {
		h.Errorf("the load reports %d rows", rows)
	}
	h.expectRows(s, t, newTableModel())
	h.load(s, "again", t, sink.Replace) // the table is already empty
	h.expectRows(s, t, newTableModel())
	fresh := newTable(h, "fresh", "1", 1, column("id", schema.String))
	h.load(s, "replace", fresh, sink.Replace)
	h.apply(s, h.insert(fresh, `{"id":"1"}`))
	h.expect(s, fresh)
}

// load loads each row from a separate file and finishes the load. It returns the number of rows
// that Finish reports.
func (h *harness) load(s sink.Sink, job string, t *schema.Table, mode sink.LoadMode, images ...string) int64 {
	h.Helper()
	l := h.begin(s, job, t, mode)
	h.loadRest(l, t, images...)
	rows := h.finish(l)
	h.end(l, false)
	return rows
}

// loadRest loads the files that are not loaded yet. Each image is the only row of its file.
func (h *harness) loadRest(l sink.Load, t *schema.Table, images ...string) {
	h.Helper()
	for i, image := range images {
		if file := fmt.Sprint("file ", i); !l.Loaded(file) {
			h.loadFile(l, t, file, image)
		}
	}
}

// rowsOf returns the rows of the table as sorted text.
func (h *harness) rowsOf(s sink.Sink, t *schema.Table) []string {
	h.Helper()
	var lines []string
	for row, err := range s.(sink.Reader).Read(h.ctx(), t) {
		if err != nil {
			h.Fatalf("read: %v", err)
		}
		line := ""
		for slot := range t.Columns {
			line += string(row.Value(slot)) + " "
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func checkLoadedTwice(h *harness) {
	s, t := withOldRows(h)
	l := h.begin(s, "job", t, sink.Replace)
	for range 2 {
		h.loadFile(l, t, "one", `{"id":"a","name":"n"}`, `{"id":"b","name":"n"}`)
	}
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, `{"id":"a","name":"n"}`, `{"id":"b","name":"n"}`)
	h.expectRows(s, t, loaded)
}

func checkDuplicateKeys(h *harness) {
	s, t := withOldRows(h)
	for _, mode := range []sink.LoadMode{sink.Replace, sink.Merge} {
		l := h.begin(s, "job", t, mode)
		files := [][]string{
			{`{"id":"a","name":"1"}`, `{"id":"b","name":"1"}`, `{"id":"a","name":"2"}`},
			{`{"id":"b","name":"2"}`, `{"id":"2","name":"2"}`},
		}
		if mode == sink.Replace {
			h.models[t.Name] = newTableModel()
		}
		for i, images := range files {
			h.loadFile(l, t, fmt.Sprintf("file %d", i), images...)
			h.model(t.Name).load(h, t, images...)
		}
		if rows := h.finish(l); rows != 3 {
			h.Errorf("the load reports %d rows", rows)
		}
		h.end(l, false)
		h.expect(s, t)
	}
}

func checkConcurrentLoads(h *harness) {
	s := h.open()
	var tables []*schema.Table
	for i := range 4 {
		tables = append(tables, newTable(h, fmt.Sprintf("t%d", i), "1", 1, column("id", schema.String), column("n", schema.Integer)))
	}
	var group sync.WaitGroup
	errs := make([]error, len(tables))
	images := make([][]string, len(tables))
	for i, t := range tables {
		for k := range 200 {
			images[i] = append(images[i], fmt.Sprintf(`{"id":"%d","n":%d}`, k, i))
		}
		h.model(t.Name).load(h, t, images[i]...)
		group.Go(func() { errs[i] = loadAll(h, s, "job", t, sink.Scope{}, images[i]) })
	}
	group.Wait()
	for i, t := range tables {
		if errs[i] != nil {
			h.Errorf("%s: %v", t.Name, errs[i])
			continue
		}
		h.expect(s, t)
	}
}

// checkLoadsOfSimilarNames loads several tables at the same time. The name of one table is the
// name of another plus a suffix that a destination might add.
func checkLoadsOfSimilarNames(h *harness) {
	s := h.open()
	tables := make(map[string]*schema.Table)
	loads := make(map[string]sink.Load)
	names := []string{
		"thing", "thing_old", "thing_key", "thing_new", "thing_stage", strings.Repeat("long", 30),
		strings.Repeat("long", 30) + "_old", strings.Repeat("long", 30) + "_key",
	}
	for _, name := range names {
		t := newTable(h, name, "1", 1, column("id", schema.String))
		h.migrate(s, t)
		h.apply(s, h.insert(t, `{"id":"old"}`))
		tables[name], loads[name] = t, h.begin(s, "job", t, sink.Replace)
	}
	for _, name := range names {
		image := fmt.Sprintf(`{"id":"of %s"}`, name)
		h.loadRest(loads[name], tables[name], image, image)
		h.models[name] = newTableModel()
		h.model(name).load(h, tables[name], image)
	}
	for _, name := range names {
		h.end(loads[name], true)
	}
	for _, name := range names {
		h.expect(s, tables[name])
	}
}

// loadAll loads a table from files of ten rows each.
func loadAll(h *harness, s sink.Sink, job string, t *schema.Table, scope sink.Scope, images []string) error {
	l, err := s.BeginLoad(h.ctx(), job, t, sink.Replace, scope)
	if err != nil {
		return err
	}
	for i := 0; i < len(images); i += 10 {
		if _, err := l.LoadFile(h.ctx(), fmt.Sprintf("file %d", i), imagesOf(h, t, images[i:i+10]...)); err != nil {
			return errors.Join(err, l.Close(h.ctx()))
		}
	}
	_, err = l.Finish(h.ctx())
	return errors.Join(err, l.Close(h.ctx()))
}

func checkChangesAfterLoad(h *harness) {
	s, t := withOldRows(h)
	l := h.begin(s, "job", t, sink.Replace)
	images := []string{`{"id":"1","name":"loaded","visits":1}`, `{"id":"9","name":"loaded","visits":9}`}
	h.loadFile(l, t, "one", images...)
	h.end(l, true)
	h.models[t.Name] = newTableModel()
	h.model(t.Name).load(h, t, images...)
	h.apply(s, h.update(t, `{"id":"1","name":"changed","visits":2}`), h.delete(t, `{"id":"9"}`), h.insert(t, `{"id":"10"}`))
	h.expect(s, t)
	wider := newTable(h, t.Name, "2", 1, column("id", schema.String), column("name", schema.String), column("visits", schema.Number),
		column("email", schema.String))
	l = h.begin(s, "next", wider, sink.Merge)
	h.loadFile(l, wider, "one", `{"id":"10","name":"x","visits":1.5,"email":"e"}`)
	h.end(l, true)
	h.model(t.Name).load(h, wider, `{"id":"10","name":"x","visits":1.5,"email":"e"}`)
	h.apply(s, h.insert(wider, `{"id":"11","visits":0.25}`), h.update(t, `{"id":"1","name":"changed again","visits":3}`))
	h.expect(s, wider)
}

func checkLargeLoad(h *harness) {
	s, t := withOldRows(h)
	var images []string
	for i := range 12_000 {
		images = append(images, fmt.Sprintf(`{"id":"%d","name":"customer number %d","visits":%d}`, i*7919%12_000, i, i))
	}
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "one", images...)
	h.end(l, true)
	loaded := newTableModel()
	loaded.load(h, t, images...)
	h.expectRows(s, t, loaded)
}
