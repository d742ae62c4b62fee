package sqlsink

import "time"

// WatchTimes is the number of looks of AwaitWriters.
const WatchTimes = int(watchFor / watchEvery)

// WatchAt makes AwaitWriters look at each tick.
func (s *Sink) WatchAt(ticks <-chan time.Time) {
	s.watchTicks = func() (<-chan time.Time, func()) { return ticks, func() {} }
}
