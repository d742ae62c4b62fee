package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

func pick[T any](d *dice, of ...T) T { return of[d.between(0, len(of)-1)] }

// TestBudget_IsGivenBackAfterRandomRuns runs pipelines that share a budget, with messages of random
// sizes, failures and stops. If a pipeline waited for memory forever, it would not acknowledge its
// whole stream.
func TestBudget_IsGivenBackAfterRandomRuns(t *testing.T) {
	sizes := make(map[int][]byte)
	for _, kib := range []int{1, 100, 700, 1100, 1500, 2500, 4000} {
		sizes[kib] = compressedBacklog{text: kib << 10}.zipped()
	}
	dir := t.TempDir()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var err error
			synctest.Test(t, func(*testing.T) { err = budgetHistory(seed, dir, sizes) })
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// budgetHistory runs up to three pipelines and returns the errors.
func budgetHistory(seed uint64, dir string, sizes map[int][]byte) error {
	d := &dice{r: rand.New(rand.NewPCG(seed, 1))}
	limit := pick(d, 1, 300<<10, 1<<20, 2<<20, 4<<20, 9<<20)
	budget := pipeline.NewBudget(limit)
	count := d.between(1, 3)
	errs := make(chan error)
	describe := fmt.Sprintf("limit %d pipelines %d", limit, count)
	for k := range count {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			return err
		}
		r, text, err := budgetRig(d, sub, sizes)
		if err != nil {
			return err
		}
		describe += fmt.Sprintf("\n%d: %s", k, text)
		r.config.Budget = budget
		own := &dice{r: rand.New(rand.NewPCG(seed, uint64(10+k)))}
		go func() { errs <- budgetRuns(r, own) }()
	}
	var err error
	for range count {
		if e := <-errs; e != nil {
			err = errors.Join(err, e)
		}
	}
	if used := budget.Used(); used != 0 && err == nil {
		err = fmt.Errorf("%d bytes are still in use", used)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, describe)
	}
	return nil
}

// budgetRig returns a rig with a random stream and configuration, and a description of both.
func budgetRig(d *dice, dir string, sizes map[int][]byte) (*rig, string, error) {
	n := d.between(1, 40)
	mix := d.between(0, 3)
	payloads := make([]string, n)
	s, tab := newMemorySource(payloads...), newMemorySink()
	text := ""
	for i := range s.messages {
		m := &s.messages[i]
		m.Subject = "dbchange.a.UPDATE.company.location.PUBLIC.x"
		kind := d.between(0, 11)
		if mix == 0 {
			kind = min(kind, 3)
		}
		switch kind {
		case 0, 1, 2:
			m.Data = []byte(put("b", strconv.Itoa(i), strings.Repeat("x", d.between(0, 3000))))
		case 3:
			m.Data = []byte(put("b", strconv.Itoa(i), strings.Repeat("x", d.between(100, 900)<<10)))
		case 4:
			m.Data, m.Encoding = zip(put("b", strconv.Itoa(i), "poison")), "gzip/json"
		case 5:
			big := sizes[pick(d, 700, 2500)]
			m.Data, m.Encoding = big[:len(big)/2], "gzip/json"
		case 6:
			m.Data, m.Encoding = []byte("{"), "nonsense"
		case 7:
			m.Data, m.Encoding = zip(strings.Replace(put("b", strconv.Itoa(i), "x"), "v1", "v2", 1)), "gzip/json"
		default:
			m.Data, m.Encoding = sizes[pick(d, 1, 100, 700, 1100, 1500, 2500, 4000)], "gzip/json"
		}
		text += fmt.Sprintf("%d ", kind)
	}
	run := pick(d, 1, 3, 10, 40)
	s.run = func() int { return d.between(1, run) }
	r, err := newRig(dir, s, tab)
	if err != nil {
		return nil, "", err
	}
	c := &r.config
	c.MaxRows, c.MaxBytes = pick(d, 1, 3, 20, 100), pick(d, 1, 500<<10, 3<<20, 16<<20)
	c.MaxInFlight, c.Decoders = pick(d, 1, 2, 5, 30, 1000), d.between(1, 4)
	if d.one(4) {
		end := 0
		for end < n {
			end += d.between(1, 15)
			c.BatchBoundaries = append(c.BatchBoundaries, uint64(min(end, n)))
		}
		c.BatchBoundaries = c.BatchBoundaries[:d.between(0, len(c.BatchBoundaries))]
	}
	return r, fmt.Sprintf("n %d run %d rows %d bytes %d inflight %d decoders %d boundaries %v: %s",
		n, run, c.MaxRows, c.MaxBytes, c.MaxInFlight, c.Decoders, c.BatchBoundaries, text), nil
}

// budgetRuns runs the rig several times. The last run acknowledges its whole stream.
func budgetRuns(r *rig, d *dice) error {
	total := uint64(len(r.source.messages))
	boundaries := r.config.BatchBoundaries
	for runs := d.between(0, 4); runs >= 0; runs-- {
		last := runs == 0
		down := !last && d.one(3)
		r.sink.before = func(int, *change.Batch) error {
			if down {
				return errors.New("connection refused")
			}
			if d.one(5) {
				time.Sleep(time.Duration(d.between(0, 2000)) * time.Millisecond)
			}
			if !last && d.one(10) {
				return errors.New("connection lost")
			}
			if !last && d.one(60) {
				return fault.Mark(fault.Fatal, errors.New("fatal"))
			}
			return nil
		}
		r.layouts.mu.Lock()
		r.layouts.fail = func(string, string) error {
			if !last && d.one(6) {
				return pick(d, errors.New("hq is down"), fault.Mark(fault.Fatal, errors.New("fatal schema")))
			}
			if !last && d.one(40) {
				panic("in the decoder")
			}
			return nil
		}
		r.layouts.mu.Unlock()
		r.config.BatchBoundaries = nil
		for _, e := range boundaries {
			if e > r.sink.checkpoint.Sequence {
				r.config.BatchBoundaries = append(r.config.BatchBoundaries, e)
			}
		}
		if err := r.start(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
		err := budgetRun(ctx, r, d, last, down, total)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func budgetRun(ctx context.Context, r *rig, d *dice, last, down bool, total uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ended, cancel)()
	for range d.between(0, 4) {
		time.Sleep(time.Duration(d.between(0, 1500)) * time.Millisecond)
	}
	if last {
		if err := r.source.await(ctx, total); err != nil {
			status, early := r.Status(), r.ended.Err() != nil
			r.hard()
			return fmt.Errorf("%d of %d messages are acknowledged; %+v; ended early: %v: %w",
				r.source.acknowledged.Sequence, total, status, early, errors.Join(err, r.finish()))
		}
	}
	if down || d.one(2) {
		r.hard()
	} else if !last {
		r.soft()
		if d.one(3) {
			time.Sleep(time.Duration(d.between(0, 500)) * time.Millisecond)
			r.hard()
		}
	}
	err := r.stop()
	if err != nil && !errors.Is(err, pipeline.ErrAbandoned) && (last || fault.Of(err) != fault.Fatal) {
		return fmt.Errorf("the run: %w", err)
	}
	if r.Status().InFlight != 0 && err == nil && r.source.acknowledged.Sequence == total && last {
		return fmt.Errorf("in flight: %+v", r.Status())
	}
	if r.sink.violation != "" {
		return errors.New(r.sink.violation)
	}
	return nil
}
