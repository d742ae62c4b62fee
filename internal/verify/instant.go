package verify

import "time"

// appendInstant parses the given text as a date-time, and appends it in UTC, with six decimal
// places of a second. It reports whether the text is a date-time.
func appendInstant(dst, text []byte) ([]byte, bool) {
	t, ok := parseInstant(text)
	if !ok {
		return dst, false
	}
	return t.AppendFormat(dst, "2006-01-02T15:04:05.000000Z"), true
}

// parseInstant parses an RFC 3339 date-time, or one of the variants that databases write: a space
// in place of the T, an offset without a colon or without minutes, no offset, no time, or a year of
// more than four digits.
func parseInstant(text []byte) (time.Time, bool) {
	p := clockReader{rest: text, ok: true}
	year := p.number(4, 6)
	p.expect("-")
	month := p.number(2, 2)
	p.expect("-")
	day := p.number(2, 2)
	var hour, minute, second, nanosecond, offset int
	if p.ok && len(p.rest) > 0 {
		p.expect("Tt ")
		hour = p.number(2, 2)
		p.expect(":")
		minute = p.number(2, 2)
		if p.next(":") {
			second = p.number(2, 2)
			if p.next(".,") {
				nanosecond = p.fraction()
			}
		}
		offset = p.offset()
	}
	if !p.ok || len(p.rest) > 0 || hour > 23 || minute > 59 || second > 60 {
		return time.Time{}, false
	}
	date := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if date.Month() != time.Month(month) || date.Day() != day {
		return time.Time{}, false
	}
	// A leap second counts as the first second of the next minute.
	seconds := hour*3600 + minute*60 + second - offset
	return date.Add(time.Duration(seconds)*time.Second + time.Duration(nanosecond)), true
}

// clockReader consumes a date-time from the front of rest, part by part. The field ok becomes false
// if an expected part is missing.
type clockReader struct {
	rest []byte
	ok   bool
}

// next consumes one byte, if that byte occurs in the given set. It reports whether it consumed a
// byte.
func (p *clockReader) next(set string) bool {
	if len(p.rest) == 0 {
		return false
	}
	for i := range len(set) {
		if p.rest[0] == set[i] {
			p.rest = p.rest[1:]
			return true
		}
	}
	return false
}

func (p *clockReader) expect(set string) { p.ok = p.next(set) && p.ok }

// number consumes decimal digits, and returns their value. The parameters low and high are the
// minimum and the maximum number of digits.
func (p *clockReader) number(low, high int) int {
	n, count := 0, 0
	for count < high && len(p.rest) > 0 && p.rest[0]-'0' <= 9 {
		n = n*10 + int(p.rest[0]-'0')
		p.rest = p.rest[1:]
		count++
	}
	p.ok = p.ok && count >= low
	return n
}

// fraction consumes the digits of a fraction of a second, and returns the fraction in nanoseconds.
func (p *clockReader) fraction() int {
	n, scale, count := 0, 100_000_000, 0
	for len(p.rest) > 0 && p.rest[0]-'0' <= 9 {
		n += int(p.rest[0]-'0') * scale
		scale /= 10
		p.rest = p.rest[1:]
		count++
	}
	p.ok = p.ok && count > 0
	return n
}

// offset consumes an offset from UTC, and returns the offset in seconds east of UTC. The offset is
// Z, ±hh, ±hhmm, ±hh:mm, ±hh:mm:ss, or nothing for UTC.
func (p *clockReader) offset() int {
	for p.next(" ") {
		continue
	}
	if len(p.rest) == 0 || p.next("Zz") {
		return 0
	}
	sign := 1
	if p.next("-") {
		sign = -1
	} else {
		p.expect("+")
	}
	seconds := p.number(2, 2) * 3600
	if len(p.rest) > 0 {
		p.next(":")
		seconds += p.number(2, 2) * 60
	}
	if p.next(":") {
		seconds += p.number(2, 2)
	}
	return sign * seconds
}
