package pipeline_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/retry"
)

func TestRetry_RepeatsTheSameBatchWhileTheDestinationIsDown(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "y")}, func(t *testing.T, r *rig) {
		var batches []*change.Batch
		var times []time.Time
		r.sink.before = func(_ int, b *change.Batch) error {
			batches, times = append(batches, b), append(times, time.Now())
			if time.Since(times[0]) < 6*time.Hour {
				return errors.New("connection refused")
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		s := r.Status()
		equal(t, pipeline.Waiting, s.State)
		equal(t, "waiting for the destination: connection refused", s.Reason)
		if s.Lag < 5*time.Hour || s.InFlight != 2 || s.Applied != 0 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		equal(t, 2, len(r.sink.snapshot()))
		equal(t, pipeline.Running, r.Status().State)
		for i := range batches {
			if batches[i] != batches[0] {
				t.Fatal("it retries another batch")
			}
			if i == 0 {
				continue
			}
			if wait := times[i].Sub(times[i-1]); wait < 50*time.Millisecond || wait > 30*time.Second {
				t.Errorf("attempt %d came after %v", i+1, wait)
			}
		}
		logs := r.logs.String()
		if n := strings.Count(logs, "waiting for the destination"); n < 3 || n > 50 {
			t.Errorf("%d log lines for %d attempts", n, len(batches))
		}
		if strings.Count(logs, "the destination works again") != 1 {
			t.Errorf("the recovery is not logged once: %s", logs)
		}
	})
}

func TestRetry_ReportsADestinationThatHangs(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		var began time.Time
		r.sink.before = func(call int, _ *change.Batch) error {
			if call == 1 {
				began = time.Now()
				time.Sleep(retry.HangTimeout + 2*time.Second)
				return errors.New("connection reset")
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(retry.HangTimeout - time.Second)
		synctest.Wait()
		equal(t, pipeline.Running, r.Status().State)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s := r.Status()
		equal(t, pipeline.Waiting, s.State)
		equal(t, "waiting for the destination: there was no answer for 30s", s.Reason)
		equal(t, began, s.Since)
		if logs := r.logs.String(); strings.Count(logs, "waiting for the destination") != 1 {
			t.Errorf("the wait is not logged once: %s", logs)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, "connection reset", r.Status().LastError)
		time.Sleep(time.Minute)
		synctest.Wait()
		equal(t, pipeline.Running, r.Status().State)
		if logs := r.logs.String(); strings.Count(logs, "the destination works again") != 1 {
			t.Errorf("the recovery is not logged once: %s", logs)
		}
	})
}

func TestStatus_KeepsTheReasonWhileTheNextAttemptHangs(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.sink.before = func(call int, _ *change.Batch) error {
			if call <= 2 { // like a wait for a lock of another session
				time.Sleep(retry.HangTimeout + time.Second)
				return errors.New("locks are held by pid 7")
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(retry.HangTimeout + 2*time.Second)
		synctest.Wait()
		equal(t, "waiting for the destination: locks are held by pid 7", r.Status().Reason)
		if logs := r.logs.String(); strings.Count(logs, "locks are held by pid 7") != 1 {
			t.Errorf("the first failure is not logged once: %s", logs)
		}
		time.Sleep(retry.HangTimeout - 500*time.Millisecond)
		synctest.Wait()
		want := "waiting for the destination: there was no answer for 30s; the previous attempt: locks are held by pid 7"
		equal(t, want, r.Status().Reason)
	})
}

func TestRetry_HonoursRetryAfter(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.sink.before = func(call int, _ *change.Batch) error {
			if call == 1 {
				return &fault.Error{RetryAfter: 5 * time.Minute, Err: errors.New("throttled")}
			}
			return nil
		}
		r.mustStart(t)
		time.Sleep(5*time.Minute - time.Second)
		synctest.Wait()
		equal(t, 0, len(r.sink.snapshot()))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, 1, len(r.sink.snapshot()))
	})
}

func TestRun_FatalErrorKeepsEarlierBatches(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x"), put("a", "2", "y"), put("a", "3", "z")}, func(t *testing.T, r *rig) {
		denied := fault.Mark(fault.Fatal, errors.New("permission denied"))
		r.config.MaxRows = 1
		r.sink.before = func(_ int, b *change.Batch) error {
			if b.First.Sequence == 2 {
				return denied
			}
			return nil
		}
		r.mustStart(t)
		if err := r.finish(); !errors.Is(err, denied) {
			t.Errorf("Run: %v", err)
		}
		equal(t, 1, r.source.acknowledged.Sequence)
	})
}

func TestRun_FatalSourceErrorAppliesEarlierMessages(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		gone := fault.Mark(fault.Fatal, errors.New("permissions violation"))
		r.config.MinLatency, r.config.MaxLatency = time.Hour, time.Hour
		r.source.fail = func() error {
			if r.source.next > 0 {
				return gone
			}
			return nil
		}
		r.mustStart(t)
		if err := r.finish(); !errors.Is(err, gone) {
			t.Errorf("Run: %v", err)
		}
		equal(t, 1, r.source.acknowledged.Sequence)
	})
}

func TestReceive_RetriesAFailingSource(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		failures := 5
		r.source.fail = func() error {
			if failures--; failures >= 0 {
				return errors.New("timeout")
			}
			return nil
		}
		r.mustStart(t)
		synctest.Wait()
		equal(t, "waiting for the source: timeout", r.Status().Reason)
		if err := r.source.await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		equal(t, "", r.Status().Reason)
	})
}

// statusHandler is a log handler that calls the pipeline's Status.
type statusHandler struct {
	slog.Handler
	rig   *rig
	asked chan pipeline.Status
}

func (a statusHandler) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "the destination, and trying") || strings.Contains(r.Message, "works again") {
		a.asked <- a.rig.Status()
	}
	return nil
}

func TestStatus_IsAvailableWhileARetryIsLogged(t *testing.T) {
	r, err := newRig(t.TempDir(), newMemorySource(put("a", "1", "x")), newMemorySink())
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan pipeline.Status, 100)
	r.config.Logger = slog.New(statusHandler{slog.NewTextHandler(io.Discard, nil), r, asked})
	r.sink.before = func(call int, _ *change.Batch) error {
		if call == 1 {
			return errors.New("connection refused")
		}
		return nil
	}
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"waiting for the destination: connection refused", ""} {
		select {
		case s := <-asked:
			equal(t, want, s.Reason)
		case <-time.After(30 * time.Second):
			t.Fatal("logging and Status wait for each other")
		}
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// causeSource is a source that returns the cause of its interruption.
type causeSource struct{ *memorySource }

func (s causeSource) Receive(ctx context.Context) ([]pipeline.Message, error) {
	messages, err := s.memorySource.Receive(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return messages, err
}

func TestReceive_LogsNoErrorWhenStopped(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.Source = causeSource{r.source}
		p, err := pipeline.New(r.config)
		if err != nil {
			t.Fatal(err)
		}
		soft, stop := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(soft, t.Context()) }()
		if err := r.source.await(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop(errors.New("the parent process ends"))
		if err := <-ended; err != nil || strings.Contains(r.logs.String(), "the parent process ends") {
			t.Errorf("it ends with %v, and logs %s", err, r.logs)
		}
	})
}
