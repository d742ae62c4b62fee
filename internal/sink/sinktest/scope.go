package sinktest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var scopeChecks = []property{
	{"a load of some companies replaces only their rows", loadsRows, checkCompanies},
	{"a load of some locations replaces only their rows", loadsRows, checkLocations},
	{"a load of some companies without rows removes theirs only on request", loadsRows, checkEmptyCompanies},
	{"a load of some companies needs a column that names them", loadsRows, checkNoCompanies},
	{"loads of one table by two jobs both succeed", loadsRows, checkTwoJobs},
	{"concurrent loads of one table by two jobs leave the rows of one", loadsRows, checkTwoJobsAtOnce},
	{"a table that eds made is adopted", adopts, checkAdopted},
	{"a table of another tool is not adopted", func(c features) bool { return adopts(c) && c.foreign }, checkNotAdopted},
}

func adopts(c features) bool { return c.adopts }

// beginScope starts to load the rows of a scope.
func (h *harness) beginScope(s sink.Sink, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) sink.Load {
	h.Helper()
	l, err := s.BeginLoad(h.ctx(), job, t, mode, scope)
	if err != nil {
		h.Fatalf("begin to load: %v", err)
	}
	return l
}

// jobs returns a table whose rows belong to companies and locations.
func jobs(h *harness, name string, keys ...string) *schema.Table {
	h.Helper()
	columns := []schema.Column{
		column("id", schema.String), column("companyId", schema.String), column("locationId", schema.String),
		column("n", schema.Integer),
	}
	for i, key := range keys {
		at := slices.IndexFunc(columns, func(c schema.Column) bool { return c.Name == key })
		columns[i], columns[at] = columns[at], columns[i]
	}
	return newTable(h, name, "1", len(keys), columns...)
}

// checkScope loads images, which are all in the scope, into a table that has other rows. The
// parameter gone lists the rows that the load must remove, and the parameter stay lists the rows
// that it must keep.
func (h *harness) checkScope(t *schema.Table, scope sink.Scope, gone, stay, images []string, changes ...func(*sink.Env)) {
	h.Helper()
	s := h.open(changes...)
	h.migrate(s, t)
	var before []textChange
	for _, image := range slices.Concat(gone, stay) {
		before = append(before, h.insert(t, image))
	}
	h.apply(s, before...)
	l := h.beginScope(s, "job", t, sink.Replace, scope)
	h.loadRest(l, t, images...)
	h.expect(s, t)
	h.end(l, true)
	h.models[t.Name] = newTableModel()
	h.model(t.Name).load(h, t, slices.Concat(stay, images)...)
	h.expect(s, t)
	h.expect(h.open(changes...), t)
	h.apply(s, h.delete(t, stay[0]), h.insert(t, gone[0]))
	h.expect(s, t)
}

func checkCompanies(h *harness) {
	odd := `it's a \"back\\slash\" %`
	scope := sink.Scope{Companies: []string{`it's a "back\slash" %`, "x"}}
	for i, after := range []bool{false, true} {
		strategy := func(env *sink.Env) { env.After = after }
		for _, t := range []*schema.Table{jobs(h, fmt.Sprint("by_id_", i), "id"), jobs(h, fmt.Sprint("by_company_", i), "companyId",
			"id")} {
			stay := []string{`{"id":"3","companyId":"y","n":3}`, `{"id":"4","companyId":"X","n":4}`}
			if !h.config.PadsKeys {
				stay = append(stay, `{"id":"5","companyId":"x ","n":5}`)
			}
			if t.Keys == 1 {
				stay = append(stay, `{"id":"6","n":6}`)
			}
			h.checkScope(t, scope, []string{
				`{"id":"1","companyId":"x","n":1}`, `{"id":"2","companyId":"x","n":2}`,
				`{"id":"7","companyId":"` + odd + `","n":7}`,
			}, stay,
				[]string{`{"id":"2","companyId":"x","n":22}`, `{"id":"8","companyId":"x","n":8}`, `{"id":"9","companyId":"` + odd +
					`","n":9}`}, strategy)
		}
	}
}

func checkLocations(h *harness) {
	gone := []string{`{"id":"1","companyId":"x","locationId":"l1"}`}
	others := []string{`{"id":"2","companyId":"x","locationId":"l2"}`, `{"id":"3","companyId":"x"}`}
	foreign := `{"id":"4","companyId":"y","locationId":"l1"}`
	images := []string{`{"id":"5","companyId":"x","locationId":"l1"}`}
	h.checkScope(jobs(h, "both", "id"), sink.Scope{Companies: []string{"x"}, Locations: []string{"l1"}}, gone, append(others, foreign),
		images)
	h.checkScope(jobs(h, "location", "id"), sink.Scope{Locations: []string{"l1"}}, append(gone, foreign), others, images)
	// In the table of companies, the primary key is the company's id.
	own := newTable(h, "company", "1", 1, column("id", schema.String), column("name", schema.String))
	h.checkScope(own, sink.Scope{Companies: []string{"x", "y"}}, []string{`{"id":"y"}`}, []string{`{"id":"z"}`},
		[]string{`{"id":"x","name":"new"}`})
}

func checkEmptyCompanies(h *harness) {
	t := jobs(h, "job", "id")
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","companyId":"x"}`), h.insert(t, `{"id":"2","companyId":"y"}`))
	l := h.beginScope(s, "no rows", t, sink.Replace, sink.Scope{Companies: []string{"z"}})
	h.end(l, true)
	h.expect(s, t)
	x := sink.Scope{Companies: []string{"x"}}
	l = h.beginScope(s, "all rows", t, sink.Replace, x)
	if _, err := l.Finish(h.ctx()); !errors.Is(err, sink.ErrWouldEmpty) {
		h.Errorf("finishing a load without rows: %v", err)
	}
	h.expect(s, t)
	if err := l.Discard(h.ctx()); err != nil {
		h.Fatalf("discard: %v", err)
	}
	h.end(l, false)
	h.end(h.beginScope(s, "on request", t, sink.ReplaceOrEmpty, x), true)
	h.models[t.Name] = newTableModel()
	h.model(t.Name).load(h, t, `{"id":"2","companyId":"y"}`)
	h.expect(s, t)
}

func checkNoCompanies(h *harness) {
	s, t := withOldRows(h)
	if l, err := s.BeginLoad(h.ctx(), "job", t, sink.Replace, sink.Scope{Companies: []string{"x"}}); err == nil {
		h.end(l, false)
		h.Error("a load of one company replaces a table whose rows belong to none")
	}
	h.expect(s, t)
	l := h.beginScope(s, "job", t, sink.Merge, sink.Scope{Companies: []string{"x"}})
	h.loadRest(l, t, `{"id":"3"}`)
	h.end(l, true)
	h.model(t.Name).load(h, t, `{"id":"3"}`)
	h.expect(s, t)
}

// checkTwoJobs loads one table with two jobs, over two connections. The steps of the jobs
// alternate.
func checkTwoJobs(h *harness) {
	one, t := withOldRows(h)
	two := h.open()
	first, second := h.begin(one, "first", t, sink.Replace), h.begin(two, "second", t, sink.Replace)
	images := map[sink.Load][]string{
		first:  {`{"id":"1","name":"of the first"}`, `{"id":"3","name":"of the first"}`},
		second: {`{"id":"1","name":"of the second"}`, `{"id":"4","name":"of the second"}`},
	}
	for i := range 2 {
		for _, l := range []sink.Load{first, second} {
			h.loadFile(l, t, fmt.Sprint("file ", i), images[l][i])
		}
	}
	h.expect(one, t)
	for _, l := range []sink.Load{second, first} {
		h.end(l, true)
		h.models[t.Name] = newTableModel()
		h.model(t.Name).load(h, t, images[l]...)
		h.expect(one, t)
	}
	// Discarding a load does not discard the stage of another load.
	first, second = h.begin(one, "third", t, sink.Merge), h.begin(two, "fourth", t, sink.Merge)
	h.loadRest(first, t, `{"id":"5"}`)
	h.loadRest(second, t, `{"id":"6"}`)
	if err := second.Discard(h.ctx()); err != nil {
		h.Fatalf("discard: %v", err)
	}
	h.end(second, false)
	h.end(first, true)
	h.model(t.Name).load(h, t, `{"id":"5"}`)
	h.expect(one, t)
}

// checkTwoJobsAtOnce loads tables with two concurrent jobs. In one case, both jobs load the whole
// table. In the other case, both jobs load the rows of one company.
func checkTwoJobsAtOnce(h *harness) {
	t := jobs(h, "job", "id")
	setUp := h.open()
	h.migrate(setUp, t)
	for round, scope := range []sink.Scope{{}, {Companies: []string{"x"}}, {}, {Companies: []string{"x"}}} {
		images := make([][]string, 2)
		errs := make([]error, 2)
		var group sync.WaitGroup
		for i := range images {
			for k := range 20 {
				images[i] = append(images[i], fmt.Sprintf(`{"id":"%d-%d-%d","companyId":"x","n":%d}`, round, i, k, i))
			}
			s := h.open()
			group.Go(func() { errs[i] = loadAll(h, s, fmt.Sprint("job ", round, i), t, scope, images[i]) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			h.Fatalf("load by two jobs at once: %v", err)
		}
		candidates := make(map[string]bool)
		for i := range images {
			m := newTableModel()
			m.load(h, t, images[i]...)
			candidates[fmt.Sprint("the rows of job ", i)] = h.compare(setUp, t, m).Equal()
		}
		if !slices.Contains(slices.Collect(maps.Values(candidates)), true) {
			h.Errorf("round %d: the table has the rows of neither job: %q", round, h.rowsOf(setUp, t))
		}
	}
}

func checkAdopted(h *harness) {
	s, t := withOldRows(h)
	for _, same := range []*schema.Table{t, newTable(h, t.Name, "2", 1, column("id", schema.String), column("name", schema.String),
		column("visits", schema.Integer), column("email", schema.String)), customers(h)} {
		if err := s.(sink.Adopter).Adopt(h.ctx(), same); err != nil {
			h.Errorf("a table that eds made: %v", err)
		}
	}
	if err := s.(sink.Adopter).Adopt(h.ctx(), newTable(h, "nonsuch", "1", 1, column("id", schema.String))); err != nil {
		h.Errorf("no table: %v", err)
	}
	empty := newTable(h, "empty", "1", 1, column("id", schema.String))
	h.migrate(s, empty)
	if err := s.(sink.Adopter).Adopt(h.ctx(), newTable(h, "empty", "1", 1, column("other", schema.String))); err != nil {
		h.Errorf("a table without rows: %v", err)
	}
}

func checkNotAdopted(h *harness) {
	h.config.Foreign(h.outer, h.url, "theirs")
	s := h.open()
	defer h.close(s)
	for what, t := range map[string]*schema.Table{
		"another key":           newTable(h, "theirs", "1", 1, column("n", schema.Integer), column("s", schema.String)),
		"a longer key":          newTable(h, "theirs", "1", 2, column("id", schema.String), column("n", schema.Integer)),
		"a key that is missing": newTable(h, "theirs", "1", 1, column("key", schema.String)),
		"most columns missing": newTable(h, "theirs", "1", 1, column("id", schema.String), column("a", schema.String),
			column("b", schema.String), column("n", schema.Integer)),
	} {
		if err := s.(sink.Adopter).Adopt(h.ctx(), t); !errors.Is(err, sink.ErrForeign) {
			h.Errorf("%s: %v", what, err)
		}
	}
	if err := s.(sink.Adopter).Adopt(h.ctx(), newTable(h, "theirs", "1", 1, column("id", schema.String),
		column("n", schema.Integer))); err != nil {
		h.Errorf("a table with the same key and columns: %v", err)
	}
}
