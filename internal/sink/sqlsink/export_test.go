package sqlsink

import "time"

// WatchTimes is the number of times that AwaitWriters reads the checkpoints after the first time.
const WatchTimes = int(watchFor / watchEvery)

// WatchAt makes AwaitWriters read the checkpoints at each tick of the channel.
func (s *Sink) WatchAt(ticks <-chan time.Time) {
	s.watchTicks = func() (<-chan time.Time, func()) { return ticks, func() {} }
}
