package sinktest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// checkBeginFaults breaks Begin at each of its steps, and calls it again.
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
		for _, n := range breakpoints(total+2, mostBreaks) {
			r := h.records(s)
			faults.Break(n, mode)
			_, err := s.(sink.Recorder).Begin(h.ctx(), sink.Beginning{Position: r.Checkpoint.Position})
			faults.Repair()
			h.untilDone(err, n, mode, "beginning does not succeed", func() error {
				_, err = s.(sink.Recorder).Begin(h.ctx(), sink.Beginning{Position: r.Checkpoint.Position})
				return err
			})
			h.apply(s, h.insert(t, fmt.Sprintf(`{"id":"%d"}`, *h.sequence)))
			h.expect(s, t)
		}
	}
}

// checkWriterFaults breaks the calls of Apply and Check that a process makes after Begin.
func checkWriterFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	h.resumeWriting(s)
	change := func() textChange {
		return h.insert(t, fmt.Sprintf(`{"id":"%d","name":"%d"}`, *h.sequence%5, *h.sequence))
	}
	h.apply(s, change())
	before := faults.Steps()
	h.apply(s, change())
	total := faults.Steps() - before
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total+2, mostBreaks) {
			steps := []textChange{change()}
			faults.Break(n, mode)
			err := h.tryBroken(s, steps)
			if checked := s.(sink.Recorder).Check(h.ctx()); checked != nil {
				h.checkTransient(checked, n, mode)
			}
			faults.Repair()
			if err != nil {
				h.checkTransient(err, n, mode)
				h.untilApplied(s, steps)
			}
			if err := s.(sink.Recorder).Check(h.ctx()); err != nil && fault.Of(err) != fault.Transient {
				h.Errorf("broken %s %d: check: %v", mode, n+1, err)
			}
			h.expect(s, t)
			h.expectRecords(h.records(h.open()), sink.Records{ID: h.env().ID, Checkpoint: &sink.Recorded{Position: h.position()}})
		}
	}
}

// checkKilledImport breaks Finish at each of its steps, and does not call it again.
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
		l.(sink.SnapshotLoad).Record(sink.LoadRecord{Table: t.Name, Clock: at(int64(round)), Job: job})
		h.loadFile(l, t, "one", fmt.Sprintf(`{"id":"1","name":%q}`, job))
		before := faults.Steps()
		if n >= 0 {
			faults.Break(n, mode)
		}
		_, err := h.finishInTime(l)
		steps = faults.Steps() - before
		faults.Repair()
		h.expectFitting(reader, t, job, err == nil)
		_ = l.Close(context.WithoutCancel(h.ctx()))
		h.close(s)
		// Another import starts, and is discarded.
		other := h.begin(reader, "other", t, sink.Replace)
		if err := other.Discard(h.ctx()); err != nil {
			h.Error(err)
		}
		h.end(other, false)
		h.expectFitting(reader, t, job, err == nil)
		return steps
	}
	total := finish(-1, Lost)
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total, mostBreaks/2) {
			finish(n, mode)
		}
	}
}

// expectFitting checks that the snapshot of a job is recorded if and only if the table has that
// job's rows. The destination may still be putting the rows in place.
func (h *harness) expectFitting(s sink.Sink, t *schema.Table, job string, done bool) {
	h.Helper()
	placed := func() bool {
		return slices.ContainsFunc(h.rowsOf(s, t), func(row string) bool { return strings.Contains(row, strconv.Quote(job)) })
	}
	before, r, after := placed(), h.records(s), placed()
	recorded := slices.ContainsFunc(r.Snapshots, func(s sink.LoadRecord) bool { return s.Job == job && s.Rows == 1 })
	if before == after && recorded != before || done && !before {
		h.Errorf("%s: its rows are in place: %v, and recorded: %v", job, before, recorded)
	}
}
