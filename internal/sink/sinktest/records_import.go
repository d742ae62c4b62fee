package sinktest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// importSnapshot loads a table in another process, which records s as the snapshot.
func (h *harness) importSnapshot(t *schema.Table, job string, s sink.LoadRecord, images ...string) {
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
		h.models[t.Name] = newTableModel()
	}
	h.model(t.Name).load(h, t, images...)
}

// at returns the clock of a snapshot that was taken the given number of seconds after startClock.
func at(seconds int64) cdc.Timestamp {
	return cdc.Timestamp{Wall: startClock + seconds*int64(time.Second), Logical: 3}
}

func checkImportBeside(h *harness) {
	s, t, _ := h.written(process("one"))
	h.importSnapshot(t, "job", sink.LoadRecord{Clock: at(5)}, `{"id":"1","name":"imported"}`, `{"id":"2"}`)
	h.expectReopen(s.(sink.Recorder).Check(h.ctx()), true)
	h.expectReopen(h.refused(s, t), true)
	r := h.records(s)
	want := sink.Records{
		ID: "id of one", Checkpoint: r.Checkpoint,
		Snapshots: []sink.LoadRecord{{Table: t.Name, Clock: at(5), Rows: 2, Job: "job"}},
	}
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
	part := func(s sink.LoadRecord, job string) sink.LoadRecord {
		s.Table, s.Job, s.Rows = t.Name, job, 1
		return s
	}
	one := sink.LoadRecord{Clock: at(1), Merged: true, Scope: sink.Scope{Companies: []string{"c1"}}}
	two := sink.LoadRecord{Clock: at(2), Merged: true, Scope: sink.Scope{Since: writerSince}}
	three := sink.LoadRecord{Clock: at(3), Merged: true}
	long := sink.LoadRecord{
		Clock: at(4), Scope: sink.Scope{Companies: []string{strings.Repeat("c", 300)}, Locations: []string{"l'1", `l"2`}},
	}
	again := one // no server has followed the first snapshot
	again.Clock = at(6)
	for i, s := range []sink.LoadRecord{one, two, three, long, again} {
		h.importSnapshot(t, fmt.Sprint("job ", i), s, fmt.Sprintf(`{"id":"%d"}`, i))
	}
	first := h.records(h.open())
	h.expectRecords(first, sink.Records{ID: "id of importing", Snapshots: []sink.LoadRecord{
		part(one, "job 4"), part(two, "job 1"),
		part(three, "job 2"), part(long, "job 3"),
	}})
	whole := sink.LoadRecord{Clock: at(3)}
	h.importSnapshot(t, "job 5", whole, `{"id":"5"}`)
	r := h.records(h.open())
	h.expectRecords(r, sink.Records{ID: "id of importing", Snapshots: []sink.LoadRecord{part(whole, "job 5")}})
	for _, s := range first.Snapshots {
		if s.Generation >= r.Snapshots[0].Generation {
			h.Errorf("generation %d is followed by %d", s.Generation, r.Snapshots[0].Generation)
		}
	}
	h.expect(h.open(), t)

	// An earlier version recorded these snapshots elsewhere.
	s := h.open()
	h.records(s)
	seed := sink.LoadRecord{Table: "other", Clock: at(1), Rows: 7, Job: "old", Imported: writerSince}
	h.beginAt(s, cdc.Position{}, seed)
	h.expectRecords(h.records(h.open()), sink.Records{
		ID: "id of importing", Checkpoint: &sink.Recorded{},
		Snapshots: []sink.LoadRecord{part(whole, "job 5"), seed},
	})

	// A server has followed all snapshots except the last two.
	for i, s := range []sink.LoadRecord{{Clock: at(7), Merged: true}, {Clock: at(8), Merged: true}} {
		h.importSnapshot(t, fmt.Sprint("job ", 6+i), s, `{"id":"6"}`)
	}
	seven := part(sink.LoadRecord{Clock: at(7), Merged: true}, "job 7")
	h.expectRecords(h.records(h.open()), sink.Records{
		ID: "id of importing", Checkpoint: &sink.Recorded{},
		Snapshots: []sink.LoadRecord{part(whole, "job 5"), seed, seven},
	})
	s = h.open()
	h.beginAt(s, h.records(s).Checkpoint.Position)
	h.importSnapshot(t, "job 8", sink.LoadRecord{Clock: at(9), Merged: true}, `{"id":"6"}`)
	eight := part(sink.LoadRecord{Clock: at(9), Merged: true}, "job 8")
	h.expectRecords(h.records(h.open()), sink.Records{
		ID: "id of importing", Checkpoint: &sink.Recorded{},
		Snapshots: []sink.LoadRecord{part(whole, "job 5"), seed, eight},
	})
}

func checkBeginBesideImport(h *harness) {
	t := customers(h)
	l := h.begin(h.open(importing, process("importing")), "job", t, sink.Replace)
	l.(sink.SnapshotLoad).Record(sink.LoadRecord{Table: t.Name, Clock: at(1), Job: "job"})
	h.loadFile(l, t, "one", `{"id":"1"}`)
	s := h.open(process("one"))
	h.records(s)
	h.beginAt(s, cdc.Position{}, sink.LoadRecord{Table: t.Name, Clock: at(2), Merged: true})
	h.end(l, true)
	h.model(t.Name).load(h, t, `{"id":"1"}`)
	h.expectReopen(h.refused(s, t), true)
	h.expectRecords(h.records(s), sink.Records{
		ID: "id of one", Checkpoint: &sink.Recorded{},
		Snapshots: []sink.LoadRecord{{Table: t.Name, Clock: at(1), Rows: 1, Job: "job"}},
	})
}

func checkLoadsAtOnce(h *harness) {
	server := h.server(process("one"))
	s := h.open(importing)
	var group sync.WaitGroup
	want := sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: h.position()}}
	for i := range 4 {
		t := newTable(h, fmt.Sprint("table_", i), "1", 1, column("id", schema.String))
		snapshot := sink.LoadRecord{Table: t.Name, Clock: at(int64(i)), Job: "job", Rows: 1}
		want.Snapshots = append(want.Snapshots, snapshot)
		rows := imagesOf(h, t, `{"id":"1"}`)
		group.Go(func() {
			l, err := s.BeginLoad(h.ctx(), "job", t, sink.Replace, sink.Scope{})
			if err == nil {
				l.(sink.SnapshotLoad).Record(snapshot)
				_, err = l.LoadFile(h.ctx(), "one", rows)
			}
			if err == nil {
				_, err = l.Finish(h.ctx())
			}
			if err == nil {
				err = l.Close(h.ctx())
			}
			if err != nil {
				h.Error(err)
			}
		})
	}
	group.Wait()
	h.expectReopen(server.(sink.Recorder).Check(h.ctx()), true)
	r := h.records(server)
	h.expectRecords(r, want)
	generations := make(map[int64]bool)
	for _, s := range r.Snapshots {
		generations[s.Generation] = true
	}
	if len(generations) != len(want.Snapshots) {
		h.Errorf("the generations of concurrent loads are %v", generations)
	}
}

// checkLoadsAreFollowed finishes loads concurrently. A server calls Begin again after each load. If
// the records say that a snapshot has been followed, the server must have seen that snapshot.
func checkLoadsAreFollowed(h *harness) {
	s, server := h.open(importing), h.server(process("one"))
	begin := func() (r sink.Records, seen map[string]bool) {
		for {
			r = h.records(server)
			_, err := server.(sink.Recorder).Begin(h.ctx(), sink.Beginning{Position: h.position()})
			if err == nil {
				break
			}
			if !errors.As(err, new(*sink.ReopenError)) { // another load has finished since
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
		l.(sink.SnapshotLoad).Record(sink.LoadRecord{Table: t.Name, Clock: at(int64(i)), Job: "job", Merged: true})
		images := []string{`{"id":"1"}`}
		for n := range 5000 * (1 - min(i, 1)) { // the first load takes longer
			images = append(images, fmt.Sprintf(`{"id":"row %d"}`, n))
		}
		h.loadRest(l, t, images...)
		group.Go(func() {
			if _, err := l.Finish(h.ctx()); err != nil {
				h.Error(err)
			}
			if err := l.Close(h.ctx()); err != nil {
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
				h.Errorf("the snapshot of %s has generation %d, and %d is followed, but no server has seen it", snapshot.Table,
					snapshot.Generation, r.Checkpoint.Followed)
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
		h.importSnapshot(table, "job", sink.LoadRecord{Clock: at(1)}, `{"id":"1"}`)
	}
	h.importSnapshot(t, "part", sink.LoadRecord{Clock: at(2), Merged: true}, `{"id":"1"}`)
	unknown := sink.Scope{Companies: []string{"c1"}} // without a snapshot
	if err := h.open(importing).(sink.Recorder).FinishImport(h.ctx(), unknown, []string{other.Name},
		[]string{left.Name, t.Name, other.Name}); err != nil {
		h.Fatal(err)
	}
	err := h.open(importing).(sink.Recorder).FinishImport(h.ctx(), sink.Scope{}, []string{t.Name, left.Name}, []string{t.Name, other.Name})
	if err != nil {
		h.Fatal(err)
	}
	h.expectRecords(h.records(h.open()), sink.Records{ID: "id of importing", Snapshots: []sink.LoadRecord{
		{Table: t.Name, Clock: at(1), Rows: 1, Job: "job", Whole: true},
		{Table: t.Name, Clock: at(2), Rows: 1, Job: "part", Merged: true},
		{Table: other.Name, Clock: at(1), Rows: 1, Job: "job"},
	}})
	if err := h.open(importing).(sink.Recorder).FinishImport(h.ctx(), sink.Scope{}, []string{t.Name},
		[]string{t.Name, other.Name}); err != nil {
		h.Error(err)
	}
}

// importAll makes a whole import of a source whose only table is t.
func (h *harness) importAll(t *schema.Table) {
	h.Helper()
	h.importSnapshot(t, fmt.Sprint("job ", *h.sequence), sink.LoadRecord{Clock: at(1)}, `{"id":"1"}`)
	if err := h.open(importing).(sink.Recorder).FinishImport(h.ctx(), sink.Scope{}, []string{t.Name}, []string{t.Name}); err != nil {
		h.Fatal(err)
	}
}
