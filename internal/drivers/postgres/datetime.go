package postgres

import (
	"math"

	"github.com/shopmonkeyus/eds/internal/value"
)

// epochDays is the number of days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const epochDays = 10957

// Bounds of the type timestamp, in microseconds since 2000: from 4714-11-24 BC to the end of the
// year 294276.
const (
	minTimestamp = -211813488000000000
	endTimestamp = 9223371331200000000
)

// timestamp returns the instant in microseconds since 2000-01-01 UTC. If the instant is outside
// the bounds above, it returns value.ErrRange.
func timestamp(t value.Instant) (int64, error) {
	days := t.Days - epochDays
	if days < minTimestamp/value.DayMicros-1 || days > endTimestamp/value.DayMicros+1 {
		return 0, value.ErrRange
	}
	// Only the upper end of the sum can overflow.
	whole := days * value.DayMicros
	if whole > math.MaxInt64-max(0, t.Micros) {
		return 0, value.ErrRange
	}
	if n := whole + t.Micros; n >= minTimestamp && n < endTimestamp {
		return n, nil
	}
	return 0, value.ErrRange
}

// date returns the instant's day as the number of days since 2000-01-01. If type date cannot hold
// the day, it returns value.ErrRange.
func date(t value.Instant) (int32, error) {
	days := t.Days - epochDays + value.FloorDiv(t.Micros, value.DayMicros)
	if days < -2451545 || days > 2145031948 {
		return 0, value.ErrRange
	}
	return int32(days), nil
}
