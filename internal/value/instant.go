package value

import (
	"errors"
	"time"
)

// ErrNotInstant says that a text is no date and time.
var ErrNotInstant = errors.New("it is not a date and time of RFC 3339")

// DayMicros is how many microseconds a day has.
const DayMicros = 86400 * 1_000_000

// Instant is a point in time as it was written.
type Instant struct {
	Days   int64 // since 1970-01-01 in the proleptic Gregorian calendar
	Micros int64 // of the day; may lie outside of it, by offset or leap second
	Cut    bool  // digits beyond microseconds, not all zero, were cut off
}

// Time returns the instant in UTC.
func (t Instant) Time() time.Time {
	days := FloorDiv(t.Micros, DayMicros)
	micros := t.Micros - days*DayMicros
	return time.Unix((t.Days+days)*86400+micros/1_000_000, micros%1_000_000*1000).UTC()
}

// Midnight reports whether the instant is the beginning of a day in UTC.
func (t Instant) Midnight() bool { return t.Micros%DayMicros == 0 && !t.Cut }

// AppendText appends the instant in UTC with six digits of the second, as
// YYYY-MM-DD, the separator, and HH:MM:SS.ffffff, so that the order of the texts
// is that of the instants. Years outside of 0000 to 9999 are ErrRange.
func (t Instant) AppendText(dst []byte, separator byte) ([]byte, error) {
	u := t.Time()
	year, month, day := u.Date()
	if year < 0 || year > 9999 {
		return dst, ErrRange
	}
	hour, minute, second := u.Clock()
	two := func(n int) { dst = append(dst, byte('0'+n/10), byte('0'+n%10)) }
	two(year / 100)
	two(year % 100)
	for _, part := range [...]struct {
		before byte
		n      int
	}{{'-', int(month)}, {'-', day}, {separator, hour}, {':', minute}, {':', second}} {
		dst = append(dst, part.before)
		two(part.n)
	}
	dst = append(dst, '.')
	micros := u.Nanosecond() / 1000
	two(micros / 10000)
	two(micros / 100 % 100)
	two(micros % 100)
	return dst, nil
}

// FloorDiv returns a divided by b, rounded down.
func FloorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ParseInstant reads a date of ISO 8601, possibly with a time of day, possibly
// with an offset; without one it is UTC. Years have four digits, or a sign and
// up to six.
func ParseInstant(text []byte) (Instant, error) {
	p := scanner{text: text}
	year := p.year()
	p.expect('-')
	month := p.two(1, 12)
	p.expect('-')
	day := p.two(1, 31)
	if p.bad || int(day) > daysIn(year, month) {
		return Instant{}, ErrNotInstant
	}
	t := Instant{Days: daysFromCivil(year, month, day)}
	if p.done() {
		return t, nil
	}
	if c := p.next(); c != 'T' && c != 't' && c != ' ' {
		return Instant{}, ErrNotInstant
	}
	p.clock(&t)
	p.offset(&t)
	if p.bad || !p.done() {
		return Instant{}, ErrNotInstant
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
func (p *scanner) clock(t *Instant) {
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
	t.Micros = ((hour*60+minute)*60+second)*1_000_000 + micros
	if hour == 24 && t.Micros != DayMicros {
		p.bad = true
	}
}

func (p *scanner) fraction(t *Instant) int64 {
	var micros int64
	digits := 0
	for ; p.peek()-'0' <= 9; digits++ {
		c := p.next() - '0'
		switch {
		case digits < 6:
			micros = micros*10 + int64(c)
		case c != 0:
			t.Cut = true
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

// offset reads Z, +hh, +hhmm or +hh:mm, if it is there, possibly behind a space.
func (p *scanner) offset(t *Instant) {
	if p.peek() == ' ' {
		p.pos++
		p.bad = p.bad || p.done()
	}
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
	t.Micros -= sign * minutes * 60 * 1_000_000
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
	era := FloorDiv(year, 400)
	yearOfEra := year - era*400
	shifted := month - 3
	if month <= 2 {
		shifted = month + 9
	}
	dayOfYear := (153*shifted+2)/5 + day - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*146097 + dayOfEra - 719468
}
