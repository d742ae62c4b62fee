package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func TestRun_HoldsASessionUntilItStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var began []string
		b.config.SessionBegan = func(id string) { began = append(began, id) }
		b.config.Options.ConsumerSuffix = "blue"
		b.reconciler.destination = &reconciler.Destination{
			DestinationKey: state.DestinationKey{Masked: "file:///x"}, Driver: drivers.All()[0],
		}
		b.run()
		b.expect(t, "start s1", "follow eds-dev-blue [dbchange.*.*.*.*.PUBLIC.>]")
		time.Sleep(2*time.Minute + time.Second)
		synctest.Wait()
		b.expect(t)
		if n := b.conn.heartbeats.Load(); n != 3 {
			t.Errorf("%d heartbeats", n)
		}
		if id := b.agent.ServerID(); id != "dev" || !slices.Equal(began, []string{"s1"}) {
			t.Errorf("the server is %q, its sessions %v", id, began)
		}
		b.end(nil)
		b.expect(t, "s1: close the channel", "s1: disconnect", "end s1, errored: false")
		if status := b.config.Health.Report().Status; status != telemetry.ShuttingDown {
			t.Errorf("health is %v", status)
		}
	})
}

func TestRun_WithoutHQFollowsTheStreamOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Keyless, b.config.Options.ServerID = true, "mine"
		b.config.Crashes = []Crash{{Kind: "panic"}}
		b.begin()
		time.Sleep(time.Hour)
		synctest.Wait()
		b.expect(t)
		b.end(nil)
		b.expect(t, ": disconnect")
	})
}

// TestRun_BeginsAnotherSessionAfterFailures: the wait depends on the error.
func TestRun_BeginsAnotherSessionAfterFailures(t *testing.T) {
	for name, c := range map[string]struct {
		err       error
		min, max  time.Duration
		condition string // of health
	}{
		"lost connection":    {errors.New("connection refused"), 50 * time.Millisecond, 100 * time.Millisecond, "session"},
		"expired credential": {fault.Mark(fault.Fatal, jetstream.ErrClosed), 50 * time.Millisecond, 100 * time.Millisecond, "session"},
		"another writer":     {&sink.WriterError{}, writerWait, writerWait, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var times []time.Time
				b.reconciler.run = func(due, _ context.Context) (gap, err error) {
					if times = append(times, time.Now()); len(times) == 1 {
						return nil, c.err
					}
					<-due.Done()
					return nil, context.Cause(due)
				}
				b.run()
				condition := ""
				if reasons := b.config.Health.Report().Reasons; len(reasons) > 0 {
					condition = reasons[0].Condition
				}
				if condition != c.condition {
					t.Errorf("health names %q, want %q", condition, c.condition)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(times) != 2 {
					t.Fatalf("%d sessions follow the stream", len(times))
				}
				if wait := times[1].Sub(times[0]); wait < c.min || wait > c.max {
					t.Errorf("the wait is %v", wait)
				}
				if events := b.take(); !slices.Contains(events, "end s1, errored: true") || !slices.Contains(events, "start s2") {
					t.Errorf("events: %q", events)
				}
				if reasons := b.config.Health.Report().Reasons; len(reasons) > 0 {
					t.Errorf("health: %+v", reasons)
				}
				b.end(nil)
			})
		})
	}
}

func TestRun_ReturnsErrorsThatNeedTheOperator(t *testing.T) {
	errDenied := fault.Mark(fault.Fatal, errors.New("permission denied"))
	gap := &continuity.GapError{}
	for name, c := range map[string]struct {
		gap, err, want error
	}{
		"fatal":                 {nil, errDenied, errDenied},
		"gap":                   {gap, errors.New("connection refused"), gap},
		"gap that stays hidden": {nil, gap, gap},
		"end without a reason":  {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.reconciler.run = func(context.Context, context.Context) (error, error) { return c.gap, c.err }
				b.run()
				b.expectEnd(c.want)
				if events := b.take(); events[len(events)-1] != "end s1, errored: true" && c.want != nil {
					t.Errorf("events: %q", events)
				}
			})
		})
	}
}

func TestRun_EndsIfNATSDeniesAPermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.begin()
		denied := fault.Mark(fault.Fatal, errors.New("permission denied"))
		b.conn.denied <- denied
		b.expectEnd(denied)
	})
}

func TestRun_EndsTheSessionIfItCannotConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.nats.refuse = fault.Mark(fault.Fatal, errRefused)
		b.run()
		b.expectEnd(errRefused)
		b.expect(t, "start s1", "end s1, errored: true")
	})
}

func TestRun_LeavesChangesIfItHasToStopAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.reconciler.run = func(_, hard context.Context) (gap, err error) {
			<-hard.Done()
			return nil, pipeline.ErrAbandoned
		}
		b.begin()
		b.stop()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		b.hardStop()
		b.expectEnd(pipeline.ErrAbandoned)
		b.expect(t, "s1: close the channel", "s1: disconnect", "end s1, errored: true")
	})
}

func TestRun_LogsAFailureWhileItStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.reconciler.run = func(due, _ context.Context) (gap, err error) {
			<-due.Done()
			return nil, errors.New("connection refused")
		}
		b.begin()
		b.end(nil)
		if !b.log.has("the last session did not end cleanly") {
			t.Errorf("the log: %q", b.log.all)
		}
	})
}

func TestRun_WaitsForHQ(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hq.startErr = func(session int) error {
			if session == 1 {
				return errors.New("no route to host")
			}
			return nil
		}
		b.hq.conflicts = 1
		b.run()
		time.Sleep(time.Second)
		synctest.Wait()
		b.expect(t, "start s2", "follow eds-dev [dbchange.*.*.*.*.PUBLIC.>]")
		if !b.log.has("another server runs with this id") {
			t.Errorf("the log: %q", b.log.all)
		}
		b.end(nil)
	})
}
