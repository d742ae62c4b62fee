package sqlsink

import (
	"context"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// A running writer moves its checkpoint at least every sink.CheckEvery. In a destination that is
// billed by use, it may do so less often.
const (
	watchFor   = 2*sink.CheckEvery + 5*time.Second // time for which AwaitWriters watches writers
	watchEvery = time.Second                       // interval between two reads of the checkpoints
	deadAfter  = time.Hour                         // time without a sign of life after which a writer counts as stopped
)

// watchTicks returns a channel that receives a tick every watchEvery until stop is called.
func watchTicks() (ticks <-chan time.Time, stop func()) {
	t := time.NewTicker(watchEvery)
	return t.C, t.Stop
}

// AwaitWriters watches the checkpoints of other processes for watchFor. It returns a
// *sink.WriterError if one of them still changes.
func (s *Sink) AwaitWriters(ctx context.Context, own bool) error {
	return s.withConn(ctx, "find other servers that write to the destination", func(conn Conn) error {
		l, err := s.readLayout(ctx, conn, s.ownTables[checkpointTable])
		if l == nil || err != nil {
			return err
		}
		first, err := s.writers(ctx, conn, l, own)
		if err != nil || len(first) == 0 {
			return err
		}
		s.log.Info("checking whether another server still writes to the destination",
			"writer", first[0].writer.String(), "consumer", first[0].consumer, "for", watchFor)
		ticks, stop := s.watchTicks()
		defer stop()
		for range watchFor / watchEvery {
			select {
			case <-ticks:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			now, err := s.writers(ctx, conn, l, own)
			if err != nil {
				return err
			}
			first = slices.DeleteFunc(first, func(f checkpoint) bool { // f's process has stopped
				return !slices.ContainsFunc(now, func(w checkpoint) bool { return f.key() == w.key() })
			})
			if len(first) == 0 {
				return nil
			}
			for _, w := range now {
				if slices.ContainsFunc(first, func(f checkpoint) bool { return f.key() == w.key() && f.seen != w.seen }) {
					return fault.Mark(fault.Fatal, &sink.WriterError{Writer: w.writer, Consumer: w.consumer})
				}
			}
		}
		return nil
	})
}

// writers returns the checkpoints of other processes that may still write some of the changes that
// this sink applies.
func (s *Sink) writers(ctx context.Context, conn Conn, l *Layout, own bool) ([]checkpoint, error) {
	rows, err := readCheckpoints(ctx, conn, l)
	return slices.DeleteFunc(rows, func(c checkpoint) bool {
		mine := c.stream == s.env.Stream && c.consumer == s.env.Consumer
		ended := c.seen == 0 || time.Since(time.UnixMilli(c.seen)) > deadAfter
		return ended || c.epoch == s.env.Epoch || c.writer.Same(s.env.Writer) || mine && !own || !s.concerns(&c)
	}), err
}

// concerns reports whether the checkpoint covers some of the changes that this sink applies. If the
// checkpoint's filter is unknown, or this sink has no consumer, it returns true.
func (s *Sink) concerns(c *checkpoint) bool {
	if s.env.Consumer == "" || !c.known() {
		return true
	}
	for _, subject := range subjectsOf(s.env.Filter) {
		if selects(c.subjects, subject) || slices.ContainsFunc(c.subjects, func(theirs string) bool { return matches(subject, theirs) }) {
			return true
		}
	}
	return false
}
