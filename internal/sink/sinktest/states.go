package sinktest

import (
	"context"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var stateChecks = []property{
	{"a table that is behind is brought forward", keepsRecords, checkBehind},
	{"an earlier version resumes from the lowest position, and its checkpoint counts", takesSQL, checkStatesRolledBack},
	{"states of tables survive a fault at any step", func(c features) bool { return c.records && c.faulty }, checkStateFaults},
}

// behind returns the state of a table that is behind, with every change up to p applied.
func behind(t *schema.Table, p cdc.Position) sink.TableState {
	return sink.TableState{
		Table: t.Name, State: sink.Behind, Applied: p, Cause: sink.CauseRefused, Reason: "it is too wide",
		Since: writerSince, Attempts: 2, Next: writerSince.Add(time.Hour),
	}
}

// applyTables applies the step and records the states, in one call of ApplyTables.
func (h *harness) applyTables(s sink.Sink, st textChange, states ...sink.TableState) {
	h.Helper()
	if err := s.(sink.Recorder).ApplyTables(h.ctx(), h.batches(h, []textChange{st})[0].batch, states); err != nil {
		h.Errorf("apply a batch with states: %v", err)
	}
}

// advance applies the steps of tables that are behind, and records their states.
func (h *harness) advance(s sink.Sink, steps []textChange, states ...sink.TableState) {
	h.Helper()
	if err := s.(sink.Recorder).Advance(h.ctx(), h.batches(h, steps)[0].batch, states); err != nil {
		h.Errorf("advance: %v", err)
	}
}

// expectStates compares the recorded position and states with the arguments.
func (h *harness) expectStates(at cdc.Position, states ...sink.TableState) {
	h.Helper()
	s := h.open()
	defer h.close(s)
	h.expectRecords(h.records(s), sink.Records{ID: "id of one", Checkpoint: &sink.Recorded{Position: at}, Tables: states})
}

func checkBehind(h *harness) {
	late, t := newTable(h, "late", "1", 1, column("id", schema.String), column("name", schema.String)), customers(h)
	s := h.server(process("one"))
	h.migrate(s, late, t)
	h.apply(s, h.insert(late, `{"id":"1"}`))
	start := h.position()
	h.expectStates(start)
	skipped := h.update(late, `{"id":"1","name":"later"}`)
	h.applyTables(s, h.insert(t, `{"id":"1"}`), behind(late, start))
	main := h.position()
	h.expectStates(main, behind(late, start))
	if err := s.(sink.Recorder).Check(h.ctx()); err != nil {
		h.Errorf("check: %v", err)
	}
	h.apply(s, h.insert(t, `{"id":"2"}`))
	main = h.position()
	h.expectStates(main, behind(late, start))

	forward := behind(late, main)
	for range 2 { // as if the first answer were lost
		h.advance(s, []textChange{skipped}, forward)
		h.expectStates(main, forward)
	}
	h.expect(s, late)
	h.close(s)
	s = h.open(process("two"))
	r := h.records(s)
	if _, err := s.(sink.Recorder).Begin(h.ctx(), sink.Beginning{Position: r.Checkpoint.Position, Tables: r.Tables}); err != nil {
		h.Fatalf("begin: %v", err)
	}
	h.expectStates(main, forward)

	ahead := sink.TableState{Table: late.Name, State: sink.OK, Applied: cdc.Position{
		Sequence: main.Sequence + 1,
		Stored:   main.Stored + 1,
	}, Since: writerSince}
	h.advance(s, []textChange{h.update(late, `{"id":"1","name":"last"}`)}, ahead)
	h.expectStates(main, ahead)
	h.applyTables(s, h.insert(t, `{"id":"3"}`), ahead) // the checkpoint passes the state's position
	h.expectStates(h.position())
	h.expect(s, late)
	h.expect(s, t)
	h.resumeWriting(s)
	h.expectStates(h.position())
}

// checkStatesRolledBack moves the checkpoint in the same way as an earlier version, which writes
// only the columns that it knows.
func checkStatesRolledBack(h *harness) {
	late, t := newTable(h, "late", "1", 1, column("id", schema.String)), customers(h)
	s := h.server(process("one"))
	h.migrate(s, late, t)
	h.apply(s, h.insert(t, `{"id":"1"}`))
	start := h.position()
	h.apply(s, h.insert(t, `{"id":"2"}`))
	h.applyTables(s, h.insert(t, `{"id":"3"}`), behind(late, start))
	lowest := fmt.Sprintf(" WHERE position = %d AND stored = %d", start.Sequence, start.Stored)
	h.sql(fmt.Sprintf("UPDATE _eds_checkpoint SET position = %d, stored = %d", start.Sequence+1, start.Stored+1) + lowest)
	h.expectStates(cdc.Position{Sequence: start.Sequence + 1, Stored: start.Stored + 1}, behind(late, start))
}

// checkStateFaults breaks two kinds of batches at each of their steps: batches with table states,
// and batches for tables that are behind.
func checkStateFaults(h *harness) {
	env := h.env()
	process("one")(&env)
	s, faults := h.config.Faulty(h.outer, h.url, env)
	h.Cleanup(func() { h.close(s) })
	late, t := newTable(h, "late", "1", 1, column("id", schema.String)), customers(h)
	h.migrate(s, late, t)
	h.resumeWriting(s)
	start := h.position()
	recorder := s.(sink.Recorder)
	round := func(advance bool) func(ctx context.Context) error {
		if advance {
			b := h.batches(h, []textChange{h.insert(late, fmt.Sprintf(`{"id":"%d"}`, *h.sequence))})[0].batch
			start = h.position()
			return func(ctx context.Context) error {
				return recorder.Advance(ctx, b, []sink.TableState{behind(late, start)})
			}
		}
		b := h.batches(h, []textChange{h.insert(t, fmt.Sprintf(`{"id":"%d"}`, *h.sequence))})[0].batch
		return func(ctx context.Context) error {
			return recorder.ApplyTables(ctx, b, []sink.TableState{behind(late, start)})
		}
	}
	before := faults.Steps()
	if err := round(false)(h.ctx()); err != nil {
		h.Fatal(err)
	}
	main := h.position()
	total := faults.Steps() - before
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total+2, mostBreaks/4) {
			for _, advance := range []bool{true, false} {
				apply := round(advance)
				faults.Break(n, mode)
				err := apply(h.ctx())
				faults.Repair()
				h.untilDone(err, n, mode, "the batch is not applied", func() error { return apply(h.ctx()) })
				if !advance {
					main = h.position()
				}
				h.expectStates(main, behind(late, start))
				h.expect(s, late)
				h.expect(s, t)
			}
		}
	}
}
