package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// namingSink is a sink that names an object by the first and the last event of its batch. An object
// replaces an earlier object of the same name.
type namingSink struct {
	mu      sync.Mutex
	written map[string][]uint64 // the sequences in each, by name
	fail    func() error        // after it has written a batch
}

func (n *namingSink) Apply(_ context.Context, b *change.Batch) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []uint64
	for _, e := range b.Events {
		all = append(all, e.Position.Sequence)
	}
	n.written[fmt.Sprintf("%d-%d", all[0], all[len(all)-1])] = all
	if n.fail != nil {
		return n.fail()
	}
	return nil
}

func (n *namingSink) Close(context.Context) error { return nil }

// sequences returns the sequences of all written events, sorted.
func (n *namingSink) sequences() []uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []uint64
	for _, some := range n.written {
		all = append(all, some...)
	}
	slices.Sort(all)
	return all
}

// stallingSource is a slow source. While it is stuck, it acknowledges nothing.
type stallingSource struct {
	*memorySource
	stuck bool
	delay time.Duration
}

func (s *stallingSource) Receive(ctx context.Context) ([]pipeline.Message, error) {
	messages, err := s.memorySource.Receive(ctx)
	<-time.After(s.delay)
	return messages, err
}

func (s *stallingSource) Acknowledge(ctx context.Context, upTo cdc.Position) error {
	if s.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.memorySource.Acknowledge(ctx, upTo)
}

// programRun is one run of the program.
type programRun struct {
	pieces []int // numbers of messages, published one after the other
	dies   int   // number of the batch that it dies in; 0: it dies idle
	stuck  bool  // no message is acknowledged
}

// TestBatcher_CutsRepeatedMessagesAtTheSameBoundaries kills the program between writing a batch and
// acknowledging it, at random points and for random arrivals of messages. Each event must be
// written under one name.
func TestBatcher_CutsRepeatedMessagesAtTheSameBoundaries(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		crashes := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) programRun {
			return programRun{
				pieces: rapid.SliceOfN(rapid.IntRange(1, 20), 0, 8).Draw(rt, "pieces"),
				dies:   rapid.IntRange(0, 6).Draw(rt, "dies at"),
				stuck:  rapid.Bool().Draw(rt, "stuck"),
			}
		}), 1, 6).Draw(rt, "crashes")
		runs := rapid.SliceOfN(rapid.IntRange(1, 40), 1, 8).Draw(rt, "lengths of runs of messages")
		rows := rapid.IntRange(2, 60).Draw(rt, "rows per batch")
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			r, err := newRig(dir, newMemorySource(), newMemorySink())
			if err != nil {
				t.Fatal(err)
			}
			received := 0
			r.source.run = func() int { received++; return runs[received%len(runs)] }
			out, from := &namingSink{written: make(map[string][]uint64)}, &stallingSource{memorySource: r.source}
			var recorded, want []uint64
			publish := func() {
				want = append(want, uint64(len(want)+1))
				r.source.publish(put("a", fmt.Sprint(len(want)), "v"))
			}
			r.config.Source, r.config.Sink, r.config.KeepsRows, r.config.MaxRows = from, out, false, rows
			r.config.RecordBatchBoundaries = func(ends []uint64) error {
				recorded = ends
				return nil
			}
			for _, l := range crashes {
				applied := 0
				out.fail = func() error {
					if applied++; applied != l.dies {
						return nil
					}
					r.hard()
					return errors.New("the program dies")
				}
				r.config.BatchBoundaries, from.stuck = recorded, l.stuck
				r.mustStart(t)
				for _, piece := range l.pieces {
					for range piece {
						publish()
					}
					synctest.Wait()
				}
				r.hard()
				_ = r.finish() // killed
			}
			out.fail, from.stuck = nil, false
			r.config.BatchBoundaries = recorded
			r.mustStart(t)
			for range 2 { // the second batch forgets the boundary of the first
				publish()
				if err := r.source.await(t.Context(), uint64(len(want))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			r.mustStop(t)
			if diff := cmp.Diff(want, out.sequences()); diff != "" {
				t.Errorf("written sequences, from %v: %s", out.written, diff)
			}
			if diff := cmp.Diff(want[len(want)-1:], recorded); diff != "" {
				t.Errorf("acknowledged boundaries are not forgotten: %s", diff)
			}
		})
	})
}

// TestBatcher_WaitsForTheRestOfARepeatedBatch for longer than it waits for messages of other
// batches.
func TestBatcher_WaitsForTheRestOfARepeatedBatch(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		out := &namingSink{written: make(map[string][]uint64)}
		r.source.run = func() int { return 10 }
		r.config.Source, r.config.Sink, r.config.KeepsRows = &stallingSource{memorySource: r.source, delay: time.Second}, out, false
		r.config.BatchBoundaries = []uint64{45}
		for n := range 90 {
			r.source.publish(put("a", fmt.Sprint(n), "v"))
		}
		r.mustStart(t)
		if err := r.source.await(t.Context(), 90); err != nil {
			t.Fatal(err)
		}
		r.mustStop(t)
		if len(out.written["1-45"]) != 45 || len(out.sequences()) != 90 {
			t.Errorf("written: %v", slices.Sorted(maps.Keys(out.written)))
		}
	})
}
