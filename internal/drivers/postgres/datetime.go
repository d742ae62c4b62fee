package postgres

import (
	"errors"
	"math"
)

// epochDays is the number of days from 1970-01-01 to 2000-01-01, from which
// PostgreSQL counts.
const epochDays = 10957

// Bounds of timestamp, in microseconds since 2000: from 4714-11-24 BC up to, and
// not including, the year 294277.
const (
	minTimestamp = -211813488000000000
	endTimestamp = 9223371331200000000
	dayMicros    = 86400 * 1_000_000
)

var errNotInstant = errors.New("it is not a date and time of RFC 3339")

// instant is a point in time as it was written.
type instant struct {
	days    int64 // since 2000-01-01
	micros  int64 // of the day; may lie outside of it, by offset or leap second
	dropped bool  // digits beyond microseconds, not all zero, were cut off
}

// timestamp returns microseconds since 2000 UTC.
func (t instant) timestamp() (int64, error) {
	if t.days < minTimestamp/dayMicros-1 || t.days > endTimestamp/dayMicros+1 {
		return 0, errRange
	}
	// Both terms are so small that only the sum's upper end can overflow.
	whole := t.days * dayMicros
	if whole > math.MaxInt64-max(0, t.micros) {
		return 0, errRange
	}
	if n := whole + t.micros; n >= minTimestamp && n < endTimestamp {
		return n, nil
	}
	return 0, errRange
}

// date returns days since 2000 and whether that is the whole of the instant.
func (t instant) date() (int32, bool, error) {
	extra := floorDiv64(t.micros, dayMicros)
	days := t.days + extra
	if days < -2451545 || days > 2145031948 {
		return 0, false, errRange
	}
	return int32(days), t.micros == extra*dayMicros && !t.dropped, nil
}

func floorDiv64(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// parseInstant reads a date of ISO 8601, possibly with a time of day, possibly
// with an offset; without one it is UTC. Years have four digits, or a sign and
// up to six.
func parseInstant(text []byte) (instant, error) {
	p := scanner{text: text}
	year := p.year()
	p.expect('-')
	month := p.two(1, 12)
	p.expect('-')
	day := p.two(1, 31)
	if p.bad || int(day) > daysIn(year, month) {
		return instant{}, errNotInstant
	}
	t := instant{days: daysFromCivil(year, month, day) - epochDays}
	if p.done() {
		return t, nil
	}
	if c := p.next(); c != 'T' && c != 't' && c != ' ' {
		return instant{}, errNotInstant
	}
	p.clock(&t)
	p.offset(&t)
	if p.bad || !p.done() {
		return instant{}, errNotInstant
	}
	return t, nil
}

// scanner reads fixed-width fields; once something is wrong it stays bad.
type scanner struct {
	text []byte
	pos  int
	bad  bool
}

func (p *scanner) done() bool { return p.pos >= len(p.text) }

// peek returns the byte at hand, 0 at the end.
func (p *scanner) peek() byte {
	if p.done() {
		return 0
	}
	return p.text[p.pos]
}

func (p *scanner) next() byte {
	c := p.peek()
	p.pos++
	return c
}

func (p *scanner) expect(c byte) {
	if p.next() != c {
		p.bad = true
	}
}

// two reads two digits.
func (p *scanner) two(low, high int64) int64 {
	a, b := p.next()-'0', p.next()-'0'
	n := int64(a)*10 + int64(b)
	if a > 9 || b > 9 || n < low || n > high {
		p.bad = true
		return low
	}
	return n
}

func (p *scanner) year() int64 {
	sign, least, most := int64(1), 4, 4
	if c := p.peek(); c == '+' || c == '-' {
		p.pos++
		most = 6
		if c == '-' {
			sign = -1
		}
	}
	var n int64
	digits := 0
	for ; p.peek()-'0' <= 9 && digits <= most; digits++ {
		n = n*10 + int64(p.next()-'0')
	}
	if digits < least || digits > most {
		p.bad = true
	}
	return sign * n
}

// clock reads a time of day: seconds and their fraction may be left out.
func (p *scanner) clock(t *instant) {
	hour := p.two(0, 24)
	p.expect(':')
	minute := p.two(0, 59)
	var second, micros int64
	if p.peek() == ':' {
		p.pos++
		second = p.two(0, 60)
		if c := p.peek(); c == '.' || c == ',' {
			p.pos++
			micros = p.fraction(t)
		}
	}
	t.micros = ((hour*60+minute)*60+second)*1_000_000 + micros
	if hour == 24 && t.micros != dayMicros {
		p.bad = true
	}
}

func (p *scanner) fraction(t *instant) int64 {
	var micros int64
	digits := 0
	for ; p.peek()-'0' <= 9; digits++ {
		c := p.next() - '0'
		switch {
		case digits < 6:
			micros = micros*10 + int64(c)
		case c != 0:
			t.dropped = true
		}
	}
	if digits == 0 {
		p.bad = true
	}
	for ; digits < 6; digits++ {
		micros *= 10
	}
	return micros
}

// offset reads Z, +hh, +hhmm or +hh:mm, if it is there.
func (p *scanner) offset(t *instant) {
	if p.done() {
		return
	}
	sign := int64(0)
	switch p.next() {
	case 'Z', 'z':
		return
	case '+':
		sign = 1
	case '-':
		sign = -1
	default:
		p.bad = true
		return
	}
	minutes := p.two(0, 23) * 60
	if p.peek() == ':' {
		p.pos++
		minutes += p.two(0, 59)
	} else if !p.done() {
		minutes += p.two(0, 59)
	}
	t.micros -= sign * minutes * 60 * 1_000_000
}

func daysIn(year, month int64) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	default:
		return 31
	}
}

// daysFromCivil returns days since 1970-01-01 in the proleptic Gregorian
// calendar, after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
func daysFromCivil(year, month, day int64) int64 {
	if month <= 2 {
		year--
	}
	era := floorDiv64(year, 400)
	yearOfEra := year - era*400
	shifted := month - 3
	if month <= 2 {
		shifted = month + 9
	}
	dayOfYear := (153*shifted+2)/5 + day - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*146097 + dayOfEra - 719468
}
