package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// TestPipeline_MatchesNaiveApplicationUnderRandomFaults runs random histories through pipelines
// that are stopped softly and hard, over a sink that fails before and after it commits. The result
// must equal the history applied event by event.
func TestPipeline_MatchesNaiveApplicationUnderRandomFaults(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		h, seed := drawHistory(rt), rapid.Uint64().Draw(rt, "seed")
		var err error
		synctest.Test(t, func(*testing.T) { err = checkHistory(h, seed, dir) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// eventHistory is a random stream, and the rows and dead letters that it must produce.
type eventHistory struct {
	payloads []string
	rows     map[string]string
	dead     map[uint64]bool // undecodable messages: they must be dead letters
	poison   map[uint64]bool // refused by the sink: dead letters unless compacted away
}

func drawHistory(t *rapid.T) eventHistory {
	h := eventHistory{rows: map[string]string{}, dead: map[uint64]bool{}, poison: map[uint64]bool{}}
	for i := range rapid.IntRange(1, 120).Draw(t, "events") {
		n := uint64(i + 1)
		table := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "table")
		id := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "id")
		version := rapid.SampledFrom([]string{"v1", "v1", "v1", "v2"}).Draw(t, "version")
		row := `{"id":"` + id + `","v":"` + strconv.Itoa(i) + `","w":"` + strconv.Itoa(i) + `"}`
		text := "id=" + id + " v=" + strconv.Itoa(i)
		if version == "v2" {
			text += " w=" + strconv.Itoa(i)
		}
		payload := ""
		switch kind := rapid.IntRange(0, 20).Draw(t, "kind"); {
		case kind == 0:
			payload = `{"not":"an event"}`
			h.dead[n] = true
		case kind == 1:
			payload = strings.Replace(put(table, id, "poison"), "v1", version, 1)
			h.poison[n] = true
		case kind < 6:
			payload = remove(table, id)
			delete(h.rows, table+"/"+id)
		case kind < 8: // the key moves
			old := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "old")
			payload = `{"operation":"UPDATE","table":"` + table + `","modelVersion":"` + version + `",` +
				`"before":{"id":"` + old + `"},"after":` + row + `}`
			delete(h.rows, table+"/"+old)
			h.rows[table+"/"+id] = text
		default:
			payload = `{"operation":"INSERT","table":"` + table + `","modelVersion":"` + version + `","after":` + row + `}`
			h.rows[table+"/"+id] = text
		}
		h.payloads = append(h.payloads, payload)
	}
	return h
}

// dice are the random choices of one check, made from several goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) between(low, high int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return low + d.r.IntN(high-low+1)
}

func (d *dice) one(in int) bool { return d.between(1, in) == 1 }

func checkHistory(h eventHistory, seed uint64, dir string) error {
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		return err
	}
	d := &dice{r: rand.New(rand.NewPCG(seed, 0))}
	s, tab := newMemorySource(h.payloads...), newMemorySink()
	s.run = func() int { return d.between(1, 9) }
	r, err := newRig(dir, s, tab)
	if err != nil {
		return err
	}
	r.config.MaxRows, r.config.MaxBytes = d.between(1, 20), d.between(100, 4000)
	r.config.MaxInFlight, r.config.Decoders = d.between(1, 60), d.between(1, 4)
	for runs := 4; runs >= 0; runs-- {
		if err := runOnce(r, d, runs == 0, uint64(len(h.payloads))); err != nil {
			return err
		}
	}
	if diff := cmp.Diff(h.rows, tab.snapshot()); diff != "" {
		return errors.New(diff)
	}
	return compareDeadLetters(h, r.dead)
}

// runOnce runs a pipeline in the rig, with random faults and a random end. The last run has no
// faults and must see the whole stream acknowledged.
func runOnce(r *rig, d *dice, last bool, total uint64) error {
	inject := func(int, *change.Batch) error {
		if last || !d.one(4) {
			return nil
		}
		if d.one(4) {
			r.hard()
		}
		return errors.New("connection lost")
	}
	r.sink.before, r.sink.after = inject, inject
	if err := r.start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(r.ended, cancel)()
	if last || d.one(2) {
		if err := r.source.await(ctx, total); last && err != nil {
			return fmt.Errorf("the last run ended early: %w", r.finish())
		}
	}
	if d.one(2) {
		r.hard()
	}
	if err := r.stop(); err != nil && !errors.Is(err, pipeline.ErrAbandoned) {
		return err
	}
	switch {
	case r.sink.violation != "":
		return errors.New(r.sink.violation)
	case r.sink.checkpoint.Sequence < r.source.acknowledged.Sequence:
		return fmt.Errorf("acknowledged %d, checkpoint %d", r.source.acknowledged.Sequence, r.sink.checkpoint.Sequence)
	}
	return nil
}

func compareDeadLetters(h eventHistory, q *dlq.Queue) error {
	all, err := deadLetters(q)
	if err != nil {
		return err
	}
	got := map[uint64]bool{}
	for _, e := range all {
		got[e.Sequence] = true
		if !h.dead[e.Sequence] && !h.poison[e.Sequence] {
			return fmt.Errorf("message %d is a dead letter: %s", e.Sequence, e.Reason)
		}
	}
	for n := range h.dead {
		if !got[n] {
			return fmt.Errorf("message %d was lost", n)
		}
	}
	return nil
}
