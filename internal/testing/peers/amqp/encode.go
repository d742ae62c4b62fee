package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// Format codes, from section 1.6 (primitive type definitions) of the specification's part on types.
const (
	codeDescribed = 0x00

	codeNull       = 0x40
	codeTrue       = 0x41
	codeFalse      = 0x42
	codeBool       = 0x56
	codeUbyte      = 0x50
	codeUshort     = 0x60
	codeUint       = 0x70
	codeSmallUint  = 0x52
	codeUint0      = 0x43
	codeUlong      = 0x80
	codeSmallUlong = 0x53
	codeUlong0     = 0x44
	codeByte       = 0x51
	codeShort      = 0x61
	codeInt        = 0x71
	codeSmallInt   = 0x54
	codeLong       = 0x81
	codeSmallLong  = 0x55
	codeFloat      = 0x72
	codeDouble     = 0x82
	codeChar       = 0x73
	codeTimestamp  = 0x83
	codeUUID       = 0x98

	codeBinary8  = 0xa0
	codeBinary32 = 0xb0
	codeString8  = 0xa1
	codeString32 = 0xb1
	codeSymbol8  = 0xa3
	codeSymbol32 = 0xb3

	codeList0   = 0x45
	codeList8   = 0xc0
	codeList32  = 0xd0
	codeMap8    = 0xc1
	codeMap32   = 0xd1
	codeArray8  = 0xe0
	codeArray32 = 0xf0
)

// Append appends the encoding of v. It panics if v has a type that AMQP cannot encode.
func Append(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, codeNull)
	case bool:
		if v {
			return append(b, codeTrue)
		}
		return append(b, codeFalse)
	case []byte:
		return appendVariable(b, codeBinary8, codeBinary32, v)
	case string:
		return appendVariable(b, codeString8, codeString32, v)
	case Symbol:
		return appendVariable(b, codeSymbol8, codeSymbol32, v)
	case List:
		return appendList(b, v)
	case Map:
		list := make(List, 0, 2*len(v))
		for key, value := range v {
			list = append(list, key, value)
		}
		return appendCompound(b, codeMap32, list)
	case Described:
		return Append(Append(append(b, codeDescribed), v.Descriptor), v.Value)
	}
	return appendFixed(b, v)
}

func appendFixed(b []byte, v any) []byte {
	switch v := v.(type) {
	case uint8:
		return append(b, codeUbyte, v)
	case uint16:
		return binary.BigEndian.AppendUint16(append(b, codeUshort), v)
	case uint32:
		if v <= math.MaxUint8 {
			return append(b, codeSmallUint, byte(v))
		}
		return binary.BigEndian.AppendUint32(append(b, codeUint), v)
	case uint64:
		if v <= math.MaxUint8 {
			return append(b, codeSmallUlong, byte(v))
		}
		return binary.BigEndian.AppendUint64(append(b, codeUlong), v)
	case int8:
		return append(b, codeByte, byte(v))
	case int16:
		return binary.BigEndian.AppendUint16(append(b, codeShort), uint16(v))
	case int32:
		return binary.BigEndian.AppendUint32(append(b, codeInt), uint32(v))
	case int64:
		return binary.BigEndian.AppendUint64(append(b, codeLong), uint64(v))
	case float32:
		return binary.BigEndian.AppendUint32(append(b, codeFloat), math.Float32bits(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, codeDouble), math.Float64bits(v))
	case Char:
		return binary.BigEndian.AppendUint32(append(b, codeChar), uint32(v))
	case time.Time:
		return binary.BigEndian.AppendUint64(append(b, codeTimestamp), uint64(v.UnixMilli()))
	case UUID:
		return append(append(b, codeUUID), v[:]...)
	}
	panic(fmt.Sprintf("amqp: no encoding for %T", v))
}

func appendVariable[T ~string | ~[]byte](b []byte, narrow, wide byte, v T) []byte {
	if len(v) <= math.MaxUint8 {
		b = append(b, narrow, byte(len(v)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, wide), uint32(len(v)))
	}
	return append(b, v...)
}

func appendList(b []byte, list List) []byte {
	if len(list) == 0 {
		return append(b, codeList0)
	}
	return appendCompound(b, codeList32, list)
}

// appendCompound appends the values, preceded by their size in bytes and their number. The size
// includes the bytes of the number.
func appendCompound(b []byte, code byte, list List) []byte {
	b = append(b, code, 0, 0, 0, 0)
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, v := range list {
		b = Append(b, v)
	}
	binary.BigEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	return b
}
