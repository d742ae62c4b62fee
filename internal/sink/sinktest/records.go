package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func keepsRecords(c capabilities) bool { return c.records }

// takesSQL: a check changes the records by the destination's own means.
func takesSQL(c capabilities) bool { return c.records && c.sql }

var recordChecks = []check{
	{"records of a new destination", keepsRecords, checkNewRecords},
	{"records name the latest writer, and keep the first id", keepsRecords, checkEpochs},
	{"a destination that was restored is reopened", takesSQL, checkRestored},
	{"a checkpoint that is gone is reopened", takesSQL, checkCheckpointGone},
	{"a later writer is named", keepsRecords, checkLaterWriter},
	{"a later writer with another filter is named", keepsRecords, checkLaterFilter},
	{"a writer of an earlier version is noticed", takesSQL, checkEarlierWriter},
	{"a checkpoint of an earlier version is taken over", takesSQL, checkEarlierCheckpoint},
	{"records that changed since they were read are read again", keepsRecords, checkChangedRecords},
	{"an import is followed by a running server", func(c capabilities) bool { return c.records }, checkImportBeside},
	{"a complete snapshot replaces the others of its table", func(c capabilities) bool { return c.records }, checkSnapshots},
	{"a server that begins while an import runs", func(c capabilities) bool { return c.records }, checkBeginBesideImport},
	{"loads at once are recorded each", func(c capabilities) bool { return c.records }, checkLoadsAtOnce},
	{"loads at once are all followed, whichever ends first", func(c capabilities) bool { return c.records }, checkLoadsAreFollowed},
	{"a whole import", func(c capabilities) bool { return c.records }, checkWholeImport},
	{"a changed filter goes on where each subject is", keepsRecords, checkChangedFilter},
	{"closing releases the checkpoint", keepsRecords, checkRelease},
	{"an import that is killed leaves records that fit the rows", func(c capabilities) bool { return c.records && c.faulty }, checkKilledImport},
	{"beginning converges, wherever it breaks", func(c capabilities) bool { return c.records && c.faulty }, checkBeginFaults},
	{"a batch of a writer converges, wherever it breaks", func(c capabilities) bool { return c.records && c.faulty }, checkWriterFaults},
}

// writerSince is when the processes of these checks began.
var writerSince = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// process has the sink be a process's on the named host.
func process(host string) func(*sink.Env) {
	return func(e *sink.Env) {
		e.ID, e.Writer = "id of "+host, sink.Writer{Host: host, Version: "1.2.3", Since: writerSince}
	}
}

// importing has the sink be an import's.
func importing(e *sink.Env) { e.Consumer = "" }

// filtered sets the filter, of companies.
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
	r, err := s.(sink.Recorder).Records(h.ctx)
	if err != nil {
		h.Fatalf("read the records: %v", err)
	}
	return r
}

// beginAt takes the checkpoint over at p.
func (h *harness) beginAt(s sink.Sink, p cdc.Position, snapshots ...sink.Snapshot) int64 {
	h.Helper()
	epoch, err := s.(sink.Recorder).Begin(h.ctx, sink.Beginning{Position: p, Snapshots: snapshots})
	if err != nil {
		h.Fatalf("begin: %v", err)
	}
	return epoch
}

// server opens the destination as a server does, and begins where its records say.
func (h *harness) server(changes ...func(*sink.Env)) sink.Sink {
	h.Helper()
	s := h.open(changes...)
	h.goOn(s)
	return s
}

func (h *harness) goOn(s sink.Sink) {
	h.Helper()
	at := h.position()
	if r := h.records(s); r.Checkpoint != nil {
		at = r.Checkpoint.Position
	}
	h.beginAt(s, at)
}

// expectRecords compares the records with those wanted, less epochs and generations.
func (h *harness) expectRecords(got, want sink.Records) {
	h.Helper()
	ignored := cmp.Options{
		cmpopts.IgnoreFields(sink.Recorded{}, "Epoch", "Followed"), cmpopts.IgnoreFields(sink.Snapshot{}, "Generation", "Imported", "Object"), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b sink.Snapshot) bool {
			return fmt.Sprint(a.Table, a.Merged, a.Scope) < fmt.Sprint(b.Table, b.Merged, b.Scope)
		}),
	}
	if diff := cmp.Diff(want, got, ignored); diff != "" {
		h.Errorf("the records are not as wanted: %s", diff)
	}
}

func (h *harness) sql(statement string) {
	h.Helper()
	h.config.SQL(h.outer, h.url, statement)
}

// wantReopen checks that err says that the destination is not as the process left it, and
// whether an import is the reason.
func (h *harness) wantReopen(err error, imported bool) {
	h.Helper()
	reopen := new(sink.ReopenError)
	if !errors.As(err, &reopen) || fault.Of(err) != fault.Fatal {
		h.Errorf("want a fatal *sink.ReopenError, got %v", err)
	} else if reopen.Imported != imported {
		h.Errorf("the reason is an import: %t, want %t: %v", reopen.Imported, imported, err)
	}
}

// wantWriter checks that err names another process, on the host; "" is one of an
// earlier version.
func (h *harness) wantWriter(err error, host string) {
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

// refused applies a change of t by s, and checks that nothing of it stays.
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
	if err := s.(sink.Recorder).Check(h.ctx); err != nil {
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

// written begins and writes a row, and returns a position that is passed.
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
	h.wantReopen(h.refused(s, t), false)
	h.wantReopen(h.refused(s, t), false)
	h.wantReopen(s.(sink.Recorder).Check(h.ctx), false)
	r := h.records(s)
	h.expectRecords(r, sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: before}})
	h.beginAt(s, r.Checkpoint.Position)
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
}

func checkCheckpointGone(h *harness) {
	s, t, _ := h.written(process("one"))
	h.sql("DELETE FROM _eds_checkpoint")
	h.wantReopen(s.(sink.Recorder).Check(h.ctx), false)
	h.wantReopen(h.refused(s, t), false)
	h.expectRecords(h.records(s), sink.Records{ID: "id of one"})
	h.beginAt(s, h.position())
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
}

func checkLaterWriter(h *harness) {
	one, t, _ := h.written(process("one"))
	two := h.server(process("two"))
	h.wantWriter(h.refused(one, t), "two")
	h.wantWriter(one.(sink.Recorder).Check(h.ctx), "two")
	h.apply(two, h.update(t, `{"id":"1","name":"of two"}`))
	h.wantWriter(h.refused(one, t), "two")
	h.goOn(one)
	h.wantWriter(h.refused(two, t), "one")
	h.apply(one, h.update(t, `{"id":"1","name":"of one"}`))
	h.expect(one, t)
}

// checkLaterFilter: two servers of one consumer have a checkpoint each if their filters
// differ.
func checkLaterFilter(h *harness) {
	one, t, _ := h.written(process("one"), filtered("c1"))
	h.server(process("two"), filtered("c1", "c2"))
	h.wantWriter(h.refused(one, t), "two")
}

func checkEarlierWriter(h *harness) {
	s, t, _ := h.written(process("one"))
	at := h.position()
	h.sql(fmt.Sprintf("UPDATE _eds_checkpoint SET position = %d, stored = %d", at.Sequence+1, at.Stored+1))
	h.wantWriter(s.(sink.Recorder).Check(h.ctx), "")
	*h.sequence++
	h.wantWriter(h.refused(s, t), "")
	h.goOn(s)
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
}

func checkEarlierCheckpoint(h *harness) {
	h.sql("CREATE TABLE _eds_checkpoint (stream varchar(255) NOT NULL, consumer varchar(255) NOT NULL, filter varchar(255) NOT NULL, position bigint NOT NULL, stored bigint NOT NULL, PRIMARY KEY (stream, consumer, filter))")
	h.sql(fmt.Sprintf("INSERT INTO _eds_checkpoint (stream, consumer, filter, position, stored) VALUES ('%s', '%s', '%s', 7, 70)", h.env().Stream, h.env().Consumer, h.env().Filter))
	at := cdc.Position{Sequence: 7, Stored: 70}
	s := h.open(process("one"))
	h.expectRecords(h.records(s), sink.Records{Checkpoint: &sink.Recorded{Position: at}})
	h.beginAt(s, at)
	*h.sequence = 7
	t := customers(h)
	h.apply(s, h.insert(t, `{"id":"1"}`))
	h.expect(s, t)
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: h.position()}})
	// The earlier version goes on with it.
	h.sql("UPDATE _eds_checkpoint SET position = 9, stored = 90")
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: cdc.Position{Sequence: 9, Stored: 90}}})
}

func checkChangedRecords(h *harness) {
	one, two := h.open(process("one")), h.open(process("two"))
	h.records(one)
	h.goOn(two)
	_, err := one.(sink.Recorder).Begin(h.ctx, sink.Beginning{})
	h.wantReopen(err, false)
	h.goOn(one)
	t := customers(h)
	for i, job := range []string{"first", "second"} {
		h.records(one)
		h.importSnapshot(t, job, sink.Snapshot{Clock: at(int64(5 + i))}, `{"id":"1","name":"`+job+`"}`)
		_, err = one.(sink.Recorder).Begin(h.ctx, sink.Beginning{})
		h.wantReopen(err, true)
	}
}

// importSnapshot loads a table in a process of its own, and records it as s.
func (h *harness) importSnapshot(t *schema.Table, job string, s sink.Snapshot, images ...string) {
	h.Helper()
	mode := sink.Replace
	if !s.Complete() {
		mode = sink.Merge
	}
	l := h.begin(h.open(importing, process("importing")), job, t, mode)
	s.Table, s.Job = t.Name, job
	if !l.(sink.SnapshotLoad).Record(s) {
		h.Error("the load keeps no records")
	}
	h.loadFile(l, t, "one", images...)
	h.end(l, true)
	if mode == sink.Replace {
		h.models[t.Name] = newModel()
	}
	h.model(t.Name).load(h, t, images...)
}

// at is the clock of a snapshot.
func at(seconds int64) cdc.Timestamp {
	return cdc.Timestamp{Wall: startClock + seconds*int64(time.Second), Logical: 3}
}

func checkImportBeside(h *harness) {
	s, t, _ := h.written(process("one"))
	h.importSnapshot(t, "job", sink.Snapshot{Clock: at(5)}, `{"id":"1","name":"imported"}`, `{"id":"2"}`)
	h.wantReopen(s.(sink.Recorder).Check(h.ctx), true)
	h.wantReopen(h.refused(s, t), true)
	r := h.records(s)
	want := sink.Records{ID: "id of one", Checkpoint: r.Checkpoint, Snapshots: []sink.Snapshot{{Table: t.Name, Clock: at(5), Rows: 2, Job: "job"}}}
	h.expectRecords(r, want)
	if g := r.Snapshots[0].Generation; g <= r.Checkpoint.Followed || r.Snapshots[0].Imported.IsZero() {
		h.Errorf("the snapshot of generation %d, of %v, is followed: %d", g, r.Snapshots[0].Imported, r.Checkpoint.Followed)
	}
	h.beginAt(s, r.Checkpoint.Position)
	h.apply(s, h.update(t, `{"id":"1","name":"after"}`))
	h.expect(s, t)
	r = h.records(h.open())
	if g := r.Snapshots[0].Generation; g > r.Checkpoint.Followed {
		h.Errorf("the snapshot of generation %d is not followed: %d", g, r.Checkpoint.Followed)
	}
}

func checkSnapshots(h *harness) {
	t := customers(h)
	h.migrate(h.open(), t)
	part := func(s sink.Snapshot, job string) sink.Snapshot {
		s.Table, s.Job, s.Rows = t.Name, job, 1
		return s
	}
	one := sink.Snapshot{Clock: at(1), Merged: true, Scope: sink.Scope{Companies: []string{"c1"}}}
	two := sink.Snapshot{Clock: at(2), Merged: true, Scope: sink.Scope{Since: writerSince}}
	three := sink.Snapshot{Clock: at(3), Merged: true}
	long := sink.Snapshot{Clock: at(4), Scope: sink.Scope{Companies: []string{strings.Repeat("c", 300)}, Locations: []string{"l'1", `l"2`}}}
	again := one // no server has followed the first
	again.Clock = at(6)
	for i, s := range []sink.Snapshot{one, two, three, long, again} {
		h.importSnapshot(t, fmt.Sprint("job ", i), s, fmt.Sprintf(`{"id":"%d"}`, i))
	}
	first := h.records(h.open())
	h.expectRecords(first, sink.Records{ID: "id of importing", Snapshots: []sink.Snapshot{part(one, "job 4"), part(two, "job 1"), part(three, "job 2"), part(long, "job 3")}})
	whole := sink.Snapshot{Clock: at(3)}
	h.importSnapshot(t, "job 5", whole, `{"id":"5"}`)
	r := h.records(h.open())
	h.expectRecords(r, sink.Records{ID: "id of importing", Snapshots: []sink.Snapshot{part(whole, "job 5")}})
	for _, s := range first.Snapshots {
		if s.Generation >= r.Snapshots[0].Generation {
			h.Errorf("generation %d is followed by %d", s.Generation, r.Snapshots[0].Generation)
		}
	}
	h.expect(h.open(), t)

	// Snapshots that an earlier version has recorded elsewhere.
	s := h.open()
	h.records(s)
	seed := sink.Snapshot{Table: "other", Clock: at(1), Rows: 7, Job: "old", Imported: writerSince}
	h.beginAt(s, cdc.Position{}, seed)
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of importing", Checkpoint: &sink.Recorded{}, Snapshots: []sink.Snapshot{part(whole, "job 5"), seed}})

	// A server has followed all but the last two.
	for i, s := range []sink.Snapshot{{Clock: at(7), Merged: true}, {Clock: at(8), Merged: true}} {
		h.importSnapshot(t, fmt.Sprint("job ", 6+i), s, `{"id":"6"}`)
	}
	seven := part(sink.Snapshot{Clock: at(7), Merged: true}, "job 7")
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of importing", Checkpoint: &sink.Recorded{}, Snapshots: []sink.Snapshot{part(whole, "job 5"), seed, seven}})
	s = h.open()
	h.beginAt(s, h.records(s).Checkpoint.Position)
	h.importSnapshot(t, "job 8", sink.Snapshot{Clock: at(9), Merged: true}, `{"id":"6"}`)
	eight := part(sink.Snapshot{Clock: at(9), Merged: true}, "job 8")
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of importing", Checkpoint: &sink.Recorded{}, Snapshots: []sink.Snapshot{part(whole, "job 5"), seed, eight}})
}

func checkBeginBesideImport(h *harness) {
	t := customers(h)
	l := h.begin(h.open(importing, process("importing")), "job", t, sink.Replace)
	l.(sink.SnapshotLoad).Record(sink.Snapshot{Table: t.Name, Clock: at(1), Job: "job"})
	h.loadFile(l, t, "one", `{"id":"1"}`)
	s := h.open(process("one"))
	h.records(s)
	h.beginAt(s, cdc.Position{}, sink.Snapshot{Table: t.Name, Clock: at(2), Merged: true})
	h.end(l, true)
	h.model(t.Name).load(h, t, `{"id":"1"}`)
	h.wantReopen(h.refused(s, t), true)
	h.expectRecords(h.records(s), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{}, Snapshots: []sink.Snapshot{{Table: t.Name, Clock: at(1), Rows: 1, Job: "job"}}})
}

func checkLoadsAtOnce(h *harness) {
	server := h.server(process("one"))
	s := h.open(importing)
	var group sync.WaitGroup
	want := sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: h.position()}}
	for i := range 4 {
		t := newTable(h, fmt.Sprint("table_", i), "1", 1, column("id", schema.String))
		snapshot := sink.Snapshot{Table: t.Name, Clock: at(int64(i)), Job: "job", Rows: 1}
		want.Snapshots = append(want.Snapshots, snapshot)
		rows := imagesOf(h, t, `{"id":"1"}`)
		group.Go(func() {
			l, err := s.BeginLoad(h.ctx, "job", t, sink.Replace, sink.Scope{})
			if err == nil {
				l.(sink.SnapshotLoad).Record(snapshot)
				_, err = l.LoadFile(h.ctx, "one", rows)
			}
			if err == nil {
				_, err = l.Finish(h.ctx)
			}
			if err == nil {
				err = l.Close(h.ctx)
			}
			if err != nil {
				h.Error(err)
			}
		})
	}
	group.Wait()
	h.wantReopen(server.(sink.Recorder).Check(h.ctx), true)
	r := h.records(server)
	h.expectRecords(r, want)
	generations := make(map[int64]bool)
	for _, s := range r.Snapshots {
		generations[s.Generation] = true
	}
	if len(generations) != len(want.Snapshots) {
		h.Errorf("the generations of loads at once are %v", generations)
	}
}

// checkLoadsAreFollowed finishes loads at once while a server begins again after each: it
// never takes a snapshot for followed that it has not seen.
func checkLoadsAreFollowed(h *harness) {
	s, server := h.open(importing), h.server(process("one"))
	begin := func() (r sink.Records, seen map[string]bool) {
		for {
			r = h.records(server)
			_, err := server.(sink.Recorder).Begin(h.ctx, sink.Beginning{Position: h.position()})
			if err == nil {
				break
			}
			if !errors.As(err, new(*sink.ReopenError)) { // another load has ended meanwhile
				h.Fatal("begin while loads end: ", err)
			}
		}
		seen = make(map[string]bool)
		for _, snapshot := range r.Snapshots {
			seen[snapshot.Table] = true
		}
		return r, seen
	}
	_, seen := begin()
	var group sync.WaitGroup
	const loads = 6
	done := make(chan struct{}, loads)
	for i := range loads {
		t := newTable(h, fmt.Sprint("table_", i), "1", 1, column("id", schema.String))
		l := h.begin(s, "job", t, sink.Merge)
		l.(sink.SnapshotLoad).Record(sink.Snapshot{Table: t.Name, Clock: at(int64(i)), Job: "job", Merged: true})
		images := []string{`{"id":"1"}`}
		for n := range 5000 * (1 - min(i, 1)) { // the first one is put in place for longer
			images = append(images, fmt.Sprintf(`{"id":"row %d"}`, n))
		}
		h.loadRest(l, t, images...)
		group.Go(func() {
			if _, err := l.Finish(h.ctx); err != nil {
				h.Error(err)
			}
			if err := l.Close(h.ctx); err != nil {
				h.Error(err)
			}
			done <- struct{}{}
		})
	}
	for range loads {
		<-done
		r, found := begin()
		for _, snapshot := range r.Snapshots {
			if snapshot.Generation <= r.Checkpoint.Followed && !seen[snapshot.Table] {
				h.Errorf("the snapshot of %s has generation %d, and %d is followed, but no server has seen it", snapshot.Table, snapshot.Generation, r.Checkpoint.Followed)
			}
		}
		seen = found
	}
	group.Wait()
}

func checkWholeImport(h *harness) {
	left, t := newTable(h, "left", "1", 1, column("id", schema.String)), customers(h)
	other := newTable(h, "other", "1", 1, column("id", schema.String))
	for _, table := range []*schema.Table{left, t, other} {
		h.migrate(h.open(importing), table)
		h.importSnapshot(table, "job", sink.Snapshot{Clock: at(1)}, `{"id":"1"}`)
	}
	h.importSnapshot(t, "part", sink.Snapshot{Clock: at(2), Merged: true}, `{"id":"1"}`)
	unknown := sink.Scope{Companies: []string{"c1"}} // of which there is no snapshot
	if err := h.open(importing).(sink.Recorder).FinishImport(h.ctx, unknown, []string{other.Name}, []string{left.Name, t.Name, other.Name}); err != nil {
		h.Fatal(err)
	}
	err := h.open(importing).(sink.Recorder).FinishImport(h.ctx, sink.Scope{}, []string{t.Name, left.Name}, []string{t.Name, other.Name})
	if err != nil {
		h.Fatal(err)
	}
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of importing", Snapshots: []sink.Snapshot{
		{Table: t.Name, Clock: at(1), Rows: 1, Job: "job", Whole: true},
		{Table: t.Name, Clock: at(2), Rows: 1, Job: "part", Merged: true},
		{Table: other.Name, Clock: at(1), Rows: 1, Job: "job"},
	}})
	if err := h.open(importing).(sink.Recorder).FinishImport(h.ctx, sink.Scope{}, []string{t.Name}, []string{t.Name, other.Name}); err != nil {
		h.Error(err)
	}
}

func checkChangedFilter(h *harness) {
	t := customers(h)
	h.migrate(h.open(), t)
	last := make(map[string]cdc.Position)
	var all []string
	for i := range 9 { // so many that their filter is stored as a hash
		all = append(all, fmt.Sprint("c", i))
	}
	for i, c := range []struct {
		companies []string
		from      string // companies of the run that this one goes on from
		added     []string
		imports   bool // everything is imported then
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

// importAll makes a whole import of the only table.
func (h *harness) importAll(t *schema.Table) {
	h.Helper()
	h.importSnapshot(t, fmt.Sprint("job ", *h.sequence), sink.Snapshot{Clock: at(1)}, `{"id":"1"}`)
	if err := h.open(importing).(sink.Recorder).FinishImport(h.ctx, sink.Scope{}, []string{t.Name}, []string{t.Name}); err != nil {
		h.Fatal(err)
	}
}

func checkRelease(h *harness) {
	seen := func() []string {
		return h.rowsOf(h.open(importing), newTable(h, "_eds_checkpoint", "1", 3, column("stream", schema.String), column("consumer", schema.String), column("filter", schema.String), column("seen", schema.Integer)))
	}
	s := h.openAt(h.url, h.env())
	h.goOn(s)
	released := func(line string) bool { return strings.HasSuffix(line, " 0 ") }
	if rows := seen(); len(rows) != 1 || slices.ContainsFunc(rows, released) {
		h.Errorf("while it is open: %q", rows)
	}
	h.close(s)
	if rows := seen(); len(rows) != 1 || !released(rows[0]) {
		h.Errorf("after it was closed: %q", rows)
	}
	// One that has lost its checkpoint to another process releases nothing.
	one, two := h.openAt(h.url, h.env()), h.openAt(h.url, h.env())
	h.goOn(one)
	h.goOn(two)
	h.close(one)
	if rows := seen(); len(rows) != 1 || released(rows[0]) {
		h.Errorf("after the loser was closed: %q", rows)
	}
	h.close(two)
}

// checkBeginFaults breaks Begin at every step it takes, and calls it again.
func checkBeginFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	h.records(s)
	before := faults.Steps()
	h.beginAt(s, h.position())
	total := faults.Steps() - before
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range places(total+2, mostPlaces) {
			r := h.records(s)
			faults.Break(n, mode)
			_, err := s.(sink.Recorder).Begin(h.ctx, sink.Beginning{Position: r.Checkpoint.Position})
			faults.Mend()
			for attempt := 0; err != nil; attempt++ {
				h.checkTransient(err, n, mode)
				if attempt == 5 {
					h.Fatalf("broken %s %d: beginning does not succeed once the destination is back: %v", mode, n+1, err)
				}
				_, err = s.(sink.Recorder).Begin(h.ctx, sink.Beginning{Position: r.Checkpoint.Position})
			}
			h.apply(s, h.insert(t, fmt.Sprintf(`{"id":"%d"}`, *h.sequence)))
			h.expect(s, t)
		}
	}
}

// checkWriterFaults breaks batches and checks of a process that has begun.
func checkWriterFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	h.goOn(s)
	change := func() step {
		return h.insert(t, fmt.Sprintf(`{"id":"%d","name":"%d"}`, *h.sequence%5, *h.sequence))
	}
	h.apply(s, change())
	before := faults.Steps()
	h.apply(s, change())
	total := faults.Steps() - before
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range places(total+2, mostPlaces) {
			steps := []step{change()}
			faults.Break(n, mode)
			err := h.tryBroken(s, steps)
			if checked := s.(sink.Recorder).Check(h.ctx); checked != nil {
				h.checkTransient(checked, n, mode)
			}
			faults.Mend()
			if err != nil {
				h.checkTransient(err, n, mode)
				h.untilApplied(s, steps)
			}
			if err := s.(sink.Recorder).Check(h.ctx); err != nil && fault.Of(err) != fault.Transient {
				h.Errorf("broken %s %d: check: %v", mode, n+1, err)
			}
			h.expect(s, t)
			h.expectRecords(h.records(h.open()), sink.Records{ID: h.env().ID, Checkpoint: &sink.Recorded{Position: h.position()}})
		}
	}
}

// checkKilledImport breaks Finish at every step it takes, for good.
func checkKilledImport(h *harness) {
	t, reader := customers(h), h.open(importing)
	h.migrate(reader, t)
	round := 0
	finish := func(n int, mode Mode) (steps int) {
		round++
		env := h.env()
		env.Consumer = ""
		s, faults := h.config.Faulty(h.outer, h.url, env)
		job := fmt.Sprint("job ", round)
		l := h.begin(s, job, t, sink.Replace)
		l.(sink.SnapshotLoad).Record(sink.Snapshot{Table: t.Name, Clock: at(int64(round)), Job: job})
		h.loadFile(l, t, "one", fmt.Sprintf(`{"id":"1","name":%q}`, job))
		before := faults.Steps()
		if n >= 0 {
			faults.Break(n, mode)
		}
		_, err := h.finishInTime(l)
		steps = faults.Steps() - before
		faults.Mend()
		h.expectFitting(reader, t, job, err == nil)
		_ = l.Close(context.WithoutCancel(h.ctx))
		h.close(s)
		// Another import begins, and gives up.
		other := h.begin(reader, "other", t, sink.Replace)
		if err := other.Discard(h.ctx); err != nil {
			h.Error(err)
		}
		h.end(other, false)
		h.expectFitting(reader, t, job, err == nil)
		return steps
	}
	total := finish(-1, Lost)
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range places(total, mostPlaces/2) {
			finish(n, mode)
		}
	}
}

// expectFitting checks that the records have the snapshot of a job if the rows in the
// table are the job's. The destination may still be putting them there.
func (h *harness) expectFitting(s sink.Sink, t *schema.Table, job string, done bool) {
	h.Helper()
	placed := func() bool {
		return slices.ContainsFunc(h.rowsOf(s, t), func(row string) bool { return strings.Contains(row, strconv.Quote(job)) })
	}
	before, r, after := placed(), h.records(s), placed()
	recorded := slices.ContainsFunc(r.Snapshots, func(s sink.Snapshot) bool { return s.Job == job && s.Rows == 1 })
	if before == after && recorded != before || done && !before {
		h.Errorf("%s: its rows are in place: %v, and recorded: %v", job, before, recorded)
	}
}
