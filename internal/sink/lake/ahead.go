package lake

import (
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

const (
	// atOnce is how many events are made ready before they are written.
	atOnce = 64
	// buffers is how many times so many may be ready: enough that a busy machine does
	// not change between making and writing each time.
	buffers = 8
)

// ahead calls use with what fill makes of the events, atOnce at a time and in order,
// until it fails. What comes next is filled meanwhile, by another goroutine: that
// takes about as long as compressing it. What fresh returns is used again and again.
func ahead[T any](events []*cdc.Event, fresh func() T, fill func(into T, events []*cdc.Event), use func(T) error) error {
	if len(events) <= atOnce {
		only := fresh()
		fill(only, events)
		return use(only)
	}
	free, full, stop := make(chan T, buffers), make(chan T, buffers), make(chan struct{})
	for range min(buffers, (len(events)+atOnce-1)/atOnce) {
		free <- fresh()
	}
	var panicked any // in the goroutine; it is the caller's to do something about
	go func() {
		defer close(full)
		defer func() { panicked = recover() }()
		for run := range slices.Chunk(events, atOnce) {
			select {
			case into := <-free:
				fill(into, run)
				full <- into // there is room for all of them
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
