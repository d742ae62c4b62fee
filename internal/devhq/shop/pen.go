package shop

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// pen makes up values. What it writes follows from its seed alone.
type pen struct {
	*rand.Rand
	source            *rand.PCG
	now               time.Time
	company, location string // of the row being written; location "" for none
	buf               []byte
}

func newPen() *pen {
	source := rand.NewPCG(0, 0)
	return &pen{Rand: rand.New(source), source: source}
}

// dip begins the values of one step.
func (p *pen) dip(seed, step uint64, now time.Time) {
	p.source.Seed(mix(seed), mix(step^mix(seed)))
	p.now = now.UTC()
}

func (p *pen) percent(n int) bool { return p.IntN(100) < n }

// skewed returns a number below n, the low ones far more often: half of the
// time one of the first eight.
func (p *pen) skewed(n int) int {
	if n > 8 && p.percent(50) {
		n = 8
	}
	return p.IntN(n)
}

func pick[T any](p *pen, from []T) T { return from[p.IntN(len(from))] }

// row writes a row of l: the given values, in the layout's order, and made up
// ones for the rest.
func (p *pen) row(dst []byte, l *layout, values []assignment) []byte {
	dst = append(dst, '{')
	for i := range l.columns {
		c := &l.columns[i]
		p.buf = p.buf[:0]
		given := false
		for ; len(values) > 0 && values[0].column == i; values = values[1:] {
			p.buf, given = append(p.buf[:0], values[0].value...), true
		}
		if !given {
			p.buf = p.value(p.buf, c)
		}
		if l.omitNulls && isNull(p.buf) {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(append(dst, l.names[i]...), p.buf...)
	}
	return append(dst, '}')
}

// value makes up a value for a column, or begins it where nothing is made up.
func (p *pen) value(dst []byte, c *column) []byte {
	if c.nulls > 0 && p.percent(c.nulls) {
		return append(dst, "null"...)
	}
	switch {
	case c.make != nil:
		return c.make(p, dst)
	case c.start != "":
		return append(dst, c.start...)
	case c.required():
		panic("shop: no value is given for " + c.name)
	}
	return append(dst, "null"...)
}

func quoted(dst []byte, s string) []byte { return rawjson.AppendQuoted(dst, s) }

// hex24 returns the id of the n-th row that a table ever had: 24 hexadecimal
// digits whose order is the order of n.
func hex24(seed uint64, table string, n uint64) string {
	for i := range len(table) {
		seed = mix(seed ^ uint64(table[i]))
	}
	const digits = "0123456789abcdef"
	var id [24]byte
	for i, x := 7, 0x60000000+n; i >= 0; i-- {
		id[i] = digits[x&15]
		x >>= 4
	}
	for i, x := 23, mix(seed^n); i >= 8; i-- {
		id[i] = digits[x&15]
		x >>= 4
	}
	return string(id[:])
}

// The makers.

func chance(percent int) maker {
	return func(p *pen, dst []byte) []byte { return strconv.AppendBool(dst, p.percent(percent)) }
}

func oneOf(values ...string) maker {
	return func(p *pen, dst []byte) []byte { return quoted(dst, pick(p, values)) }
}

func between(low, high int64) maker {
	return func(p *pen, dst []byte) []byte { return strconv.AppendInt(dst, low+p.Int64N(high-low+1), 10) }
}

// decimal makes numbers of a fixed number of decimals.
func decimal(low, high float64, decimals int) maker {
	return func(p *pen, dst []byte) []byte {
		return strconv.AppendFloat(dst, low+p.Float64()*(high-low), 'f', decimals, 64)
	}
}

// precise makes numbers that need all of a float's seventeen digits now and
// then, and some very large and very small ones.
func precise(low, high float64) maker {
	return func(p *pen, dst []byte) []byte {
		f := low + p.Float64()*(high-low)
		switch p.IntN(8) {
		case 0:
			return strconv.AppendFloat(dst, f, 'g', 17, 64)
		case 1:
			return strconv.AppendFloat(dst, f*math.Pow10(p.IntN(40)-20), 'e', -1, 64)
		case 2:
			return strconv.AppendFloat(dst, -f, 'f', 2, 64)
		default:
			return strconv.AppendFloat(dst, f, 'f', 2, 64)
		}
	}
}

// anyInteger makes integers of all sizes up to 64 bits.
func anyInteger(p *pen, dst []byte) []byte {
	switch p.IntN(6) {
	case 0:
		return strconv.AppendInt(dst, pick(p, []int64{
			math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, 1<<53 + 1, -(1<<53 + 1), 1<<31 - 1, -1 << 31, 1 << 31, 0, -1,
		}), 10)
	case 1:
		return strconv.AppendInt(dst, int64(p.Uint64()), 10)
	default:
		return strconv.AppendInt(dst, int64(p.Uint64())>>p.IntN(64), 10)
	}
}

// instant appends a date-time, microseconds as the database keeps them.
func instant(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.999999Z07:00")
	return append(dst, '"')
}

// present is the time of the step.
func present(p *pen, dst []byte) []byte { return instant(dst, p.now) }

// around makes instants from that many days before now to that many after.
func around(before, after int) maker {
	const day = 24 * time.Hour
	return func(p *pen, dst []byte) []byte {
		d := time.Duration(p.Int64N(int64(before+after)*int64(day))) - time.Duration(before)*day
		t := p.now.Add(d)
		switch p.IntN(4) {
		case 0:
			t = t.Truncate(time.Hour)
		case 1:
			t = t.Truncate(time.Millisecond)
		}
		return instant(dst, t)
	}
}

// years makes midnights of any day from one year to another.
func years(from, to int) maker {
	return func(p *pen, dst []byte) []byte {
		return instant(dst, time.Date(from+p.IntN(to-from+1), time.Month(1+p.IntN(12)), 1+p.IntN(28), 0, 0, 0, 0, time.UTC))
	}
}

// digits makes text of digits in the places of a pattern's hashes.
func pattern(s string) maker {
	return func(p *pen, dst []byte) []byte {
		dst = append(dst, '"')
		for i := range len(s) {
			switch s[i] {
			case '#':
				dst = append(dst, '0'+byte(p.IntN(10)))
			case '@':
				dst = append(dst, "ABCDEFGHJKLMNPRSTUVWXYZ"[p.IntN(23)])
			default:
				dst = append(dst, s[i])
			}
		}
		return append(dst, '"')
	}
}

func companyID(p *pen, dst []byte) []byte { return quoted(dst, p.company) }

func locationID(p *pen, dst []byte) []byte {
	if p.location == "" {
		return append(dst, "null"...)
	}
	return quoted(dst, p.location)
}
