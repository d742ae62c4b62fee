package cdc

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Timestamp is a hybrid logical clock in the format of CockroachDB's changefeeds. It consists of
// nanoseconds since 1970 UTC, and a logical counter that orders events within one nanosecond. The
// zero Timestamp is older than any event.
type Timestamp struct {
	Wall    int64  // nanoseconds since 1970-01-01 UTC
	Logical uint32 // order within one nanosecond
}

// ParseTimestamp parses decimal nanoseconds, optionally followed by a dot and up to ten digits of
// the logical counter: "1712345678901234567.0000000002".
func ParseTimestamp(s string) (Timestamp, error) {
	whole, frac, dotted := strings.Cut(s, ".")
	wall, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || wall > math.MaxInt64 {
		return Timestamp{}, fmt.Errorf("clock %.40q is not decimal nanoseconds", s)
	}
	t := Timestamp{Wall: int64(wall)}
	if dotted {
		if frac == "" || len(frac) > 10 {
			return Timestamp{}, fmt.Errorf("clock %.40q has a logical part that is not one to ten digits", s)
		}
		// The digits are a decimal fraction, so if there are fewer than ten, zeros follow them.
		padded := (frac + "0000000000")[:10]
		logical, err := strconv.ParseUint(padded, 10, 32)
		if err != nil {
			return Timestamp{}, fmt.Errorf("clock %.40q has no logical part after its dot", s)
		}
		t.Logical = uint32(logical)
	}
	return t, nil
}

// At returns the Timestamp of the wall time t, with a logical counter of 0.
func At(t time.Time) Timestamp { return Timestamp{Wall: t.UnixNano()} }

// Compare returns -1 if t is older than u, 0 if they are equal, and +1 if t is newer.
func (t Timestamp) Compare(u Timestamp) int {
	if c := cmp.Compare(t.Wall, u.Wall); c != 0 {
		return c
	}
	return cmp.Compare(t.Logical, u.Logical)
}

// IsZero reports whether t is the zero Timestamp.
func (t Timestamp) IsZero() bool { return t == Timestamp{} }

// Time returns the wall time of t in UTC, without the logical counter.
func (t Timestamp) Time() time.Time { return time.Unix(0, t.Wall).UTC() }

// String returns t in the format that ParseTimestamp parses. The logical counter always has ten
// digits, so that equal clocks have equal texts.
func (t Timestamp) String() string {
	return string(t.Append(make([]byte, 0, 30)))
}

// Sortable returns the clock as nineteen digits, a dot and ten digits. Such texts sort in the
// order of their clocks. Databases store this form.
func (t Timestamp) Sortable() string {
	return string(t.AppendSortable(make([]byte, 0, 30)))
}

// AppendSortable appends the text that Sortable returns to dst.
func (t Timestamp) AppendSortable(dst []byte) []byte {
	dst = appendPadded(dst, t.Wall, 19)
	return appendPadded(append(dst, '.'), int64(t.Logical), 10)
}

// appendPadded appends n in decimal, padded with leading zeros to width digits. The maximum width
// is 19.
func appendPadded(dst []byte, n int64, width int) []byte {
	const zeros = "0000000000000000000"
	digits := strconv.AppendInt(make([]byte, 0, 20), n, 10)
	dst = append(dst, zeros[:max(0, width-len(digits))]...)
	return append(dst, digits...)
}

// Append appends the text that String returns to dst.
func (t Timestamp) Append(dst []byte) []byte {
	dst = strconv.AppendInt(dst, t.Wall, 10)
	return appendPadded(append(dst, '.'), int64(t.Logical), 10)
}
