package pipeline_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/pipeline"
)

func TestBatcher_AppliesAChangeOnAnIdleStreamAtOnce(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		r.mustStart(t)
		for i := range 5 {
			time.Sleep(time.Hour)
			r.source.publish(put("a", "1", fmt.Sprint(i)))
			synctest.Wait()
			equal(t, map[string]string{"a/1": fmt.Sprintf("id=1 v=%d", i)}, r.sink.snapshot())
			equal(t, uint64(i+1), r.source.acknowledged.Sequence)
		}
	})
}

func TestBatcher_WaitsBetweenMinAndMaxLatency(t *testing.T) {
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.MinLatency = 2 * time.Second
		r.mustStart(t)
		time.Sleep(1900 * time.Millisecond)
		synctest.Wait()
		equal(t, 0, len(r.sink.snapshot()))
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		equal(t, 1, len(r.sink.snapshot()))
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.Limits.Age = 5 * time.Minute // the destination's default
		r.mustStart(t)
		time.Sleep(299 * time.Second)
		synctest.Wait()
		equal(t, 0, len(r.sink.snapshot()))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		equal(t, 1, len(r.sink.snapshot()))
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.Limits.Age = 5 * time.Minute
		r.config.MaxLatency = time.Second
		r.mustStart(t)
		synctest.Wait()
		equal(t, 1, len(r.sink.snapshot()))
	})
	inBubble(t, []string{put("a", "1", "x")}, func(t *testing.T, r *rig) {
		r.config.MaxLatency = 3 * time.Second
		r.source.behind = 1000 // more messages wait, but do not come
		r.mustStart(t)
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		equal(t, 0, len(r.sink.snapshot()))
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		equal(t, 1, len(r.sink.snapshot()))
	})
}

func TestBatcher_FillsBatchesUpToRowsAndBytes(t *testing.T) {
	var payloads []string
	for i := range 1000 {
		payloads = append(payloads, put("a", fmt.Sprint(i), "x"))
	}
	bounded := func(t *testing.T, set func(*pipeline.Config), want []int) {
		t.Helper()
		inBubble(t, payloads, func(t *testing.T, r *rig) {
			set(&r.config)
			r.mustStart(t)
			if err := r.source.await(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
			r.mustStop(t)
			equal(t, want, r.sink.sizes)
		})
	}
	bounded(t, func(c *pipeline.Config) { c.Limits.Rows = 400 }, []int{400, 400, 200})
	bounded(t, func(c *pipeline.Config) { c.MaxRows, c.Limits.Rows = 600, 400 }, []int{600, 400})
	bounded(t, func(c *pipeline.Config) { c.MaxInFlight = 700 }, []int{350, 350, 300})
	bounded(t, func(c *pipeline.Config) { c.MaxBytes = 600 * len(put("a", "100", "x")) }, []int{601, 399})
}

func TestInFlight_IsBoundedByMessagesAndBytes(t *testing.T) {
	var payloads []string
	for i := range 3000 {
		payloads = append(payloads, put("a", fmt.Sprint(i), strings.Repeat("x", 100)))
	}
	inBubble(t, payloads, func(t *testing.T, r *rig) {
		const most = 100_000
		r.config.MaxBytes, r.config.Budget, r.config.MaxInFlight = most/4, pipeline.NewBudget(most), 500
		run := 10
		r.source.run = func() int { return run }
		r.mustStart(t)
		if err := r.source.await(t.Context(), 3000); err != nil {
			t.Fatal(err)
		}
		if got, bound := r.source.mostBytes, most+run*250; got > bound {
			t.Errorf("%d bytes were in flight, more than %d", got, bound)
		}
		if got := r.source.mostMessages; got > 500+run {
			t.Errorf("%d messages were in flight", got)
		}
	})
}
