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

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// TestDeadLetters_ReplayCompletesTheDestination refuses random changes and crashes. The rows and
// the waiting dead letters together must be equal to the source.
func TestDeadLetters_ReplayCompletesTheDestination(t *testing.T) {
	runs := 300
	if n, err := strconv.Atoi(os.Getenv("RUNS")); err == nil {
		runs = n
	}
	for seed := range uint64(runs) {
		check := func(t *testing.T) { synctest.Test(t, func(t *testing.T) { replayRandomly(t, seed) }) }
		if !t.Run(fmt.Sprint(seed), check) {
			return
		}
	}
}

// moveHistory is a random history of a few rows, and the events that are refused.
type moveHistory struct {
	payloads []string
	source   map[string]string // rows after it
	refused  map[uint64]bool   // events that the sink refuses
}

func newMoveHistory(r *rand.Rand) *moveHistory {
	h := &moveHistory{source: make(map[string]string), refused: make(map[uint64]bool)}
	keys := []string{"A", "B", "C"}
	for n := range 3 + r.IntN(10) {
		key, to, v := keys[r.IntN(len(keys))], keys[r.IntN(len(keys))], fmt.Sprint("v", n)
		if r.IntN(3) == 0 {
			v = "poison" + v
		}
		payload := ""
		switch _, exists := h.source["a/"+key]; {
		case exists && key != to && r.IntN(3) > 0:
			payload = move("a", key, to, v)
			delete(h.source, "a/"+key)
			h.source["a/"+to] = "id=" + to + " v=" + v
		case exists && r.IntN(3) == 0:
			payload = remove("a", key)
			delete(h.source, "a/"+key)
		default:
			payload = put("a", key, v)
			h.source["a/"+key] = "id=" + key + " v=" + v
		}
		if r.IntN(6) == 0 {
			payload = strings.Replace(payload, `"v1"`, `"v9"`, 1)
		}
		h.refused[uint64(n+1)] = r.IntN(8) == 0
		h.payloads = append(h.payloads, payload)
	}
	return h
}

var errCrash = fault.Mark(fault.Fatal, errors.New("a crash"))

func replayRandomly(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	h := newMoveHistory(random)
	dir, s, tab := t.TempDir(), newMemorySource(h.payloads...), newMemorySink()
	tab.before = func(_ int, b *change.Batch) error {
		if random.IntN(10) == 0 {
			return errCrash
		}
		for _, e := range b.Events {
			if h.refused[e.Position.Sequence] {
				return fault.Mark(fault.Poison, errors.New("refused"))
			}
		}
		return nil
	}
	tab.after = func(int, *change.Batch) error {
		if random.IntN(10) == 0 {
			return errCrash
		}
		return nil
	}
	var r *rig
	for s.acknowledged.Sequence < uint64(len(h.payloads)) {
		var err error
		if r, err = newRig(dir, s, tab); err != nil {
			t.Fatal(err)
		}
		r.config.MaxRows = 1 + random.IntN(5)
		r.layouts.fail = func(_, version string) error {
			if version == "v9" {
				return unknownVersion{}
			}
			return nil
		}
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(r.ended)
		_ = s.await(ctx, uint64(len(h.payloads)))
		cancel()
		_ = r.stop()
	}
	before := tab.snapshot()
	rows := make(map[string]string)
	for k, v := range before {
		rows[k] = v
	}
	state := r.mustDeadLetters(t)
	replay := func(_ context.Context, e dlq.Entry) error { return applyDeadLetter(rows, e) }
	done, err := r.dead.Replay(t.Context(), dlq.Filter{}, false, replay)
	if err != nil || done.Unknown > 0 {
		t.Logf("%+v, %v", done, err)
	}
	if diff := cmp.Diff(h.source, rows); diff != "" {
		t.Errorf("%s\n%s\nrefused %v\ndead letters\n%s\nbefore the replay %v",
			diff, strings.Join(h.payloads, "\n"), h.refused, strings.Join(state, "\n"), before)
	}
}

// applyDeadLetter applies a dead letter to rows, as a replay applies it to a destination.
func applyDeadLetter(rows map[string]string, e dlq.Entry) error {
	var event cdc.Event
	if err := cdc.NewDecoder().Decode(&event, e.Payload, e.Encoding); err != nil {
		return err
	}
	table, err := newLayouts().Version(context.Background(), event.Table, "v1")
	if err != nil {
		return err
	}
	effect, err := change.NewSplitter(table).Effect(&event)
	if err != nil {
		return err
	}
	effect = effect.Without(e.Changed)
	if effect.Upsert == nil && effect.Delete == nil {
		return dlq.ErrSuperseded
	}
	if effect.Delete != nil {
		delete(rows, rowKey(table, effect.Delete))
	}
	if effect.Upsert != nil {
		rows[rowKey(table, effect.Upsert)] = rowText(table, effect.Upsert)
	}
	return nil
}
