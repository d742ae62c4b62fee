package shop

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// generator generates random values. They depend only on the seed and the step given to reseed.
type generator struct {
	*rand.Rand
	source            *rand.PCG
	now               time.Time
	company, location string // ids of the row's company and location; location is "" if there is none
	buf               []byte
}

func newGenerator() *generator {
	source := rand.NewPCG(0, 0)
	return &generator{Rand: rand.New(source), source: source}
}

// reseed restarts the generator for the given step, at the time now.
func (g *generator) reseed(seed, step uint64, now time.Time) {
	g.source.Seed(mix(seed), mix(step^mix(seed)))
	g.now = now.UTC()
}

func (g *generator) percent(n int) bool { return g.IntN(100) < n }

// skewed returns a random number from 0 to n-1. Half of the time, it is one of the first eight
// numbers.
func (g *generator) skewed(n int) int {
	if n > 8 && g.percent(50) {
		n = 8
	}
	return g.IntN(n)
}

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

// row appends a row in the layout l. The given values must be in the layout's order. All other
// values are generated.
func (g *generator) row(dst []byte, l *rowLayout, values []assignment) []byte {
	dst = append(dst, '{')
	for i := range l.columns {
		c := &l.columns[i]
		g.buf = g.buf[:0]
		hasValue := false
		for ; len(values) > 0 && values[0].column == i; values = values[1:] {
			g.buf, hasValue = append(g.buf[:0], values[0].value...), true
		}
		if !hasValue {
			g.buf = g.value(g.buf, c)
		}
		if l.omitNulls && isNull(g.buf) {
			continue
		}
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(append(dst, l.names[i]...), g.buf...)
	}
	return append(dst, '}')
}

// value appends a generated value for a column. If the column has no maker, the value is the
// column's start value.
func (g *generator) value(dst []byte, c *generatedColumn) []byte {
	if c.nulls > 0 && g.percent(c.nulls) {
		return append(dst, "null"...)
	}
	switch {
	case c.make != nil:
		return c.make(g, dst)
	case c.start != "":
		return append(dst, c.start...)
	case c.required():
		panic("shop: no value for " + c.name)
	}
	return append(dst, "null"...)
}

func quoted(dst []byte, s string) []byte { return rawjson.AppendQuoted(dst, s) }

// hex24 returns the id of the n-th row inserted into a table. The id has 24 hexadecimal digits,
// and ids sort in the order of n.
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

// chance returns a maker of booleans. The given percentage of the booleans is true.
func chance(percent int) maker {
	return func(g *generator, dst []byte) []byte { return strconv.AppendBool(dst, g.percent(percent)) }
}

// oneOf returns a maker that picks one of the given strings.
func oneOf(values ...string) maker {
	return func(g *generator, dst []byte) []byte { return quoted(dst, pick(g, values)) }
}

// between returns a maker of integers from low to high, both included.
func between(low, high int64) maker {
	return func(g *generator, dst []byte) []byte { return strconv.AppendInt(dst, low+g.Int64N(high-low+1), 10) }
}

// decimal returns a maker of numbers with a fixed number of decimal places.
func decimal(low, high float64, decimals int) maker {
	return func(g *generator, dst []byte) []byte {
		return strconv.AppendFloat(dst, low+g.Float64()*(high-low), 'f', decimals, 64)
	}
}

// precise returns a maker of numbers. Some of the numbers have all seventeen digits of a float,
// and some are very large or very small.
func precise(low, high float64) maker {
	return func(g *generator, dst []byte) []byte {
		f := low + g.Float64()*(high-low)
		switch g.IntN(8) {
		case 0:
			return strconv.AppendFloat(dst, f, 'g', 17, 64)
		case 1:
			return strconv.AppendFloat(dst, f*math.Pow10(g.IntN(40)-20), 'e', -1, 64)
		case 2:
			return strconv.AppendFloat(dst, -f, 'f', 2, 64)
		default:
			return strconv.AppendFloat(dst, f, 'f', 2, 64)
		}
	}
}

// anyInteger generates an integer of any size up to 64 bits.
func anyInteger(g *generator, dst []byte) []byte {
	switch g.IntN(6) {
	case 0:
		return strconv.AppendInt(dst, pick(g, []int64{
			math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, 1<<53 + 1, -(1<<53 + 1), 1<<31 - 1, -1 << 31, 1 << 31, 0, -1,
		}), 10)
	case 1:
		return strconv.AppendInt(dst, int64(g.Uint64()), 10)
	default:
		return strconv.AppendInt(dst, int64(g.Uint64())>>g.IntN(64), 10)
	}
}

// instant appends a date-time with a precision of microseconds, like that of the shop's database.
func instant(dst []byte, t time.Time) []byte {
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.999999Z07:00")
	return append(dst, '"')
}

// present generates the time of the current step.
func present(g *generator, dst []byte) []byte { return instant(dst, g.now) }

// around returns a maker of instants. The instants are from the given number of days before now to
// the given number of days after now.
func around(before, after int) maker {
	const day = 24 * time.Hour
	return func(g *generator, dst []byte) []byte {
		d := time.Duration(g.Int64N(int64(before+after)*int64(day))) - time.Duration(before)*day
		t := g.now.Add(d)
		switch g.IntN(4) {
		case 0:
			t = t.Truncate(time.Hour)
		case 1:
			t = t.Truncate(time.Millisecond)
		}
		return instant(dst, t)
	}
}

// years returns a maker of dates. Each date is an instant at midnight UTC. The parameters are the
// first and the last possible year.
func years(from, to int) maker {
	return func(g *generator, dst []byte) []byte {
		return instant(dst, time.Date(from+g.IntN(to-from+1), time.Month(1+g.IntN(12)), 1+g.IntN(28), 0, 0, 0, 0, time.UTC))
	}
}

// pattern returns a maker of strings. In s, each # is replaced by a random digit, and each @ by a
// random letter.
func pattern(s string) maker {
	return func(g *generator, dst []byte) []byte {
		dst = append(dst, '"')
		for i := range len(s) {
			switch s[i] {
			case '#':
				dst = append(dst, '0'+byte(g.IntN(10)))
			case '@':
				dst = append(dst, "ABCDEFGHJKLMNPRSTUVWXYZ"[g.IntN(23)])
			default:
				dst = append(dst, s[i])
			}
		}
		return append(dst, '"')
	}
}

func companyID(g *generator, dst []byte) []byte { return quoted(dst, g.company) }

func locationID(g *generator, dst []byte) []byte {
	if g.location == "" {
		return append(dst, "null"...)
	}
	return quoted(dst, g.location)
}
