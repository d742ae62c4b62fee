package lake

import (
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// atOnce is how many events are made ready before they are written.
const atOnce = 64

// ahead calls use with what fill makes of the events, atOnce at a time and in order,
// until it fails. What comes next is filled meanwhile, by another goroutine: that
// takes about as long as compressing it. What fresh returns is used again and again.
func ahead[T any](events []*cdc.Event, fresh func() T, fill func(into T, events []*cdc.Event), use func(T) error) error {
	if len(events) <= atOnce {
		only := fresh()
		fill(only, events)
		return use(only)
	}
	free, full, stop := make(chan T, 2), make(chan T), make(chan struct{})
	free <- fresh()
	free <- fresh()
	var panicked any // in the goroutine; it is the caller's to do something about
	go func() {
		defer close(full)
		defer func() { panicked = recover() }()
		for run := range slices.Chunk(events, atOnce) {
			into := <-free // at most one is in use
			fill(into, run)
			select {
			case full <- into:
			case <-stop:
				return
			}
		}
	}()
	var err error
	for filled := range full { // until the goroutine has ended
		if err != nil {
			continue
		}
		if err = use(filled); err != nil {
			close(stop)
		}
		free <- filled
	}
	if panicked != nil {
		panic(panicked)
	}
	return err
}
