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

// namer is a sink that names what it writes by the first and the last event of a
// batch, and replaces what has the name.
type namer struct {
	mu      sync.Mutex
	written map[string][]uint64 // the sequences in each, by name
	fail    func() error        // after a batch was written
}

func (n *namer) Apply(_ context.Context, b *change.Batch) error {
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

func (n *namer) Close(context.Context) error { return nil }

// sequences returns the sequences of everything that is written, sorted.
func (n *namer) sequences() []uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []uint64
	for _, some := range n.written {
		all = append(all, some...)
	}
	slices.Sort(all)
	return all
}

// stalled is a stream of which nothing is settled while it is stuck, and that takes
// its time.
type stalled struct {
	*stream
	stuck bool
	delay time.Duration
}

func (s *stalled) Receive(ctx context.Context) ([]pipeline.Message, error) {
	messages, err := s.stream.Receive(ctx)
	<-time.After(s.delay)
	return messages, err
}

func (s *stalled) Settle(ctx context.Context, upTo cdc.Position) error {
	if s.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.stream.Settle(ctx, upTo)
}

// life is one run of the program.
type life struct {
	pieces []int // messages that are published, one after the other
	dies   int   // while it applies that batch; 0: once it has nothing to do
	stuck  bool  // nothing is acknowledged
}

// TestABatchThatComesAgainEndsWhereItDid: however messages arrive, and wherever the
// program dies between writing a batch and acknowledging it, each event is written
// under one name.
func TestABatchThatComesAgainEndsWhereItDid(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		lives := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) life {
			return life{
				pieces: rapid.SliceOfN(rapid.IntRange(1, 20), 0, 8).Draw(rt, "pieces"),
				dies:   rapid.IntRange(0, 6).Draw(rt, "dies at"),
				stuck:  rapid.Bool().Draw(rt, "stuck"),
			}
		}), 1, 6).Draw(rt, "lives")
		runs := rapid.SliceOfN(rapid.IntRange(1, 40), 1, 8).Draw(rt, "lengths of runs of messages")
		rows := rapid.IntRange(2, 60).Draw(rt, "rows a batch")
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			r, err := newRig(dir, newStream(), newTable())
			if err != nil {
				t.Fatal(err)
			}
			received := 0
			r.stream.run = func() int { received++; return runs[received%len(runs)] }
			out, from := &namer{written: make(map[string][]uint64)}, &stalled{stream: r.stream}
			var recorded, want []uint64
			publish := func() {
				want = append(want, uint64(len(want)+1))
				r.stream.publish(put("a", fmt.Sprint(len(want)), "v"))
			}
			r.config.Source, r.config.Sink, r.config.KeepsRows, r.config.MaxRows = from, out, false, rows
			r.config.RecordEnds = func(ends []uint64) error {
				recorded = ends
				return nil
			}
			for _, l := range lives {
				applied := 0
				out.fail = func() error {
					if applied++; applied != l.dies {
						return nil
					}
					r.hard()
					return errors.New("the program dies")
				}
				r.config.Ends, from.stuck = recorded, l.stuck
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
			r.config.Ends = recorded
			r.mustStart(t)
			for range 2 { // what is settled by the first is forgotten by the second
				publish()
				if err := r.stream.await(t.Context(), uint64(len(want))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			r.mustStop(t)
			if diff := cmp.Diff(want, out.sequences()); diff != "" {
				t.Errorf("what is written, from %v: %s", out.written, diff)
			}
			if diff := cmp.Diff(want[len(want)-1:], recorded); diff != "" {
				t.Errorf("what is settled is not forgotten: %s", diff)
			}
		})
	})
}

// TestABatchThatComesAgainIsWaitedFor, longer than others wait for more.
func TestABatchThatComesAgainIsWaitedFor(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, r *rig) {
		out := &namer{written: make(map[string][]uint64)}
		r.stream.run = func() int { return 10 }
		r.config.Source, r.config.Sink, r.config.KeepsRows = &stalled{stream: r.stream, delay: time.Second}, out, false
		r.config.Ends = []uint64{45}
		for n := range 90 {
			r.stream.publish(put("a", fmt.Sprint(n), "v"))
		}
		r.mustStart(t)
		if err := r.stream.await(t.Context(), 90); err != nil {
			t.Fatal(err)
		}
		r.mustStop(t)
		if len(out.written["1-45"]) != 45 || len(out.sequences()) != 90 {
			t.Errorf("there are %v", slices.Sorted(maps.Keys(out.written)))
		}
	})
}
