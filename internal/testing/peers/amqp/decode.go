package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unicode/utf8"
)

// Go types of AMQP values. The other types are nil, bool, the sized integers, float32, float64,
// []byte, string, and time.Time (in UTC, with milliseconds). An array is decoded as a List.
// Decimals are not supported.
type (
	// Symbol is an ASCII name.
	Symbol string
	// Char is a Unicode code point.
	Char rune
	// UUID is an RFC 4122 identifier.
	UUID [16]byte
	// List is a sequence of values of any types.
	List []any
	// Map holds values by key. Keys are primitive values other than []byte.
	Map map[any]any
	// Described is a value with a descriptor, which defines the meaning of the value.
	Described struct{ Descriptor, Value any }
)

const (
	maxDepth = 32      // maximum nesting depth of values
	maxEmpty = 1 << 16 // maximum number of array elements that are encoded in 0 bytes
)

// Decode decodes the first value in b and returns the remaining bytes. The byte slices in v share
// memory with b.
func Decode(b []byte) (v any, rest []byte, err error) {
	d := decoder{rest: b}
	v, err = d.value()
	return v, d.rest, err
}

// decoder decodes values from the front of a slice.
type decoder struct {
	rest  []byte
	depth int
}

func decodeError(format string, args ...any) *Error {
	return &Error{Condition: DecodeError, Description: fmt.Sprintf(format, args...)}
}

func (d *decoder) take(n int) ([]byte, error) {
	if n < 0 || n > len(d.rest) {
		return nil, decodeError("a value of %d bytes has only %d", n, len(d.rest))
	}
	taken := d.rest[:n:n]
	d.rest = d.rest[n:]
	return taken, nil
}

func (d *decoder) value() (any, error) {
	if d.depth++; d.depth > maxDepth {
		return nil, decodeError("values are nested more than %d deep", maxDepth)
	}
	defer func() { d.depth-- }()
	code, err := d.code()
	if err != nil {
		return nil, err
	}
	if code != codeDescribed {
		return d.primitive(code)
	}
	var described Described
	if described.Descriptor, err = d.value(); err != nil {
		return nil, err
	}
	described.Value, err = d.value()
	return described, err
}

func (d *decoder) code() (byte, error) {
	b, err := d.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// primitive decodes the value that follows its format code. The upper half of the code determines
// the width of the value or of its size.
func (d *decoder) primitive(code byte) (any, error) {
	switch code >> 4 {
	case 0x4:
		return constant(code)
	case 0x5, 0x6, 0x7, 0x8, 0x9:
		b, err := d.take([...]int{1, 2, 4, 8, 16}[code>>4-5])
		if err != nil {
			return nil, err
		}
		return fixed(code, b)
	case 0xa, 0xb:
		b, err := d.sized(code&0x10 != 0)
		if err != nil {
			return nil, err
		}
		return variable(code, b)
	case 0xc, 0xd:
		return d.compound(code)
	case 0xe, 0xf:
		return d.array(code)
	}
	return nil, unknownCode(code)
}

func unknownCode(code byte) error { return decodeError("unknown format code 0x%02x", code) }

func constant(code byte) (any, error) {
	switch code {
	case codeNull:
		return nil, nil
	case codeTrue:
		return true, nil
	case codeFalse:
		return false, nil
	case codeUint0:
		return uint32(0), nil
	case codeUlong0:
		return uint64(0), nil
	case codeList0:
		return List{}, nil
	}
	return nil, unknownCode(code)
}

func fixed(code byte, b []byte) (any, error) {
	switch code {
	case codeBool:
		if b[0] > 1 {
			return nil, decodeError("a boolean is %d", b[0])
		}
		return b[0] == 1, nil
	case codeUbyte:
		return b[0], nil
	case codeSmallUint:
		return uint32(b[0]), nil
	case codeSmallUlong:
		return uint64(b[0]), nil
	case codeByte:
		return int8(b[0]), nil
	case codeSmallInt:
		return int32(int8(b[0])), nil
	case codeSmallLong:
		return int64(int8(b[0])), nil
	case codeUshort:
		return binary.BigEndian.Uint16(b), nil
	case codeShort:
		return int16(binary.BigEndian.Uint16(b)), nil
	case codeUint:
		return binary.BigEndian.Uint32(b), nil
	case codeInt:
		return int32(binary.BigEndian.Uint32(b)), nil
	case codeFloat:
		return math.Float32frombits(binary.BigEndian.Uint32(b)), nil
	case codeChar:
		return Char(binary.BigEndian.Uint32(b)), nil
	case codeUlong:
		return binary.BigEndian.Uint64(b), nil
	case codeLong:
		return int64(binary.BigEndian.Uint64(b)), nil
	case codeDouble:
		return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
	case codeTimestamp:
		return time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC(), nil
	case codeUUID:
		return UUID(b), nil
	}
	return nil, unknownCode(code)
}

func variable(code byte, b []byte) (any, error) {
	switch code {
	case codeBinary8, codeBinary32:
		return b, nil
	case codeString8, codeString32:
		if !utf8.Valid(b) {
			return nil, decodeError("a string is not UTF-8")
		}
		return string(b), nil
	case codeSymbol8, codeSymbol32:
		for _, c := range b {
			if c >= utf8.RuneSelf {
				return nil, decodeError("a symbol is not ASCII")
			}
		}
		return Symbol(b), nil
	}
	return nil, unknownCode(code)
}

// sized reads a size, and then that number of bytes. The size has four bytes if wide is true, and
// otherwise one byte.
func (d *decoder) sized(wide bool) ([]byte, error) {
	n, err := d.number(wide)
	if err != nil {
		return nil, err
	}
	return d.take(n)
}

func (d *decoder) number(wide bool) (int, error) {
	width := 1
	if wide {
		width = 4
	}
	b, err := d.take(width)
	if err != nil {
		return 0, err
	}
	if !wide {
		return int(b[0]), nil
	}
	return int(min(binary.BigEndian.Uint32(b), math.MaxInt32)), nil
}

// elements returns a decoder for the elements of a compound value or an array, and their number. If
// wide is true, the size and the number have four bytes each, and otherwise one byte.
func (d *decoder) elements(wide bool) (*decoder, int, error) {
	b, err := d.sized(wide)
	if err != nil {
		return nil, 0, err
	}
	inner := &decoder{rest: b, depth: d.depth}
	n, err := inner.number(wide)
	return inner, n, err
}

func (d *decoder) compound(code byte) (any, error) {
	inner, n, err := d.elements(code&0x10 != 0)
	if err != nil {
		return nil, err
	}
	if n > len(inner.rest) {
		return nil, decodeError("%d values in %d bytes", n, len(inner.rest))
	}
	list := make(List, n)
	for i := range list {
		if list[i], err = inner.value(); err != nil {
			return nil, err
		}
	}
	if len(inner.rest) > 0 {
		return nil, decodeError("%d bytes behind the last value of a list or map", len(inner.rest))
	}
	switch code {
	case codeList8, codeList32:
		return list, nil
	case codeMap8, codeMap32:
		return mapOf(list)
	}
	return nil, unknownCode(code)
}

// mapOf returns the map for a list in which keys and values alternate.
func mapOf(list List) (Map, error) {
	if len(list)%2 != 0 {
		return nil, decodeError("a map has a key without a value")
	}
	m := make(Map, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		switch list[i].(type) {
		case nil, []byte, List, Map, Described:
			return nil, decodeError("a map has a key of type %T", list[i])
		}
		if _, twice := m[list[i]]; twice {
			return nil, decodeError("a map has the key %v twice", list[i])
		}
		m[list[i]] = list[i+1]
	}
	return m, nil
}

func (d *decoder) array(code byte) (any, error) {
	if code != codeArray8 && code != codeArray32 {
		return nil, unknownCode(code)
	}
	inner, n, err := d.elements(code == codeArray32)
	if err != nil {
		return nil, err
	}
	if inner.depth++; inner.depth > maxDepth {
		return nil, decodeError("values are nested more than %d deep", maxDepth)
	}
	element, err := inner.code()
	if err != nil {
		return nil, err
	}
	if element == codeDescribed {
		return nil, decodeError("an array of described values")
	}
	if element>>4 == 0x4 && n > maxEmpty || element>>4 != 0x4 && n > len(inner.rest) {
		return nil, decodeError("%d elements in %d bytes", n, len(inner.rest))
	}
	list := make(List, n)
	for i := range list {
		if list[i], err = inner.primitive(element); err != nil {
			return nil, err
		}
	}
	if len(inner.rest) > 0 {
		return nil, decodeError("%d bytes behind the last element of an array", len(inner.rest))
	}
	return list, nil
}
