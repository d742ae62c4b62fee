package sqlsink

import "time"

// WatchTimes is how often AwaitWriters looks.
const WatchTimes = int(watchFor / watchEvery)

// WatchAt has AwaitWriters look at each tick.
func (s *Sink) WatchAt(ticks <-chan time.Time) {
	s.watchTicks = func() (<-chan time.Time, func()) { return ticks, func() {} }
}
