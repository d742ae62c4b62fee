package pipeline

import (
	"context"
	"slices"
)

// recordBoundary records the end of a batch before any change of the batch is written, together
// with the ends of earlier batches that are not acknowledged. If the program stops unexpectedly
// after that, the messages of these batches are delivered again, and are cut into batches at the
// same places.
func (a *applier) recordBoundary(ctx context.Context, end uint64) error {
	if a.p.c.RecordBatchBoundaries == nil {
		return nil
	}
	i, known := slices.BinarySearch(a.boundaries, end)
	if known { // the batch was delivered again
		return nil
	}
	acknowledged := a.p.acknowledged.Load()
	a.boundaries = slices.DeleteFunc(slices.Insert(a.boundaries, i, end), func(end uint64) bool { return end <= acknowledged })
	return a.p.retry(ctx, dependencySource, func() error { return a.p.c.RecordBatchBoundaries(slices.Clone(a.boundaries)) })
}

// boundaryBefore reports whether a batch of an earlier run ended between the last message of this
// batch and the item. If so, this batch must end before the item.
func (f *batcher) boundaryBefore(it *item) bool {
	n := 0
	for n < len(f.boundaries) && f.boundaries[n] < it.message.Position.Sequence {
		n++
	}
	f.boundaries = f.boundaries[n:]
	return n > 0 && f.batch.messages > 0
}

// boundaryAfter reports whether a batch of an earlier run ended with the item.
func (f *batcher) boundaryAfter(it *item) bool {
	if len(f.boundaries) == 0 || f.boundaries[0] != it.message.Position.Sequence {
		return false
	}
	f.boundaries = f.boundaries[1:]
	return true
}
