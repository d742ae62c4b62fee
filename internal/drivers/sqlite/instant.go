package sqlite

import (
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

var errNotInstant = errors.New("the value is not a date and time")

// appendInstant appends the instant that text tells, in UTC with six digits of
// the second, so that the order of the texts is the order of the instants. It
// reports whether further digits were cut off. Text is RFC 3339; the separator
// may be a space, and the offset, the seconds and the whole time may be missing:
// that is UTC, and midnight. Years are 0000 to 9999.
func appendInstant(dst, text []byte) (out []byte, cut bool, err error) {
	p := scanner{text: text}
	year := p.digits(4)
	p.expect('-')
	month := time.Month(p.digits(2))
	p.expect('-')
	day := p.digits(2)
	var c clock
	if !p.done() {
		p.separator()
		c = p.clock()
	}
	t := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	if p.bad || !p.done() || t.Month() != month { // a day that the month lacks is one of the next
		return dst, false, errNotInstant
	}
	if c.plain() {
		return c.append(append(dst, text[:10]...)), c.cut, nil
	}
	t = t.Add(time.Duration(c.hour)*time.Hour + time.Duration(c.minute)*time.Minute + time.Duration(c.second)*time.Second + time.Duration(c.micros)*time.Microsecond - c.offset)
	if y := t.Year(); y < 0 || y > 9999 {
		return dst, false, errors.New("the year is not one of 0000 to 9999")
	}
	return t.AppendFormat(dst, sqlsink.TimeFormat), c.cut, nil
}

// clock is a time of day as it was written.
type clock struct {
	hour, minute, second, micros int
	cut                          bool // digits beyond microseconds, not all zero, were cut off
	offset                       time.Duration
}

// plain reports whether the clock is of the day it was written with: without an
// offset, midnight at the day's end, or a leap second.
func (c clock) plain() bool { return c.offset == 0 && c.hour < 24 && c.second < 60 }

// append appends the time of a plain clock as sqlsink.TimeFormat has it.
func (c clock) append(dst []byte) []byte {
	two := func(n int) { dst = append(dst, byte('0'+n/10), byte('0'+n%10)) }
	dst = append(dst, 'T')
	two(c.hour)
	dst = append(dst, ':')
	two(c.minute)
	dst = append(dst, ':')
	two(c.second)
	dst = append(dst, '.')
	two(c.micros / 10000)
	two(c.micros / 100 % 100)
	two(c.micros % 100)
	return append(dst, 'Z')
}

// scanner reads fields of digits; once something is wrong it stays bad.
type scanner struct {
	text []byte
	pos  int
	bad  bool
}

func (p *scanner) done() bool { return p.pos >= len(p.text) }

func (p *scanner) peek() byte {
	if p.done() {
		return 0
	}
	return p.text[p.pos]
}

func (p *scanner) expect(c byte) {
	if p.peek() != c {
		p.bad = true
	}
	p.pos++
}

func (p *scanner) separator() {
	if c := p.peek(); c != 'T' && c != 't' && c != ' ' {
		p.bad = true
	}
	p.pos++
}

// digits reads a field of n digits.
func (p *scanner) digits(n int) int {
	v := 0
	for range n {
		c := p.peek() - '0'
		if c > 9 {
			p.bad = true
			return 0
		}
		v = v*10 + int(c)
		p.pos++
	}
	return v
}

func (p *scanner) clock() clock {
	c := clock{hour: p.digits(2)}
	p.expect(':')
	c.minute = p.digits(2)
	if p.peek() == ':' {
		p.pos++
		c.second = p.digits(2)
		if f := p.peek(); f == '.' || f == ',' {
			p.pos++
			c.micros, c.cut = p.fraction()
		}
	}
	midnight := c.hour == 24 && c.minute+c.second+c.micros == 0
	if c.hour > 23 && !midnight || c.minute > 59 || c.second > 60 {
		p.bad = true
	}
	c.offset = p.offset()
	return c
}

// fraction reads the digits of a second's fraction, of which there is one at least.
func (p *scanner) fraction() (micros int, cut bool) {
	unit := 100_000
	first := p.pos
	for ; p.peek()-'0' <= 9; p.pos++ {
		digit := int(p.peek() - '0')
		micros += digit * unit
		cut = cut || unit == 0 && digit > 0
		unit /= 10
	}
	p.bad = p.bad || p.pos == first
	return micros, cut
}

// offset reads Z, nothing, or +hh, +hhmm, +hh:mm.
func (p *scanner) offset() time.Duration {
	if p.peek() == ' ' {
		p.pos++
	}
	sign := time.Duration(1)
	switch p.peek() {
	case 0:
		return 0
	case 'Z', 'z':
		p.pos++
		return 0
	case '-':
		sign = -1
	case '+':
	default:
		p.bad = true
	}
	p.pos++
	hours, minutes := p.digits(2), 0
	if p.peek() == ':' {
		p.pos++
	}
	if !p.done() {
		minutes = p.digits(2)
	}
	if hours > 23 || minutes > 59 {
		p.bad = true
	}
	return sign * (time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute)
}
