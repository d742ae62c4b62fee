package sinktest

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Faults breaks the connection of a sink to its destination after a number of steps. A step is a
// call, or a byte of an answer.
type Faults interface {
	// Steps returns the number of steps so far.
	Steps() int
	// Break lets n more steps succeed, and then breaks all steps until Repair is called. In mode
	// Lost, step n+1 loses its request. In mode Answered, step n+1 loses its answer.
	Break(n int, mode Mode)
	Repair()
}

// Staller is a Faults that can also make the destination stop answering, until Repair is called.
type Staller interface {
	Faults
	Stall()
}

// Mode says which part of a broken call is lost.
type Mode string

const (
	Lost     Mode = "before the call" // the call has no effect
	Answered Mode = "after the call"  // the call has an effect, but its answer is lost
)

var faultChecks = []property{
	{"a batch survives a fault at any step", func(c features) bool { return c.rows && c.faulty }, checkFaults},
	{"a call to a silent destination ends in time", func(c features) bool { return c.rows && c.faulty }, checkStalled},
	{
		"a migration survives a fault at any step", func(c features) bool { return c.rows && c.migrates && c.faulty },
		checkMigrationFaults,
	},
	{"a load survives a fault at any step", func(c features) bool { return c.rows && c.faulty }, checkLoadFaults},
	{"finishing a load survives a fault at any step", func(c features) bool { return c.rows && c.faulty }, checkFinishFaults},
}

// breakpoints returns some of the steps from 0 to n, including both ends. The parameter most is the
// approximate maximum number of steps. The returned steps are closer together near n, because
// commits come last.
func breakpoints(n, most int) []int {
	var all []int
	for i := range n + 1 {
		if n+1 <= most || i >= n-most/2 || i%max(1, 2*n/most) == 0 {
			all = append(all, i)
		}
	}
	return all
}

// mostBreaks is the maximum number of times that one scenario is broken.
const mostBreaks = 24

// checkFaults breaks a batch at each of its steps, or at many of them if it has more steps than
// mostBreaks. It repairs the connection after each break, and applies the batch again, as the
// pipeline does.
func checkFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := newTable(h, "faulty", "1", 1, column("id", schema.String), column("n", schema.Integer), column("text", schema.String))
	h.migrate(s, t)
	batch := func() []textChange {
		return []textChange{
			h.insert(t, fmt.Sprintf(`{"id":"new %d","n":1}`, *h.sequence)),
			h.update(t, fmt.Sprintf(`{"id":"a","n":%d,"text":"it's"}`, *h.sequence)),
			h.delete(t, fmt.Sprintf(`{"id":"new %d"}`, *h.sequence-4)),
			h.move(t, `{"id":"b"}`, fmt.Sprintf(`{"id":"b","n":%d}`, *h.sequence)),
		}
	}
	h.apply(s, batch()...)
	before := faults.Steps()
	h.apply(s, batch()...)
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(faults.Steps()-before, mostBreaks) {
			h.breakOnce(s, faults, t, batch(), n, mode)
			before = min(before, faults.Steps())
		}
		before = faults.Steps()
		h.apply(s, batch()...)
	}
}

// patience returns the maximum time that a call may take after its destination has gone down.
func (h *harness) patience() time.Duration { return cmp.Or(h.config.Patience, 20*time.Second) }

func (h *harness) breakOnce(s sink.Sink, faults Faults, t *schema.Table, steps []textChange, n int, mode Mode) {
	h.Helper()
	faults.Break(n, mode)
	err := h.tryBroken(s, steps)
	faults.Repair()
	if err != nil {
		h.checkTransient(err, n, mode)
		h.untilApplied(s, steps)
	}
	if report := h.compare(s, t, h.model(t.Name)); !report.Equal() {
		h.Errorf("broken %s %d: %s", mode, n+1, report)
	}
	if _, ok := s.(sink.Checkpointer); ok {
		if p := h.checkpoint(s); p != steps[len(steps)-1].position {
			h.Errorf("broken %s %d: the checkpoint is %v, want %v", mode, n+1, p, steps[len(steps)-1].position)
		}
	}
}

// tryBroken applies steps while the destination may be down.
func (h *harness) tryBroken(s sink.Sink, steps []textChange) error {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.ctx(), h.patience())
	defer cancel()
	for _, d := range h.batches(h, steps) {
		if err := d.deliver(ctx, s); err != nil {
			if ctx.Err() != nil {
				h.Errorf("the sink hangs while its destination is down: %v", err)
			}
			return err
		}
	}
	return nil
}

func (h *harness) checkTransient(err error, n int, mode Mode) {
	h.Helper()
	h.checkError(err)
	if fault.Of(err) != fault.Transient {
		h.Errorf("broken %s %d: the error is %v: %v", mode, n+1, fault.Of(err), err)
	}
}

// untilDone repeats a call that was broken at step n and returned err, at most five times. The
// argument failure is the text of the error if no repetition succeeds.
func (h *harness) untilDone(err error, n int, mode Mode, failure string, do func() error) {
	h.Helper()
	for attempt := 0; err != nil; attempt++ {
		h.checkTransient(err, n, mode)
		if attempt == 5 {
			h.Fatalf("broken %s %d: %s once the destination is back: %v", mode, n+1, failure, err)
		}
		err = do()
	}
}

// untilApplied retries a batch as the pipeline does, but only a few times. A sink may need one or
// two failed calls to notice that its connection is lost.
func (h *harness) untilApplied(s sink.Sink, steps []textChange) {
	h.Helper()
	var err error
	for range 5 {
		if err = h.try(s, steps...); err == nil {
			return
		}
		if fault.Of(err) != fault.Transient {
			break
		}
	}
	h.Fatalf("the batch is not applied once the destination is back: %v", err)
}

// checkMigrationFaults breaks the migration of a new table at each of its steps.
func checkMigrationFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	number := 0
	migrate := func(breakIt func()) (steps int) {
		number++
		name := fmt.Sprintf("migrated_%d", number)
		was := newTable(h, name, "1", 1, column("id", schema.String), column("n", schema.Integer))
		is := newTable(h, name, "2", 1, column("id", schema.String), column("n", schema.Number), column("text", schema.String))
		other := newTable(h, name+"_other", "1", 1, column("id", schema.String))
		h.migrate(s, was)
		h.apply(s, h.insert(was, `{"id":"1","n":9007199254740993}`))
		before := faults.Steps()
		breakIt()
		_, err := s.(sink.Migrator).Migrate(h.ctx(), []*schema.Table{is, other})
		steps = faults.Steps() - before
		faults.Repair()
		h.untilDone(err, number, "in migration", "the migration does not succeed", func() error {
			_, err = s.(sink.Migrator).Migrate(h.ctx(), []*schema.Table{is, other})
			return err
		})
		h.apply(s, h.insert(is, `{"id":"2","n":0.5,"text":"new"}`), h.insert(other, `{"id":"1"}`))
		h.expect(s, is)
		h.expect(s, other)
		return steps
	}
	total := migrate(func() {})
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total, mostBreaks/2) {
			migrate(func() { faults.Break(n, mode) })
		}
	}
}

// checkStalled applies a batch to a destination that no longer answers.
func checkStalled(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	staller, ok := faults.(Staller)
	if !ok {
		return // this destination always answers
	}
	t := customers(h)
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"before"}`))
	steps := []textChange{h.update(t, `{"id":"1","name":"after"}`), h.insert(t, `{"id":"2"}`)}
	staller.Stall()
	for _, d := range h.batches(h, steps) {
		ctx, cancel := context.WithTimeout(h.ctx(), time.Second)
		answered := make(chan error, 1)
		go func() { answered <- d.deliver(ctx, s) }()
		select {
		case err := <-answered:
			if err == nil {
				h.Error("a batch was applied without an answer")
			} else {
				h.checkTransient(err, 0, "at all")
			}
		case <-time.After(h.patience()):
			h.Errorf("after %v the sink still waits; its deadline was one second", h.patience())
			staller.Repair()
			<-answered
		}
		cancel()
	}
	staller.Repair()
	h.untilApplied(s, steps)
	h.expect(s, t)
}

// loadRound returns the rows of the nth load. The last two rows have the same key.
func loadRound(n int) []string {
	return []string{
		fmt.Sprintf(`{"id":"%d","name":"of this round"}`, n), `{"id":"a","name":"first"}`, fmt.Sprintf(`{"id":"a","visits":%d}`, n),
	}
}

// expectLoaded checks that the table has the rows of a finished load. It also checks the number of
// rows that the load has reported.
func (h *harness) expectLoaded(s sink.Sink, t *schema.Table, images []string, rows int64, n int, mode Mode) {
	h.Helper()
	loaded := newTableModel()
	loaded.load(h, t, images...)
	if report := h.compare(s, t, loaded); !report.Equal() {
		h.Errorf("broken %s %d: %s", mode, n+1, report)
	}
	if rows != int64(len(loaded.rows)) {
		h.Errorf("broken %s %d: the load reports %d rows, want %d", mode, n+1, rows, len(loaded.rows))
	}
}

func checkLoadFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	before := faults.Steps()
	if _, err := h.loadOnce(s, t, loadRound(0), 0); err != nil {
		h.Fatalf("load: %v", err)
	}
	total := faults.Steps() - before
	round := 0
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total, mostBreaks) {
			round++
			files := loadRound(round)
			faults.Break(n, mode)
			rows, err := h.loadOnce(s, t, files, round)
			faults.Repair()
			h.untilDone(err, n, mode, "the load does not finish", func() error {
				rows, err = h.loadOnce(s, t, files, round)
				return err
			})
			h.expectLoaded(s, t, files, rows, n, mode)
		}
	}
}

// checkFinishFaults breaks Finish at each of its steps, and calls it again.
func checkFinishFaults(h *harness) {
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	t := customers(h)
	h.migrate(s, t)
	round := 0
	finish := func(n int, mode Mode) (steps int) {
		round++
		files := loadRound(round)
		l := h.begin(s, fmt.Sprint("job ", round), t, sink.Replace)
		h.loadRest(l, t, files...)
		before := faults.Steps()
		if n >= 0 {
			faults.Break(n, mode)
		}
		rows, err := h.finishInTime(l)
		steps = faults.Steps() - before
		faults.Repair()
		h.untilDone(err, n, mode, "finishing does not succeed", func() error {
			rows, err = h.finishInTime(l)
			return err
		})
		h.expectLoaded(s, t, files, rows, n, mode)
		_ = l.Close(context.WithoutCancel(h.ctx()))
		return steps
	}
	total := finish(-1, Lost)
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total, mostBreaks) {
			finish(n, mode)
		}
	}
}

// finishInTime finishes a load while the destination may be down.
func (h *harness) finishInTime(l sink.Load) (int64, error) {
	ctx, cancel := context.WithTimeout(h.ctx(), h.patience())
	defer cancel()
	return l.Finish(ctx)
}

// loadOnce loads each row from a separate file, unless an earlier run of the job has loaded that
// file, and finishes the load.
func (h *harness) loadOnce(s sink.Sink, t *schema.Table, images []string, job int) (rows int64, err error) {
	ctx, cancel := context.WithTimeout(h.ctx(), h.patience())
	defer cancel()
	l, err := s.BeginLoad(ctx, fmt.Sprint("job ", job), t, sink.Replace, sink.Scope{})
	if err != nil {
		return 0, err
	}
	rows, err = func() (int64, error) {
		for i, image := range images {
			file := fmt.Sprint("file ", i)
			if l.Loaded(file) {
				continue
			}
			if _, err := l.LoadFile(ctx, file, imagesOf(h, t, image)); err != nil {
				return 0, err
			}
		}
		return l.Finish(ctx)
	}()
	// Close may fail over a broken connection. Only the staged rows matter.
	_ = l.Close(context.WithoutCancel(h.ctx()))
	return rows, err
}
