package lake

import (
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

const (
	// atOnce is the maximum number of events in a block.
	atOnce = 64
	// buffers is the maximum number of blocks that are filled in advance. With this many blocks,
	// a busy machine need not switch between filling and writing after each block.
	buffers = 8
)

// ahead fills blocks with up to atOnce events each. It passes each filled block to the callback
// use, in the order of the events, until that callback fails. While the callback handles a block,
// another goroutine fills the next blocks, because filling a block takes about as long as
// compressing it. The callback fresh returns a new block. Blocks are reused.
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
	var panicked any // recovered in the goroutine; ahead panics with it again
	go func() {
		defer close(full)
		defer func() { panicked = recover() }()
		for run := range slices.Chunk(events, atOnce) {
			select {
			case into := <-free:
				fill(into, run)
				full <- into // never blocks: the channel has capacity for every block
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
