package pipeline

import (
	"context"
	"slices"
)

// announce records where a batch ends before anything of it is written, with the
// ends of those before it that are not settled. If the program dies now their
// messages come again, and are cut there again.
func (a *applier) announce(ctx context.Context, end uint64) error {
	if a.p.c.RecordEnds == nil {
		return nil
	}
	i, known := slices.BinarySearch(a.ends, end)
	if known { // it has come again
		return nil
	}
	settled := a.p.settled.Load()
	a.ends = slices.DeleteFunc(slices.Insert(a.ends, i, end), func(end uint64) bool { return end <= settled })
	return a.p.persist(ctx, troubleSource, func() error { return a.p.c.RecordEnds(slices.Clone(a.ends)) })
}

// ended reports whether a batch of an earlier run ended before the item, so that
// this one has to.
func (f *former) ended(it *item) bool {
	n := 0
	for n < len(f.ends) && f.ends[n] < it.message.Position.Sequence {
		n++
	}
	f.ends = f.ends[n:]
	return n > 0 && f.batch.messages > 0
}

// endsWith reports whether a batch of an earlier run ended with the item.
func (f *former) endsWith(it *item) bool {
	if len(f.ends) == 0 || f.ends[0] != it.message.Position.Sequence {
		return false
	}
	f.ends = f.ends[1:]
	return true
}
