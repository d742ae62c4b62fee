package lake

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// sequencesOf returns n events, and their sequences.
func sequencesOf(n int) (events []*cdc.Event, sequences []uint64) {
	for i := range n {
		events = append(events, &cdc.Event{Position: cdc.Position{Sequence: uint64(i + 1)}})
		sequences = append(sequences, uint64(i+1))
	}
	return events, sequences
}

func fill(into *[]uint64, events []*cdc.Event) {
	*into = (*into)[:0]
	for _, e := range events {
		*into = append(*into, e.Position.Sequence)
	}
}

func TestAhead_UsesBlocksInOrder(t *testing.T) {
	for _, n := range []int{0, 1, atOnce, atOnce + 1, 10*atOnce + 7} {
		events, want := sequencesOf(n)
		var got []uint64
		err := ahead(events, func() *[]uint64 { return new([]uint64) }, fill, func(some *[]uint64) error {
			got = append(got, *some...)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("of %d events: %v, %v", n, got, err)
		}
	}
}

func TestAhead_StopsAfterAnError(t *testing.T) {
	events, _ := sequencesOf(100 * atOnce)
	full := errors.New("the disk is full")
	uses := 0
	err := ahead(events, func() *[]uint64 { return new([]uint64) }, fill, func(*[]uint64) error {
		if uses++; uses == 3 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) || uses != 3 {
		t.Errorf("it was used %d times: %v", uses, err)
	}
}

// TestAhead_PanicsInTheCaller checks that a panic in the goroutine reaches the caller, who knows
// the events.
func TestAhead_PanicsInTheCaller(t *testing.T) {
	events, _ := sequencesOf(10 * atOnce)
	defer func() {
		if got := fmt.Sprint(recover()); got != "event 200" {
			t.Errorf("the caller sees %s", got)
		}
	}()
	err := ahead(events, func() *[]uint64 { return new([]uint64) }, func(_ *[]uint64, some []*cdc.Event) {
		for _, e := range some {
			if e.Position.Sequence == 200 {
				panic("event 200")
			}
		}
	}, func(*[]uint64) error { return nil })
	t.Errorf("it returned: %v", err)
}
