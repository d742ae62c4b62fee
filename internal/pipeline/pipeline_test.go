package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// inBubble runs a test on a clock that stands still while anything happens. The
// rig is not started, and is stopped at the end.
func inBubble(t *testing.T, payloads []string, test func(t *testing.T, r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r, err := newRig(dir, newStream(payloads...), newTable())
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if r.Pipeline != nil {
				r.hard()
				_ = r.finish()
			}
		}()
		test(t, r)
	})
}

func (r *rig) mustStart(t *testing.T) {
	t.Helper()
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) mustStop(t *testing.T) {
	t.Helper()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) mustLetters(t *testing.T) []string {
	t.Helper()
	all, err := letters(r.dead)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		line := fmt.Sprintf("%d %s %s: %s", e.Sequence, e.Table, e.Stage, e.Reason)
		if e.State != dlq.Waiting {
			line += ", " + string(e.State)
		}
		out = append(out, line)
	}
	return out
}

func equal[T any](t *testing.T, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestASoftStopAppliesAndSettlesAllThatIsHeld(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "y"), remove("a", "1")}, func(t *testing.T, r *rig) {
		r.config.MinLatency, r.config.MaxLatency = time.Hour, time.Hour
		r.mustStart(t)
		synctest.Wait()
		equal(t, map[string]string{}, r.table.snapshot())
		equal(t, 3, r.Status().InFlight)
		r.mustStop(t)
		equal(t, map[string]string{"a/2": "id=2 v=y"}, r.table.snapshot())
		equal(t, 3, r.stream.settled.Sequence)
		equal(t, pipeline.Stopping, r.Status().State)
	})
}

func TestAHardStopAbandonsWhatIsHeld(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.table.before = func(int, *change.Batch) error { return errors.New("down") }
		r.mustStart(t)
		synctest.Wait()
		r.soft()
		time.Sleep(time.Minute)
		equal(t, 0, r.stream.settled.Sequence) // a soft stop waits for the destination
		r.hard()
		if err := r.finish(); !errors.Is(err, pipeline.ErrAbandoned) {
			t.Errorf("Run: %v", err)
		}
		equal(t, 0, r.stream.settled.Sequence)
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		r.hard()
		if err := r.finish(); err != nil { // nothing was held
			t.Errorf("Run: %v", err)
		}
	})
}

func TestAChangeOnAnIdleStreamIsAppliedAtOnce(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.mustStart(t)
		for i := range 5 {
			time.Sleep(time.Hour)
			r.stream.publish(put("a", "1", fmt.Sprint(i)))
			synctest.Wait()
			equal(t, map[string]string{"a/1": fmt.Sprintf("id=1 v=%d", i)}, r.table.snapshot())
			equal(t, uint64(i+1), r.stream.settled.Sequence)
		}
	})
}

func TestMinLatencyHoldsABatchAndMaxLatencyEndsIt(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.MinLatency = 2 * time.Second
		r.mustStart(t)
		time.Sleep(1900 * time.Millisecond)
		synctest.Wait()
		equal(t, 0, len(r.table.snapshot()))
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		equal(t, 1, len(r.table.snapshot()))
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.Limits.Age = 5 * time.Minute // what the destination wants, where nobody says otherwise
		r.mustStart(t)
		time.Sleep(299 * time.Second)
		synctest.Wait()
		equal(t, 0, len(r.table.snapshot()))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, 1, len(r.table.snapshot()))
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.Limits.Age = 5 * time.Minute
		r.config.MaxLatency = time.Second
		r.mustStart(t)
		synctest.Wait()
		equal(t, 1, len(r.table.snapshot()))
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.MaxLatency = 3 * time.Second
		r.stream.behind = 1000 // more is there, and does not come
		r.mustStart(t)
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		equal(t, 0, len(r.table.snapshot()))
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		equal(t, 1, len(r.table.snapshot()))
	})
}

func TestBatchesAreFilledWhileBehindAndBoundedByRowsAndBytes(t *testing.T) {
	var payloads []string
	for i := range 1000 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "x"))
	}
	bounded := func(t *testing.T, set func(*pipeline.Config), want []int) {
		t.Helper()
		inBubble(t, payloads, func(t *testing.T, r *rig) {
			set(&r.config)
			r.mustStart(t)
			if err := r.stream.await(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
			r.mustStop(t)
			equal(t, want, r.table.sizes)
		})
	}
	bounded(t, func(c *pipeline.Config) { c.Limits.Rows = 400 }, []int{400, 400, 200})
	bounded(t, func(c *pipeline.Config) { c.MaxRows, c.Limits.Rows = 600, 400 }, []int{600, 400})
	bounded(t, func(c *pipeline.Config) { c.MaxInFlight = 700 }, []int{350, 350, 300})
	bounded(t, func(c *pipeline.Config) { c.MaxBytes = 600 * len(put("a", "100", "x")) }, []int{601, 399})
}

func TestWhatIsInFlightIsBounded(t *testing.T) {
	var payloads []string
	for i := range 3000 {
		payloads = append(payloads, put("a", fmt.Sprint(i), strings.Repeat("x", 100)))
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		const most = 100_000
		r.config.MaxBytes, r.config.Budget, r.config.MaxInFlight = most/4, pipeline.NewBudget(most), 500
		run := 10
		r.stream.run = func() int { return run }
		r.mustStart(t)
		if err := r.stream.await(t.Context(), 3000); err != nil {
			t.Fatal(err)
		}
		if got, bound := r.stream.mostBytes, most+run*250; got > bound {
			t.Errorf("%d bytes were in flight, more than %d", got, bound)
		}
		if got := r.stream.mostMessages; got > 500+run {
			t.Errorf("%d messages were in flight", got)
		}
	})
}

func TestAnIdlePipelineDoesNothing(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		_, calls := r.table.committed()
		received := r.stream.receives
		time.Sleep(30 * 24 * time.Hour)
		synctest.Wait()
		_, after := r.table.committed()
		equal(t, [2]int{calls, received}, [2]int{after, r.stream.receives})
	})
}

func TestAPauseEndsWhenNothingIsHeldAndEventsWaitInTheStream(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.MinLatency, r.config.MaxLatency = time.Second, time.Second
		r.mustStart(t)
		synctest.Wait()
		if err := r.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, 1, r.stream.settled.Sequence)
		equal(t, pipeline.Paused, r.Status().State)
		r.stream.publish(put("a", "2", "y"))
		time.Sleep(time.Hour)
		equal(t, 1, len(r.table.snapshot()))
		asked := len(r.table.migrations)
		r.Resume()
		time.Sleep(2 * time.Second)
		equal(t, 2, len(r.table.snapshot()))
		equal(t, pipeline.Running, r.Status().State)
		equal(t, asked+1, len(r.table.migrations)) // an import may have changed the tables
	})
}

func TestAPauseThatCanNotEndGivesUpAndStaysAPause(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		var up atomic.Bool
		r.table.before = func(int, *change.Batch) error {
			if !up.Load() {
				return errors.New("down")
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Pause: %v", err)
		}
		up.Store(true)
		if err := r.Pause(t.Context()); err != nil {
			t.Error(err)
		}
		equal(t, 1, r.stream.settled.Sequence)
	})
}

// patient is a stream that says what it waits for.
type patient struct {
	*stream
	ill     atomic.Pointer[error]
	waiting atomic.Int64 // -1: not known
}

func (p *patient) Waiting() (uint64, bool) {
	n := p.waiting.Load()
	return uint64(max(n, 0)), n >= 0
}

func (p *patient) Health() (time.Time, error) {
	if reason := p.ill.Load(); reason != nil {
		return time.Unix(1, 0), *reason
	}
	return time.Time{}, nil
}

func TestLagThatIsNotKnownIsNotZero(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p := &patient{stream: r.stream}
		p.waiting.Store(-1)
		r.config.Source = p
		r.mustStart(t)
		known := func(when string, lag, pending bool) {
			t.Helper()
			synctest.Wait()
			if s := r.Status(); s.LagKnown != lag || s.PendingKnown != pending {
				t.Errorf("%s: %+v", when, s)
			}
		}
		known("before the stream has answered", false, false)
		p.waiting.Store(1)
		known("before the first message", false, true)
		p.waiting.Store(0)
		known("if there is none", true, true)
		r.stream.publish(put("a", "1", "x"))
		known("once all is applied", true, true)
		lost := errors.New("not connected")
		p.ill.Store(&lost)
		known("without the stream", false, false)
		p.ill.Store(nil)
		if err := r.Pause(t.Context()); err != nil {
			t.Error(err)
		}
		known("paused", false, false)
	})
}

func TestWhatTheSourceWaitsForIsTold(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p := &patient{stream: r.stream}
		r.config.Source = p
		r.mustStart(t)
		synctest.Wait()
		equal(t, pipeline.Running, r.Status().State)
		lost := errors.New("not connected")
		p.ill.Store(&lost)
		s := r.Status()
		equal(t, [3]any{pipeline.Waiting, "waiting for the stream: not connected", time.Unix(1, 0)}, [3]any{s.State, s.Reason, s.Since})
	})
}

func at(clock, payload string) string {
	return strings.Replace(payload, `"timestamp":1`, `"mvccTimestamp":"`+clock+`"`, 1)
}

func TestWhatTheSnapshotHoldsIsSkippedByItsExactClock(t *testing.T) {
	const wall = "1712345678901234567"
	payloads := []string{
		at(wall+".0000000001", put("a", "1", "old")),
		at(wall+".0000000002", put("a", "2", "the same instant")),
		at(wall+".0000000003", put("a", "3", "new")),
		at("1712345678901234568", put("a", "4", "new")),
		at("1712345678901234566.2147483647", remove("a", "3")),
		at(wall+".0000000001", put("b", "5", "of a table without a snapshot")),
		put("a", "6", "of no clock"),
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		clock, err := cdc.ParseTimestamp(wall + ".0000000002")
		if err != nil {
			t.Fatal(err)
		}
		r.config.SnapshotClock = func(table string) (cdc.Timestamp, bool) { return clock, table == "a" }
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, []string{"a/3", "a/4", "a/6", "b/5"}, sortedKeys(r.table.snapshot()))
		equal(t, 3, r.Status().Skipped)
	})
}

func sortedKeys(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func TestWhatTheCheckpointCoversIsSkippedUnread(t *testing.T) {
	inBubble(t, []string{"not even an event", put("a", "2", "y"), put("a", "3", "z")}, func(t *testing.T, r *rig) {
		r.table.checkpoint = r.stream.messages[1].Position
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, []string{"a/3"}, sortedKeys(r.table.snapshot()))
		equal(t, 3, r.stream.settled.Sequence)
		equal(t, 0, len(r.mustLetters(t)))
	})
}

func TestSkippedMessagesMoveTheCheckpointAndAreSettledSoon(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.config.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{Wall: 100}, true }
		r.mustStart(t)
		for range 10 {
			r.stream.publish(at("50", put("a", "1", "x")))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, 10, r.stream.settled.Sequence)
		equal(t, 10, r.table.checkpoint.Sequence)
		batches, _ := r.table.committed()
		equal(t, [][2]uint64{{1, 10}}, batches)
	})
}

func TestASinkWithoutACheckpointGetsNoEmptyBatches(t *testing.T) {
	inBubble(t, []string{at("50", put("a", "1", "x")), "nonsense", at("200", put("a", "2", "y")), `{"operation":"INSERT","table":"unknown_to_the_schema","mvccTimestamp":"201"}`}, func(t *testing.T, r *rig) {
		j := &journal{}
		r.config.Sink, r.config.KeepsRows, r.config.Tables = j, false, nil
		r.config.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{Wall: 100}, true }
		r.mustStart(t)
		synctest.Wait()
		r.stream.publish(at("50", put("a", "1", "x")))
		time.Sleep(2 * time.Second)
		r.mustStop(t)
		equal(t, []uint64{3, 4}, j.events)
		equal(t, 0, j.empty)
		equal(t, 5, r.stream.settled.Sequence)
		equal(t, 1, len(r.mustLetters(t)))
	})
}

func TestATableIsMigratedBeforeItsFirstEventOfANewLayout(t *testing.T) {
	v2 := strings.ReplaceAll(put("a", "1", "x"), "v1", "v2")
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "x"), v2, put("b", "1", "x"), v2}, func(t *testing.T, r *rig) {
		failures := 3
		r.table.migrate = func([]*schema.Table) error {
			if failures--; failures >= 0 {
				return errors.New("lock timeout")
			}
			return nil
		}
		r.mustStart(t)
		if err := r.stream.await(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		r.mustStop(t)
		if r.table.complaint != "" {
			t.Error(r.table.complaint)
		}
		slices.Sort(r.table.migrations)
		equal(t, []string{"a v1", "a v2", "b v1"}, r.table.migrations)
	})
}

func TestATableThatCanNotBeMadeIsFatal(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.table.migrate = func([]*schema.Table) error { return fault.Mark(fault.Poison, errors.New("the name is too long")) }
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "the name is too long") {
			t.Errorf("Run: %v", err)
		}
		equal(t, 0, len(r.mustLetters(t)))
	})
}

func TestARuleMaySkipAnEventOrNameItsObject(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("b", "2", "x"), put("c", "3", "x")}, func(t *testing.T, r *rig) {
		r.config.Rules = ruleFunc(func(e *cdc.Event) (bool, string, string) {
			switch e.Table {
			case "a":
				return true, "", ""
			case "b":
				return true, "missing property", ""
			default:
				return false, "", "c/object.json"
			}
		})
		var objects []string
		r.table.before = func(_ int, b *change.Batch) error {
			for _, e := range b.Events {
				objects = append(objects, e.Object)
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"c/object.json"}, objects)
		equal(t, []string{"c/3"}, sortedKeys(r.table.snapshot()))
		if logs := r.logs.String(); strings.Count(logs, "missing property") != 1 || strings.Contains(logs, "table=a") {
			t.Errorf("logged: %s", logs)
		}
	})
}

type ruleFunc func(e *cdc.Event) (bool, string, string)

func (f ruleFunc) Check(e *cdc.Event) (bool, string, string) { return f(e) }

func TestAPipelineThatLacksAPartIsRefused(t *testing.T) {
	r, err := newRig(t.TempDir(), newStream(), newTable())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(c *pipeline.Config){
		"source": func(c *pipeline.Config) { c.Source = nil }, "sink": func(c *pipeline.Config) { c.Sink = nil },
		"dead letters": func(c *pipeline.Config) { c.Dead = nil }, "metrics": func(c *pipeline.Config) { c.Metrics = nil },
		"logger": func(c *pipeline.Config) { c.Logger = nil }, "tables": func(c *pipeline.Config) { c.Tables = nil },
		"latency": func(c *pipeline.Config) { c.MinLatency, c.MaxLatency = 2, 1 },
	} {
		c := r.config
		spoil(&c)
		if _, err := pipeline.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	p, err := pipeline.New(r.config)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ended, t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Run(ended, t.Context()); err == nil {
		t.Error("a second run is no error")
	}
}

// TestPipeline_LogsAColumnThatTheSchemaLacksOnce: whichever decoder meets it, in this
// run of the pipeline or the next, and however it is spelt.
func TestPipeline_LogsAColumnThatTheSchemaLacksOnce(t *testing.T) {
	var payloads []string
	for i := range 300 {
		for _, version := range []string{"v1", "v2"} {
			payloads = append(payloads, strings.Replace(fmt.Sprintf(`{"operation":"UPDATE","id":"e","table":"a","modelVersion":"v1","after":{"id":"%d","extra":1,"mor\u0065":2},"timestamp":1}`, i), `"v1"`, strconv.Quote(version), 1))
		}
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.config.Unknown = new(pipeline.UnknownColumns)
		r.stream.run = func() int { return 7 }
		for range 2 {
			r.mustStart(t)
			synctest.Wait()
			r.mustStop(t)
			r.table.checkpoint = cdc.Position{}
			r.stream.settled = cdc.Position{}
		}
		for _, column := range []string{"extra", "more"} {
			if n := strings.Count(r.logs.String(), " column="+column+"\n"); n != 1 {
				t.Errorf("%s is logged %d times:\n%s", column, n, r.logs)
			}
		}
	})
}

// TestPipeline_LeavesMigrationsToTheLogOfTheSink: so that each is logged once.
func TestPipeline_LeavesMigrationsToTheLogOfTheSink(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"a v1"}, r.table.migrations)
		if strings.Contains(r.logs.String(), "create a v1") {
			t.Errorf("the log is\n%s", r.logs)
		}
	})
}
