package value

import (
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// ErrNotInstant means that a value is not a date and time.
var ErrNotInstant = errors.New("it is not a date and time of RFC 3339")

// DayMicros is the number of microseconds in a day.
const DayMicros = 86400 * 1_000_000

// Instant is a point in time with microsecond precision.
type Instant struct {
	Days   int64 // days since 1970-01-01 in the proleptic Gregorian calendar
	Micros int64 // microseconds since midnight; an offset or a leap second may move it outside the day
	Cut    bool  // non-zero digits after the microseconds, or after those kept by Truncate, were cut off
}

// ParseInstantJSON parses a JSON string whose text ParseInstant can parse.
func ParseInstantJSON(raw []byte) (Instant, error) {
	if !rawjson.IsString(raw) {
		return Instant{}, ErrNotInstant
	}
	return ParseInstant(rawjson.Text(raw))
}

// Time returns the instant in UTC.
func (t Instant) Time() time.Time {
	days := FloorDiv(t.Micros, DayMicros)
	micros := t.Micros - days*DayMicros
	return time.Unix((t.Days+days)*86400+micros/1_000_000, micros%1_000_000*1000).UTC()
}

// Midnight reports whether the instant is the start of a day in UTC.
func (t Instant) Midnight() bool { return t.Micros%DayMicros == 0 && !t.Cut }

// Truncate returns t, cut to the given number of digits after the decimal point of the second, from
// 0 to 6. It cuts towards the past. If that changes the instant, Truncate sets Cut.
func (t Instant) Truncate(digits int) Instant {
	if digits >= 6 {
		return t
	}
	unit := int64(1)
	for range 6 - digits {
		unit *= 10
	}
	if kept := FloorDiv(t.Micros, unit) * unit; kept != t.Micros {
		t.Micros, t.Cut = kept, true
	}
	return t
}

// AppendText appends the instant in UTC: YYYY-MM-DD, the separator, and HH:MM:SS.ffffff. The texts
// sort in the order of the instants. If the year is outside 0000 to 9999, the error is ErrRange.
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

// FloorDiv returns a divided by b, rounded towards negative infinity. The divisor b must be
// positive.
func FloorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ParseInstant parses an ISO 8601 date, optionally followed by a time of day and an offset.
// Without these, the instant is midnight UTC. A year has four digits, or a sign and four to six
// digits.
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

// scanner reads the fields of an ISO 8601 text. The first error sets bad, which is never reset.
type scanner struct {
	text []byte
	pos  int
	bad  bool
}

func (p *scanner) done() bool { return p.pos >= len(p.text) }

// peek returns the next byte without consuming it, or 0 at the end of the text.
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

// two reads a number of two digits. The number must be from low to high.
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

// clock reads a time of day into t. The seconds and their fraction are optional.
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

// offset reads an optional Z, +hh, +hhmm or +hh:mm, and subtracts it from t. A space may precede
// it.
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

// daysFromCivil returns the number of days since 1970-01-01 in the proleptic Gregorian calendar.
// The algorithm is from Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
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
