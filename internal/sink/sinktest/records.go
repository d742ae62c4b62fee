package sinktest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func keepsRecords(c features) bool { return c.records }

// takesSQL reports whether a check can change the records with SQL statements of the destination.
func takesSQL(c features) bool { return c.records && c.sql }

var recordChecks = []property{
	{"records of a new destination", keepsRecords, checkNewRecords},
	{"records name the latest writer, and keep the first id", keepsRecords, checkEpochs},
	{"a destination that was restored is reopened", takesSQL, checkRestored},
	{"a destination without its checkpoint is reopened", takesSQL, checkCheckpointGone},
	{"a later writer is named", keepsRecords, checkLaterWriter},
	{"a later writer with another filter is named", keepsRecords, checkLaterFilter},
	{"a writer of an earlier version is noticed", takesSQL, checkEarlierWriter},
	{"a checkpoint of an earlier version is taken over", takesSQL, checkEarlierCheckpoint},
	{"records that changed since they were read are read again", keepsRecords, checkChangedRecords},
	{"an import is followed by a running server", func(c features) bool { return c.records }, checkImportBeside},
	{"a complete snapshot replaces the others of its table", func(c features) bool { return c.records }, checkSnapshots},
	{"a server that begins while an import runs", func(c features) bool { return c.records }, checkBeginBesideImport},
	{"concurrent loads are each recorded", func(c features) bool { return c.records }, checkLoadsAtOnce},
	{"concurrent loads are all followed, whichever ends first", func(c features) bool { return c.records }, checkLoadsAreFollowed},
	{"a whole import", func(c features) bool { return c.records }, checkWholeImport},
	{"a changed filter continues from the position of each subject", keepsRecords, checkChangedFilter},
	{"closing releases the checkpoint", keepsRecords, checkRelease},
	{
		"an import that is killed leaves records that fit the rows", func(c features) bool { return c.records && c.faulty },
		checkKilledImport,
	},
	{"beginning survives a fault at any step", func(c features) bool { return c.records && c.faulty }, checkBeginFaults},
	{"a batch of a writer survives a fault at any step", func(c features) bool { return c.records && c.faulty }, checkWriterFaults},
}

// writerSince is the start time of the processes in these checks.
var writerSince = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// process returns an option that makes the sink belong to a process on the named host.
func process(host string) func(*sink.Env) {
	return func(e *sink.Env) {
		e.ID, e.Writer = "id of "+host, sink.Writer{Host: host, Version: "1.2.3", Since: writerSince}
	}
}

// importing is an option that makes the sink belong to an import.
func importing(e *sink.Env) { e.Consumer = "" }

// filtered returns an option that sets a filter for the given companies.
func filtered(companies ...string) func(*sink.Env) {
	var subjects []string
	for _, c := range companies {
		subjects = append(subjects, subjectOf(c))
	}
	return func(e *sink.Env) { e.Filter = strings.Join(subjects, " ") }
}

func subjectOf(company string) string { return "dbchange.*.*." + company + ".*.PUBLIC.>" }

func (h *harness) records(s sink.Sink) sink.Records {
	h.Helper()
	r, err := s.(sink.Recorder).Records(h.ctx())
	if err != nil {
		h.Fatalf("read the records: %v", err)
	}
	return r
}

// beginAt calls Begin with position p, and returns the epoch.
func (h *harness) beginAt(s sink.Sink, p cdc.Position, snapshots ...sink.LoadRecord) int64 {
	h.Helper()
	epoch, err := s.(sink.Recorder).Begin(h.ctx(), sink.Beginning{Position: p, Snapshots: snapshots})
	if err != nil {
		h.Fatalf("begin: %v", err)
	}
	return epoch
}

// server opens the destination as a server does, and continues from the recorded position.
func (h *harness) server(changes ...func(*sink.Env)) sink.Sink {
	h.Helper()
	s := h.open(changes...)
	h.resumeWriting(s)
	return s
}

func (h *harness) resumeWriting(s sink.Sink) {
	h.Helper()
	at := h.position()
	if r := h.records(s); r.Checkpoint != nil {
		at = r.Checkpoint.Position
	}
	h.beginAt(s, at)
}

// expectRecords compares records. It ignores epochs and generations.
func (h *harness) expectRecords(got, want sink.Records) {
	h.Helper()
	ignored := cmp.Options{
		cmpopts.IgnoreFields(sink.Recorded{}, "Epoch", "Followed"), cmpopts.IgnoreFields(sink.LoadRecord{}, "Generation", "Imported",
			"Object"), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b sink.LoadRecord) bool {
			return fmt.Sprint(a.Table, a.Merged, a.Scope) < fmt.Sprint(b.Table, b.Merged, b.Scope)
		}),
	}
	if diff := cmp.Diff(want, got, ignored); diff != "" {
		h.Errorf("the records differ (-want +got): %s", diff)
	}
}

func (h *harness) sql(statement string) {
	h.Helper()
	h.config.SQL(h.outer, h.url, statement)
}

// expectReopen checks that err is a sink.ReopenError whose field Imported has the given value.
func (h *harness) expectReopen(err error, imported bool) {
	h.Helper()
	reopen := new(sink.ReopenError)
	if !errors.As(err, &reopen) || fault.Of(err) != fault.Fatal {
		h.Errorf("want a fatal *sink.ReopenError, got %v", err)
	} else if reopen.Imported != imported {
		h.Errorf("the reason is an import: %t, want %t: %v", reopen.Imported, imported, err)
	}
}

// expectWriter checks that err is a sink.WriterError that names a process on the given host. If
// host is "", the error must name a process of an earlier version.
func (h *harness) expectWriter(err error, host string) {
	h.Helper()
	other := new(sink.WriterError)
	if !errors.As(err, &other) || fault.Of(err) != fault.Fatal {
		h.Errorf("want a fatal *sink.WriterError, got %v", err)
		return
	}
	want := sink.WriterError{Consumer: h.env().Consumer}
	if host != "" {
		want.Writer = sink.Writer{Host: host, Version: "1.2.3", Since: writerSince}
	}
	if diff := cmp.Diff(want, *other); diff != "" {
		h.Errorf("the error does not name the writer: %s", diff)
	}
}

// refused applies a change of t with s, and returns the error. The call must fail and have no
// effect.
func (h *harness) refused(s sink.Sink, t *schema.Table) error {
	h.Helper()
	before := h.model(t.Name).clone()
	err := h.try(s, h.update(t, fmt.Sprintf(`{"id":"1","name":"of the loser %d"}`, *h.sequence)))
	h.models[t.Name] = before
	h.expect(h.open(importing), t)
	return err
}

func checkNewRecords(h *harness) {
	t := customers(h)
	s := h.open(process("one"))
	h.expectRecords(h.records(s), sink.Records{})
	if p := h.checkpoint(s); p != (cdc.Position{}) {
		h.Errorf("the checkpoint is %v before anything was begun", p)
	}
	h.records(s)
	h.beginAt(s, cdc.Position{})
	h.expectRecords(h.records(h.open(process("two"))), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{}})
	h.apply(s, h.insert(t, `{"id":"1"}`))
	h.expect(s, t)
	h.expectRecords(h.records(h.open(process("two"))), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: h.position()}})
	if err := s.(sink.Recorder).Check(h.ctx()); err != nil {
		h.Errorf("check: %v", err)
	}
	h.apply(s, h.update(t, `{"id":"1","name":"later"}`))
	h.expect(s, t)
}

func checkEpochs(h *harness) {
	var last int64
	for _, host := range []string{"one", "two", "three"} {
		s := h.open(process(host))
		h.records(s)
		epoch := h.beginAt(s, cdc.Position{Sequence: 5, Stored: 50})
		if epoch <= last {
			h.Errorf("epoch %d follows %d", epoch, last)
		}
		last = epoch
	}
	r := h.records(h.open())
	h.expectRecords(r, sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: cdc.Position{Sequence: 5, Stored: 50}}})
	if r.Checkpoint.Epoch != last {
		h.Errorf("the epoch is %d, want %d", r.Checkpoint.Epoch, last)
	}
	s := h.open(func(e *sink.Env) { e.Epoch = last + 1<<30 })
	h.records(s)
	if epoch := h.beginAt(s, cdc.Position{}); epoch <= last+1<<30 {
		h.Errorf("epoch %d follows %d, which the process remembers", epoch, last+1<<30)
	}
}

// written opens the destination as a server, and writes a row twice. It returns the position
// between the two changes.
func (h *harness) written(changes ...func(*sink.Env)) (sink.Sink, *schema.Table, cdc.Position) {
	h.Helper()
	t := customers(h)
	s := h.server(changes...)
	h.apply(s, h.insert(t, `{"id":"1","name":"first"}`))
	before := h.position()
	h.apply(s, h.update(t, `{"id":"1","name":"second"}`))
	return s, t, before
}

func checkRestored(h *harness) {
	s, t, before := h.written(process("one"))
	h.sql(fmt.Sprintf("UPDATE _eds_checkpoint SET position = %d, stored = %d", before.Sequence, before.Stored))
	h.expectReopen(h.refused(s, t), false)
	h.expectReopen(h.refused(s, t), false)
	h.expectReopen(s.(sink.Recorder).Check(h.ctx()), false)
	r := h.records(s)
	h.expectRecords(r, sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: before}})
	h.beginAt(s, r.Checkpoint.Position)
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
}

func checkCheckpointGone(h *harness) {
	s, t, _ := h.written(process("one"))
	h.sql("DELETE FROM _eds_checkpoint")
	h.expectReopen(s.(sink.Recorder).Check(h.ctx()), false)
	h.expectReopen(h.refused(s, t), false)
	h.expectRecords(h.records(s), sink.Records{ID: "id of one"})
	h.beginAt(s, h.position())
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
}

func checkLaterWriter(h *harness) {
	one, t, _ := h.written(process("one"))
	two := h.server(process("two"))
	h.expectWriter(h.refused(one, t), "two")
	h.expectWriter(one.(sink.Recorder).Check(h.ctx()), "two")
	h.apply(two, h.update(t, `{"id":"1","name":"of two"}`))
	h.expectWriter(h.refused(one, t), "two")
	h.resumeWriting(one)
	h.expectWriter(h.refused(two, t), "one")
	h.apply(one, h.update(t, `{"id":"1","name":"of one"}`))
	h.expect(one, t)
}

// checkLaterFilter runs two servers of one consumer with different filters. Each filter has its
// own checkpoint.
func checkLaterFilter(h *harness) {
	one, t, _ := h.written(process("one"), filtered("c1"))
	h.server(process("two"), filtered("c1", "c2"))
	h.expectWriter(h.refused(one, t), "two")
}

func checkEarlierWriter(h *harness) {
	s, t, _ := h.written(process("one"))
	at := h.position()
	h.sql(fmt.Sprintf("UPDATE _eds_checkpoint SET position = %d, stored = %d", at.Sequence+1, at.Stored+1))
	h.expectWriter(s.(sink.Recorder).Check(h.ctx()), "")
	*h.sequence++
	h.expectWriter(h.refused(s, t), "")
	h.resumeWriting(s)
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
}

func checkEarlierCheckpoint(h *harness) {
	h.sql("CREATE TABLE _eds_checkpoint (stream varchar(255) NOT NULL, consumer varchar(255) NOT NULL, filter varchar(255) NOT " +
		"NULL, position bigint NOT NULL, stored bigint NOT NULL, PRIMARY KEY (stream, consumer, filter))")
	h.sql(fmt.Sprintf("INSERT INTO _eds_checkpoint (stream, consumer, filter, position, stored) VALUES ('%s', '%s', '%s', 7, 70)",
		h.env().Stream, h.env().Consumer, h.env().Filter))
	at := cdc.Position{Sequence: 7, Stored: 70}
	s := h.open(process("one"))
	h.expectRecords(h.records(s), sink.Records{Checkpoint: &sink.Recorded{Position: at}})
	h.beginAt(s, at)
	*h.sequence = 7
	t := customers(h)
	h.apply(s, h.insert(t, `{"id":"1"}`))
	h.expect(s, t)
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: h.position()}})
	// The earlier version continues from that checkpoint.
	h.sql("UPDATE _eds_checkpoint SET position = 9, stored = 90")
	h.expectRecords(h.records(h.open()),
		sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: cdc.Position{Sequence: 9, Stored: 90}}})
}

func checkChangedRecords(h *harness) {
	one, two := h.open(process("one")), h.open(process("two"))
	h.records(one)
	h.resumeWriting(two)
	_, err := one.(sink.Recorder).Begin(h.ctx(), sink.Beginning{})
	h.expectReopen(err, false)
	h.resumeWriting(one)
	t := customers(h)
	for i, job := range []string{"first", "second"} {
		h.records(one)
		h.importSnapshot(t, job, sink.LoadRecord{Clock: at(int64(5 + i))}, `{"id":"1","name":"`+job+`"}`)
		_, err = one.(sink.Recorder).Begin(h.ctx(), sink.Beginning{})
		h.expectReopen(err, true)
	}
}

func checkChangedFilter(h *harness) {
	t := customers(h)
	h.migrate(h.open(), t)
	last := make(map[string]cdc.Position)
	var all []string
	for i := range 9 { // so many that the filter is stored as a hash
		all = append(all, fmt.Sprint("c", i))
	}
	for i, c := range []struct {
		companies []string
		from      string // companies of the run from whose position this run continues
		added     []string
		imports   bool // whether the run ends with an import of all rows
	}{
		{companies: []string{"c0"}},
		{companies: []string{"c0", "c1"}, from: "[c0]", added: []string{"c1"}},
		{companies: []string{"c0"}, from: "[c0 c1]"},
		{companies: []string{"c0", "c1"}, from: "[c0 c1]", added: []string{"c1"}, imports: true},
		{companies: []string{"c0", "c1"}, from: "[c0 c1]"},
		{companies: all, from: "[c0 c1]", added: all[2:]},
		{companies: []string{"c1"}, from: fmt.Sprint(all)},
		{companies: all, from: fmt.Sprint(all), added: all[2:], imports: true},
		{companies: []string{"c7"}, from: fmt.Sprint(all)},
		{companies: []string{"*"}, from: "[c7]", added: []string{"*"}},
		{companies: []string{"c8"}, from: "[*]", added: []string{"c8"}},
	} {
		s := h.open(filtered(c.companies...))
		r := h.records(s)
		var want *sink.Recorded
		if i > 0 {
			want = &sink.Recorded{Position: last[c.from]}
			for _, company := range c.added {
				want.Added = append(want.Added, subjectOf(company))
			}
		}
		ignored := cmp.Options{cmpopts.IgnoreFields(sink.Recorded{}, "Epoch", "Followed"), cmpopts.EquateEmpty()}
		if diff := cmp.Diff(want, r.Checkpoint, ignored); diff != "" {
			h.Errorf("of %q: %s", c.companies, diff)
		}
		at := h.position()
		if r.Checkpoint != nil {
			at = r.Checkpoint.Position
		}
		h.beginAt(s, at)
		h.apply(s, h.insert(t, fmt.Sprintf(`{"id":"%d"}`, i)))
		last[fmt.Sprint(c.companies)] = h.position()
		if c.imports {
			h.importAll(t)
		}
	}
}

func checkRelease(h *harness) {
	seen := func() []string {
		return h.rowsOf(h.open(importing), newTable(h, "_eds_checkpoint", "1", 3, column("stream", schema.String),
			column("consumer", schema.String), column("filter", schema.String), column("seen", schema.Integer)))
	}
	s := h.openAt(h.url, h.env())
	h.resumeWriting(s)
	released := func(line string) bool { return strings.HasSuffix(line, " 0 ") }
	if rows := seen(); len(rows) != 1 || slices.ContainsFunc(rows, released) {
		h.Errorf("while it is open: %q", rows)
	}
	h.close(s)
	if rows := seen(); len(rows) != 1 || !released(rows[0]) {
		h.Errorf("after it was closed: %q", rows)
	}
	// A process that has lost its checkpoint to another process does not release the checkpoint.
	one, two := h.openAt(h.url, h.env()), h.openAt(h.url, h.env())
	h.resumeWriting(one)
	h.resumeWriting(two)
	h.close(one)
	if rows := seen(); len(rows) != 1 || released(rows[0]) {
		h.Errorf("after the loser was closed: %q", rows)
	}
	h.close(two)
}
