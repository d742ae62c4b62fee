package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// inBubble runs a test with a fake clock that only moves while all goroutines wait. The test starts
// the rig; inBubble stops it.
func inBubble(t *testing.T, payloads []string, test func(t *testing.T, r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r, err := newRig(dir, newMemorySource(payloads...), newMemorySink())
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

func (r *rig) mustDeadLetters(t *testing.T) []string {
	t.Helper()
	all, err := deadLetters(r.dead)
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

func TestRun_SoftStopAppliesMessagesInFlight(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "y"), remove("a", "1")}, func(t *testing.T, r *rig) {
		r.config.MinLatency, r.config.MaxLatency = time.Hour, time.Hour
		r.mustStart(t)
		synctest.Wait()
		equal(t, map[string]string{}, r.sink.snapshot())
		equal(t, 3, r.Status().InFlight)
		r.mustStop(t)
		equal(t, map[string]string{"a/2": "id=2 v=y"}, r.sink.snapshot())
		equal(t, 3, r.source.acknowledged.Sequence)
		equal(t, pipeline.Stopping, r.Status().State)
	})
}

func TestRun_HardStopAbandonsMessagesInFlight(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.sink.before = func(int, *change.Batch) error { return errors.New("down") }
		r.mustStart(t)
		synctest.Wait()
		r.soft()
		time.Sleep(time.Minute)
		equal(t, 0, r.source.acknowledged.Sequence) // a soft stop waits for the destination
		r.hard()
		if err := r.finish(); !errors.Is(err, pipeline.ErrAbandoned) {
			t.Errorf("Run: %v", err)
		}
		equal(t, 0, r.source.acknowledged.Sequence)
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		r.hard()
		if err := r.finish(); err != nil { // no message was in flight
			t.Errorf("Run: %v", err)
		}
	})
}

func TestPipeline_DoesNothingWhileIdle(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		_, calls := r.sink.committed()
		received := r.source.receives
		time.Sleep(30 * 24 * time.Hour)
		synctest.Wait()
		_, after := r.sink.committed()
		equal(t, [2]int{calls, received}, [2]int{after, r.source.receives})
	})
}

// healthSource is a source that reports its health.
type healthSource struct {
	*memorySource
	unhealthy atomic.Pointer[error]
	waiting   atomic.Int64 // -1: not known
}

func (p *healthSource) Waiting() (uint64, bool) {
	n := p.waiting.Load()
	return uint64(max(n, 0)), n >= 0
}

func (p *healthSource) Health() (time.Time, error) {
	if reason := p.unhealthy.Load(); reason != nil {
		return time.Unix(1, 0), *reason
	}
	return time.Time{}, nil
}

func TestStatus_MarksUnknownLag(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p := &healthSource{memorySource: r.source}
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
		known("before the stream answers", false, false)
		p.waiting.Store(1)
		known("before the first message", false, true)
		p.waiting.Store(0)
		known("without messages", true, true)
		r.source.publish(put("a", "1", "x"))
		known("after all messages are applied", true, true)
		lost := errors.New("not connected")
		p.unhealthy.Store(&lost)
		known("without the stream", false, false)
		p.unhealthy.Store(nil)
		r.soft()
		known("stopping", false, false)
	})
}

func TestStatus_ReportsTheHealthOfTheSource(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		p := &healthSource{memorySource: r.source}
		r.config.Source = p
		r.mustStart(t)
		synctest.Wait()
		equal(t, pipeline.Running, r.Status().State)
		lost := errors.New("not connected")
		p.unhealthy.Store(&lost)
		s := r.Status()
		want := [3]any{pipeline.Waiting, "waiting for the stream: not connected", time.Unix(1, 0)}
		equal(t, want, [3]any{s.State, s.Reason, s.Since})
	})
}

func at(clock, payload string) string {
	return strings.Replace(payload, `"timestamp":1`, `"mvccTimestamp":"`+clock+`"`, 1)
}

func TestDecode_SkipsSnapshotChangesByExactClock(t *testing.T) {
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
		equal(t, []string{"a/3", "a/4", "a/6", "b/5"}, sortedKeys(r.sink.snapshot()))
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

func TestDecode_SkipsCheckpointedMessagesUnread(t *testing.T) {
	inBubble(t, []string{"not even an event", put("a", "2", "y"), put("a", "3", "z")}, func(t *testing.T, r *rig) {
		r.sink.checkpoint = r.source.messages[1].Position
		r.mustStart(t)
		synctest.Wait()
		r.mustStop(t)
		equal(t, []string{"a/3"}, sortedKeys(r.sink.snapshot()))
		equal(t, 3, r.source.acknowledged.Sequence)
		equal(t, 0, len(r.mustDeadLetters(t)))
	})
}

func TestApply_AdvancesTheCheckpointOverSkippedMessages(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.config.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{Wall: 100}, true }
		r.mustStart(t)
		for range 10 {
			r.source.publish(at("50", put("a", "1", "x")))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, 10, r.source.acknowledged.Sequence)
		equal(t, 10, r.sink.checkpoint.Sequence)
		batches, _ := r.sink.committed()
		equal(t, [][2]uint64{{1, 10}}, batches)
	})
}

func TestApply_SendsNoEmptyBatchesWithoutCheckpoint(t *testing.T) {
	payloads := []string{
		at("50", put("a", "1", "x")), "nonsense", at("200", put("a", "2", "y")),
		`{"operation":"INSERT","table":"unknown_to_the_schema","mvccTimestamp":"201"}`,
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		j := &historySink{}
		r.config.Sink, r.config.KeepsRows, r.config.Tables = j, false, nil
		r.config.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{Wall: 100}, true }
		r.mustStart(t)
		synctest.Wait()
		r.source.publish(at("50", put("a", "1", "x")))
		time.Sleep(2 * time.Second)
		r.mustStop(t)
		equal(t, []uint64{3, 4}, j.events)
		equal(t, 0, j.empty)
		equal(t, 5, r.source.acknowledged.Sequence)
		equal(t, 1, len(r.mustDeadLetters(t)))
	})
}

func TestMigrate_RunsBeforeTheFirstEventOfANewLayout(t *testing.T) {
	v2 := strings.ReplaceAll(put("a", "1", "x"), "v1", "v2")
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "x"), v2, put("b", "1", "x"), v2}, func(t *testing.T, r *rig) {
		failures := 3
		r.sink.migrate = func([]*schema.Table) error {
			if failures--; failures >= 0 {
				return errors.New("lock timeout")
			}
			return nil
		}
		r.mustStart(t)
		if err := r.source.await(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		r.mustStop(t)
		if r.sink.violation != "" {
			t.Error(r.sink.violation)
		}
		slices.Sort(r.sink.migrations)
		equal(t, []string{"a v1", "a v2", "b v1"}, r.sink.migrations)
	})
}

func TestMigrate_FailureIsFatal(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.sink.migrate = func([]*schema.Table) error { return fault.Mark(fault.Poison, errors.New("the name is too long")) }
		r.mustStart(t)
		if err := r.finish(); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "the name is too long") {
			t.Errorf("Run: %v", err)
		}
		equal(t, 0, len(r.mustDeadLetters(t)))
	})
}

func TestRules_SkipEventsOrNameObjects(t *testing.T) {
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
		r.sink.before = func(_ int, b *change.Batch) error {
			for _, e := range b.Events {
				objects = append(objects, e.Object)
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"c/object.json"}, objects)
		equal(t, []string{"c/3"}, sortedKeys(r.sink.snapshot()))
		if logs := r.logs.String(); strings.Count(logs, "missing property") != 1 || strings.Contains(logs, "table=a") {
			t.Errorf("logged: %s", logs)
		}
	})
}

type ruleFunc func(e *cdc.Event) (bool, string, string)

func (f ruleFunc) Check(e *cdc.Event) (bool, string, string) { return f(e) }

func TestNew_RefusesIncompleteConfig(t *testing.T) {
	r, err := newRig(t.TempDir(), newMemorySource(), newMemorySink())
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

// TestPipeline_LogsAColumnThatTheSchemaLacksOnce across all decoders and runs of the pipeline, for
// any spelling.
func TestPipeline_LogsAColumnThatTheSchemaLacksOnce(t *testing.T) {
	var payloads []string
	for i := range 300 {
		for _, version := range []string{"v1", "v2"} {
			payloads = append(payloads, fmt.Sprintf(`{"operation":"UPDATE","id":"e","table":"a","modelVersion":%q,`+
				`"after":{"id":"%d","extra":1,"mor\u0065":2},"timestamp":1}`, version, i))
		}
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		r.config.Unknown = new(pipeline.UnknownColumns)
		r.source.run = func() int { return 7 }
		for range 2 {
			r.mustStart(t)
			synctest.Wait()
			r.mustStop(t)
			r.sink.checkpoint = cdc.Position{}
			r.source.acknowledged = cdc.Position{}
		}
		for _, column := range []string{"extra", "more"} {
			if n := strings.Count(r.logs.String(), " column="+column+"\n"); n != 1 {
				t.Errorf("%s is logged %d times:\n%s", column, n, r.logs)
			}
		}
	})
}

// TestPipeline_DoesNotLogMigrations, because the sink logs them.
func TestPipeline_DoesNotLogMigrations(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.mustStart(t)
		synctest.Wait()
		equal(t, []string{"a v1"}, r.sink.migrations)
		if strings.Contains(r.logs.String(), "create a v1") {
			t.Errorf("the log is\n%s", r.logs)
		}
	})
}
