package sinktest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var replayChecks = []property{
	{"any history, any batches, any replay", keepsRows, checkHistories},
	{"the checkpoint comes with the batch", keepsCheckpoints, checkCheckpoint},
	{"each consumer and filter has a checkpoint of its own", keepsCheckpoints, checkCheckpointNames},
	{"no consumer, no checkpoint", keepsCheckpoints, checkNoCheckpoint},
	{"the filters of checkpoints", func(c features) bool { return c.filters }, checkOtherFilters},
	{"a batch that the checkpoint covers changes nothing", func(c features) bool { return c.rows && c.checkpoints }, checkCoveredBatch},
	{"a recreated stream is not covered", func(c features) bool { return c.rows && c.checkpoints }, checkRemadeStream},
	{"a cancelled call is transient", keepsRows, checkCancelled},
	{"close while a batch is applied", func(features) bool { return true }, checkClose},
}

// checkOtherFilters stores checkpoints under several names, and reads their filters with
// OtherFilters.
func checkOtherFilters(h *harness) {
	t := customers(h)
	want := func(s sink.Sink, want ...string) {
		h.Helper()
		got, err := s.(sink.FilterReader).OtherFilters(h.ctx())
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			h.Errorf("the other filters are %q, %v; want %q", got, err, want)
		}
	}
	importing := h.open(func(env *sink.Env) { env.Consumer = "" })
	want(importing)
	h.apply(h.open(), h.insert(t, `{"id":"1"}`))
	want(importing)
	for _, filter := range []string{"a b", "c"} {
		h.apply(h.open(func(env *sink.Env) { env.Consumer, env.Filter = "eds-other", filter }), h.insert(t, `{"id":"1"}`))
	}
	want(importing, "a b", "c")
	want(h.open(), "a b", "c")
	want(h.open(func(env *sink.Env) { env.Filter = "c" }), "a b", h.env().Filter)
}

func keepsCheckpoints(c features) bool { return c.checkpoints }

// checkHistories applies random histories in random batches. It repeats some batches, and reopens
// the sink at random.
func checkHistories(h *harness) {
	s := h.open()
	number := 0
	rapid.Check(h.property(), func(t *rapid.T) {
		number++ // each run uses a new table
		h := h.within(t)
		keys := rapid.IntRange(1, 2).Draw(t, "key columns")
		table := func(version string, others ...schema.Column) *schema.Table {
			return newTable(h, fmt.Sprintf("history_%d", number), version, keys,
				append([]schema.Column{column("id", schema.String), column("a", schema.Integer)}, others...)...)
		}
		v1, v2 := table("1", column("b", schema.String)), table("2", column("c", schema.Object))
		both := table("3", column("b", schema.String), column("c", schema.Object))
		h.migrate(s, v1, v2)
		var steps []textChange
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			steps = append(steps, h.randomChange(t, v1, v2))
		}
		h.applyWithReplays(t, s, steps)
		h.expect(s, both)
	})
}

func (h *harness) randomChange(t *rapid.T, layouts ...*schema.Table) textChange {
	layout := rapid.SampledFrom(layouts).Draw(t, "layout")
	row := func(id string) string {
		a := *h.sequence
		if layout.Keys == 2 { // a is part of the key
			a %= 2
		}
		return fmt.Sprintf(`{"id":"%s","a":%d,"b":"text %d","c":{"n":%d}}`, id, a, *h.sequence, *h.sequence)
	}
	ids := []string{`1`, `2`, `3`, `4`, `\u0031`}
	id := rapid.SampledFrom(ids).Draw(t, "id")
	switch rapid.IntRange(0, 5).Draw(t, "operation") {
	case 0, 1:
		return h.insert(layout, row(id))
	case 2:
		return h.delete(layout, row(id))
	case 3:
		return h.move(layout, row(rapid.SampledFrom(ids).Draw(t, "old")), row(id))
	case 4:
		return h.update(layout, strings.Replace(row(id), `"b"`, `"B"`, 1)) // b is absent
	default:
		return h.update(layout, row(id))
	}
}

// applyWithReplays applies the steps batch by batch. After some batches it goes back to an
// earlier step, like a server that was killed before it acknowledged. If the destination has a
// checkpoint, it then skips the changes that the checkpoint covers.
func (h *harness) applyWithReplays(t *rapid.T, s sink.Sink, steps []textChange) {
	for next := 0; next < len(steps); {
		n := rapid.IntRange(1, len(steps)-next).Draw(t, "batch")
		h.apply(s, steps[next:next+n]...)
		next += n
		switch rapid.IntRange(0, 9).Draw(t, "replay") {
		case 0: // repeat the same batch, as if its answer were lost
			h.apply(s, steps[next-n:next]...)
		case 1, 2: // repeat from an earlier step
			next = h.resume(s, steps, rapid.IntRange(0, next).Draw(t, "place"))
		}
	}
}

// resume returns the number of the first step that a server applies. The parameter from is the
// number of the step from which the server receives the stream again.
func (h *harness) resume(s sink.Sink, steps []textChange, from int) int {
	if _, ok := s.(sink.Checkpointer); !ok {
		return from
	}
	checkpoint := h.checkpoint(s)
	for from < len(steps) && checkpoint.Covers(steps[from].position) {
		from++
	}
	return from
}

func checkCheckpoint(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	if p := h.checkpoint(s); p != (cdc.Position{}) {
		h.Fatalf("before the first batch the checkpoint is %v", p)
	}
	var at cdc.Position
	want := func(s sink.Sink) {
		h.Helper()
		if p := h.checkpoint(s); p != at {
			h.Errorf("the checkpoint is %v, want %v", p, at)
		}
	}
	first, second := h.insert(t, `{"id":"1","name":"one"}`), h.insert(t, `{"id":"2","name":"two"}`)
	h.apply(s, first, second)
	at = second.position
	want(s)
	want(h.open())
	// A batch ends at its last message, which may have no event.
	d := h.passing()
	if err := d.deliver(h.ctx(), s); err != nil {
		h.Fatalf("apply a batch of skipped messages: %v", err)
	}
	at = d.batch.Last
	want(h.open())

	if err := s.(sink.Checkpointer).ResetCheckpoint(h.ctx()); err != nil {
		h.Fatalf("reset the checkpoint: %v", err)
	}
	at = cdc.Position{}
	want(s)
	want(h.open())
	h.apply(s, first, second)
	at = second.position
	want(s)
	h.expectAll(s, t)
}

// expectAll compares the rows of t with the model, if the sink keeps rows.
func (h *harness) expectAll(s sink.Sink, t *schema.Table) {
	h.Helper()
	if _, ok := s.(sink.Reader); ok {
		h.expect(s, t)
	}
}

func checkCheckpointNames(h *harness) {
	t := customers(h)
	first := h.open()
	h.migrate(first, t)
	h.apply(first, h.insert(t, `{"id":"1","name":"one"}`))
	at := h.checkpoint(first)
	for name, change := range map[string]func(*sink.Env){
		"stream":        func(e *sink.Env) { e.Stream = "other" },
		"consumer":      func(e *sink.Env) { e.Consumer = "other" },
		"filter":        func(e *sink.Env) { e.Filter = "other" },
		"a long filter": func(e *sink.Env) { e.Filter = fmt.Sprintf("%05000d", 1) },
		"longer filter": func(e *sink.Env) { e.Filter = fmt.Sprintf("%05000d", 2) },
		"shifted names": func(e *sink.Env) { e.Consumer, e.Filter = e.Consumer+"/"+e.Filter, "" },
	} {
		other := h.open(change)
		if p := h.checkpoint(other); p != (cdc.Position{}) {
			h.Errorf("with another %s the checkpoint is %v, want none", name, p)
		}
		d := h.passing()
		if err := d.deliver(h.ctx(), other); err != nil {
			h.Fatalf("%s: %v", name, err)
		}
		if p := h.checkpoint(h.open(change)); p != d.batch.Last {
			h.Errorf("with another %s the checkpoint is %v, want %v", name, p, d.batch.Last)
		}
		if p := h.checkpoint(h.open()); p != at {
			h.Errorf("another %s moved the checkpoint from %v to %v", name, at, p)
		}
	}
}

func checkNoCheckpoint(h *harness) {
	t := customers(h)
	anonymous := func(e *sink.Env) { e.Consumer = "" }
	s := h.open(anonymous)
	h.migrate(s, t)
	one := h.insert(t, `{"id":"1","name":"one"}`)
	h.apply(s, one)
	before := h.model(t.Name).clone()
	h.apply(s, h.update(t, `{"id":"1","name":"two"}`))
	h.expectAll(s, t)
	h.apply(s, one) // without a checkpoint, every batch is applied
	h.models[t.Name] = before
	h.expectAll(s, t)
	for _, s := range []sink.Sink{s, h.open(anonymous), h.open()} {
		if p := h.checkpoint(s); p != (cdc.Position{}) {
			h.Errorf("the checkpoint is %v, want none", p)
		}
		if err := s.(sink.Checkpointer).ResetCheckpoint(h.ctx()); err != nil {
			h.Errorf("reset a missing checkpoint: %v", err)
		}
	}
	h.expectAll(s, t)
}

func checkCoveredBatch(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	old := []textChange{h.insert(t, `{"id":"1","name":"old"}`), h.insert(t, `{"id":"2","name":"old"}`)}
	h.apply(s, old...)
	h.apply(s, h.update(t, `{"id":"1","name":"new"}`), h.delete(t, `{"id":"2"}`))
	for _, s := range []sink.Sink{s, h.open()} {
		h.apply(s, old...)
		h.expect(s, t)
	}
}

func checkRemadeStream(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one"}`), h.insert(t, `{"id":"2","name":"two"}`))
	was := h.checkpoint(s)
	// The recreated stream counts from 1 again.
	again := h.update(t, `{"id":"1","name":"new"}`)
	again.position = cdc.Position{Sequence: 1, Stored: was.Stored + 1}
	h.apply(s, again)
	h.expect(s, t)
	if p := h.checkpoint(h.open()); p != again.position {
		h.Errorf("the checkpoint is %v, want %v", p, again.position)
	}
}

func checkCancelled(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one"}`))
	steps := []textChange{h.update(t, `{"id":"1","name":"new"}`), h.insert(t, `{"id":"2","name":"two"}`)}
	ctx, cancel := context.WithCancel(h.ctx())
	cancel()
	for _, d := range h.batches(h, steps) {
		if err := d.deliver(ctx, s); err != nil {
			h.checkError(err)
			h.expectTransient(err)
		}
	}
	h.apply(s, steps...)
	h.expect(s, t)
}

// checkClose closes the sink while it applies a batch. Either the batch is applied, or Apply
// returns an error. The destination must be intact, but the closed sink need not work again.
func checkClose(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	var steps []textChange
	for i := range 500 {
		steps = append(steps, h.insert(t, fmt.Sprintf(`{"id":"%d","name":"row %d"}`, i, i)))
	}
	applied := make(chan error, 1)
	d := h.batches(h, steps)
	go func() { applied <- d[0].deliver(h.ctx(), s) }()
	h.close(s)
	if err := <-applied; err != nil {
		h.checkError(err)
		h.expectTransient(err)
	}
	h.close(s)
	again := h.open()
	h.apply(again, slices.Clone(steps)...)
	h.expectAll(again, t)
}
