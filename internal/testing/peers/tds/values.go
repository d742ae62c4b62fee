package tds

import (
	"fmt"
	"math"
	"math/big"
	"time"
)

// Type tokens, from section 2.2.5.4 of [MS-TDS].
const (
	wireNull           = 0x1F
	wireInt            = 0x26
	wireDate           = 0x28
	wireDateTime2      = 0x2A
	wireDateTimeOffset = 0x2B
	wireBit            = 0x68
	wireDecimal        = 0x6A
	wireFloat          = 0x6D
	wireDateTime       = 0x6F
	wireVarBinary      = 0xA5
	wireVarChar        = 0xA7
	wireNVarChar       = 0xE7
)

// wireType is the type of a value in a message.
type wireType struct {
	token     byte
	size      int // maximum size in bytes; inPieces for no maximum
	scale     int
	precision int
}

// inPieces is the size of a type whose values are sent in pieces (PARTLENTYPE).
const inPieces = 0xFFFF

// collation is the encoding of SQL_Latin1_General_CP1_CI_AS.
var collation = [5]byte{0x09, 0x04, 0xD0, 0x00, 0x34}

// readType reads a type in the form TYPE_INFO.
func (r *reader) readType() (wireType, error) {
	t := wireType{token: r.uint8()}
	switch t.token {
	case wireNull, wireDate:
	case wireInt, wireBit, wireFloat, wireDateTime:
		t.size = int(r.uint8())
	case wireDateTime2, wireDateTimeOffset:
		t.scale = int(r.uint8())
	case wireDecimal, 0x6C:
		t.token = wireDecimal
		t.size, t.precision, t.scale = int(r.uint8()), int(r.uint8()), int(r.uint8())
	case wireVarBinary, wireVarChar, wireNVarChar:
		t.size = int(r.uint16())
		if t.token != wireVarBinary {
			r.take(len(collation))
		}
	default:
		return t, fmt.Errorf("tds: type %#x is not known", t.token)
	}
	return t, nil
}

// readValue reads a value of type t. The result is nil, int64, bool, float64, string, []byte or
// time.Time. A decimal is a string of digits.
func (r *reader) readValue(t wireType) any {
	var b []byte
	switch {
	case t.token == wireNull:
		return nil
	case t.size == inPieces:
		if b = r.readPieces(); b == nil {
			return nil
		}
	case t.token == wireVarBinary || t.token == wireVarChar || t.token == wireNVarChar:
		n := r.uint16()
		if n == 0xFFFF {
			return nil
		}
		b = r.take(int(n))
	default:
		n := r.uint8()
		if n == 0 {
			return nil
		}
		b = r.take(int(n))
	}
	return t.decode(b)
}

// readPieces reads a value that is sent in pieces. It returns nil for NULL.
func (r *reader) readPieces() []byte {
	if r.uint64() == math.MaxUint64 {
		return nil
	}
	b := []byte{}
	for !r.bad {
		n := r.uint32()
		if n == 0 {
			break
		}
		b = append(b, r.take(int(n))...)
	}
	return b
}

func (t wireType) decode(b []byte) any {
	switch t.token {
	case wireInt:
		var wide [8]byte
		copy(wide[:], b)
		shift := 64 - 8*len(b)
		n := int64(le.Uint64(wide[:])) << shift >> shift
		if len(b) == 1 {
			n &= 0xFF
		}
		return n
	case wireBit:
		return b[0] != 0
	case wireFloat:
		if len(b) == 4 {
			return float64(math.Float32frombits(le.Uint32(b)))
		}
		return math.Float64frombits(le.Uint64(b))
	case wireDecimal:
		return decodeDecimal(b, t.scale)
	case wireDate:
		return dayOf(b)
	case wireDateTime2:
		return dayOf(b[len(b)-3:]).Add(timeOf(b[:len(b)-3], t.scale))
	case wireDateTimeOffset: // the date and time are in UTC
		return dayOf(b[len(b)-5:]).Add(timeOf(b[:len(b)-5], t.scale))
	case wireDateTime:
		day := time.Date(1900, 1, 1+int(int32(le.Uint32(b))), 0, 0, 0, 0, time.UTC)
		ticks := time.Duration(le.Uint32(b[4:]))
		return day.Add((ticks*10 + 1) / 3 * time.Millisecond)
	case wireVarBinary:
		return b
	case wireVarChar:
		return string(b)
	}
	return fromUCS2(b)
}

func decodeDecimal(b []byte, scale int) string {
	magnitude := make([]byte, len(b)-1)
	for i := range magnitude {
		magnitude[i] = b[len(b)-1-i]
	}
	n := new(big.Int).SetBytes(magnitude)
	if b[0] == 0 {
		n.Neg(n)
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)
	return new(big.Rat).SetFrac(n, unit).FloatString(scale)
}

func dayOf(b []byte) time.Time {
	return time.Date(1, 1, 1+int(b[0])|int(b[1])<<8|int(b[2])<<16, 0, 0, 0, 0, time.UTC)
}

func timeOf(b []byte, scale int) time.Duration {
	var n int64
	for i, c := range b {
		n |= int64(c) << (8 * i)
	}
	for range 9 - scale {
		n *= 10
	}
	return time.Duration(n)
}

// wire returns the type of the values in messages.
func (t Type) wire() wireType {
	switch t.Name {
	case "TINYINT":
		return wireType{token: wireInt, size: 1}
	case "SMALLINT":
		return wireType{token: wireInt, size: 2}
	case "INT":
		return wireType{token: wireInt, size: 4}
	case "BIGINT":
		return wireType{token: wireInt, size: 8}
	case "BIT":
		return wireType{token: wireBit, size: 1}
	case "FLOAT":
		return wireType{token: wireFloat, size: 8}
	case "REAL":
		return wireType{token: wireFloat, size: 4}
	case "DECIMAL":
		return wireType{token: wireDecimal, size: 17, precision: t.Precision, scale: t.Scale}
	case "DATE":
		return wireType{token: wireDate}
	case "DATETIME2", "SMALLDATETIME":
		return wireType{token: wireDateTime2, scale: t.Scale}
	case "DATETIME":
		return wireType{token: wireDateTime, size: 8}
	case "DATETIMEOFFSET":
		return wireType{token: wireDateTimeOffset, scale: t.Scale}
	}
	w := wireType{token: wireNVarChar, size: 2 * t.Length}
	switch t.Name {
	case "VARCHAR", "CHAR":
		w = wireType{token: wireVarChar, size: t.Length}
	case "VARBINARY", "BINARY":
		w = wireType{token: wireVarBinary, size: t.Length}
	}
	if t.Length < 0 || w.size > 8000 {
		w.size = inPieces
	}
	return w
}

// appendType appends the type in the form TYPE_INFO.
func (w wireType) appendType(b []byte) []byte {
	b = append(b, w.token)
	switch w.token {
	case wireInt, wireBit, wireFloat, wireDateTime:
		return append(b, byte(w.size))
	case wireDateTime2, wireDateTimeOffset:
		return append(b, byte(w.scale))
	case wireDecimal:
		return append(b, byte(w.size), byte(w.precision), byte(w.scale))
	case wireDate:
		return b
	}
	b = le.AppendUint16(b, uint16(w.size))
	if w.token != wireVarBinary {
		b = append(b, collation[:]...)
	}
	return b
}

// appendValue appends the encoding of a stored value.
func (w wireType) appendValue(b []byte, v any) ([]byte, error) {
	characters := w.token == wireNVarChar || w.token == wireVarChar || w.token == wireVarBinary
	if v == nil {
		switch {
		case w.size == inPieces:
			return le.AppendUint64(b, math.MaxUint64), nil
		case characters:
			return le.AppendUint16(b, 0xFFFF), nil
		}
		return append(b, 0), nil
	}
	raw, err := w.encode(v)
	switch {
	case err != nil:
		return b, err
	case w.size == inPieces:
		b = le.AppendUint64(b, uint64(len(raw)))
		if len(raw) > 0 {
			b = append(le.AppendUint32(b, uint32(len(raw))), raw...)
		}
		return le.AppendUint32(b, 0), nil
	case characters:
		return append(le.AppendUint16(b, uint16(len(raw))), raw...), nil
	}
	return append(append(b, byte(len(raw))), raw...), nil
}

func (w wireType) encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case int64:
		switch w.token {
		case wireInt:
			return le.AppendUint64(nil, uint64(v))[:w.size], nil
		case wireBit:
			return []byte{byte(v)}, nil
		case wireFloat:
			return w.encode(float64(v))
		}
	case float64:
		switch {
		case w.token == wireFloat && w.size == 4:
			return le.AppendUint32(nil, math.Float32bits(float32(v))), nil
		case w.token == wireFloat:
			return le.AppendUint64(nil, math.Float64bits(v)), nil
		}
	case []byte:
		return v, nil
	case string:
		return w.encodeText(v)
	}
	return nil, fmt.Errorf("tds: a %T is no value of type %#x", v, w.token)
}

func (w wireType) encodeText(text string) ([]byte, error) {
	switch w.token {
	case wireNVarChar:
		return ucs2(text), nil
	case wireVarChar, wireVarBinary:
		return []byte(text), nil
	case wireDecimal:
		return encodeDecimal(text, w.scale)
	}
	at, err := time.Parse(stored, text)
	if err != nil {
		return nil, fmt.Errorf("tds: type %#x: %w", w.token, err)
	}
	day := daysSinceYearOne(at)
	date := []byte{byte(day), byte(day >> 8), byte(day >> 16)}
	ofDay := at.Sub(at.Truncate(24 * time.Hour))
	switch w.token {
	case wireDate:
		return date, nil
	case wireDateTime2:
		return append(encodeTime(ofDay, w.scale), date...), nil
	case wireDateTimeOffset:
		return append(append(encodeTime(ofDay, w.scale), date...), 0, 0), nil
	case wireDateTime:
		b := le.AppendUint32(nil, uint32(int32(day-daysSinceYearOne(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)))))
		return le.AppendUint32(b, uint32((ofDay.Milliseconds()*3+5)/10)), nil
	}
	return nil, fmt.Errorf("tds: text is no value of type %#x", w.token)
}

// daysSinceYearOne returns the number of days since 0001-01-01.
func daysSinceYearOne(t time.Time) int {
	year := t.Year() - 1
	return year*365 + year/4 - year/100 + year/400 + t.YearDay() - 1
}

func encodeTime(ofDay time.Duration, scale int) []byte {
	n := int64(ofDay)
	for range 9 - scale {
		n /= 10
	}
	size := 5
	switch {
	case scale <= 2:
		size = 3
	case scale <= 4:
		size = 4
	}
	return le.AppendUint64(nil, uint64(n))[:size]
}

func encodeDecimal(text string, scale int) ([]byte, error) {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, fmt.Errorf("tds: the stored value is no decimal")
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)
	n := new(big.Int).Quo(new(big.Int).Mul(r.Num(), unit), r.Denom())
	b := make([]byte, 17)
	if n.Sign() >= 0 {
		b[0] = 1
	}
	magnitude := n.Bytes()
	for i, c := range magnitude {
		b[len(magnitude)-i] = c
	}
	return b, nil
}
