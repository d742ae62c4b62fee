package cdc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// msgpackToJSON writes one msgpack value as JSON text. Integers keep all their
// digits; floats are written in their shortest exact form; binary becomes
// base64, and the timestamp extension RFC 3339, as a JSON encoder would have
// sent them.
func msgpackToJSON(payload []byte) ([]byte, error) {
	r := bytes.NewReader(payload)
	t := transcoder{in: msgpack.NewDecoder(r), text: payload, rest: r, out: make([]byte, 0, len(payload)+len(payload)/2)}
	if err := t.value(0); err != nil {
		return nil, fmt.Errorf("not valid msgpack: %w", err)
	}
	if r.Len() != 0 {
		return nil, errors.New("not valid msgpack: bytes follow the value")
	}
	return t.out, nil
}

type transcoder struct {
	in   *msgpack.Decoder
	text []byte
	rest *bytes.Reader // what in has not read of text
	out  []byte
}

// whole returns an error where the string, binary or extension that comes next
// is said to reach past the end: the library makes room for what is said.
func (t *transcoder) whole(code byte) error {
	head, n := 1, 0 // bytes of the code and the length; of what follows
	switch {
	case msgpcode.IsFixedString(code):
		n = int(code & msgpcode.FixedStrMask)
	case code == msgpcode.Str8 || code == msgpcode.Bin8 || code == msgpcode.Ext8:
		head = 2
	case code == msgpcode.Str16 || code == msgpcode.Bin16 || code == msgpcode.Ext16:
		head = 3
	case code == msgpcode.Str32 || code == msgpcode.Bin32 || code == msgpcode.Ext32:
		head = 5
	}
	text := t.text[len(t.text)-t.rest.Len():]
	if len(text) < head {
		return io.ErrUnexpectedEOF
	}
	for _, b := range text[1:head] {
		n = n<<8 | int(b)
	}
	if n > len(text)-head {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (t *transcoder) value(depth int) error {
	if depth > rawjson.MaxDepth {
		return rawjson.ErrDepth
	}
	code, err := t.in.PeekCode()
	if err != nil {
		return err
	}
	switch {
	case code == msgpcode.Nil:
		t.out = append(t.out, "null"...)
		return t.in.DecodeNil()
	case code == msgpcode.True || code == msgpcode.False:
		v, err := t.in.DecodeBool()
		t.out = strconv.AppendBool(t.out, v)
		return err
	case code == msgpcode.Uint64:
		v, err := t.in.DecodeUint64()
		t.out = strconv.AppendUint(t.out, v, 10)
		return err
	case code == msgpcode.Float || code == msgpcode.Double:
		return t.float(code)
	case msgpcode.IsFixedNum(code) || code >= msgpcode.Uint8 && code <= msgpcode.Int64:
		v, err := t.in.DecodeInt64()
		t.out = strconv.AppendInt(t.out, v, 10)
		return err
	case msgpcode.IsString(code):
		v, err := t.string()
		t.out = rawjson.AppendQuoted(t.out, v)
		return err
	case msgpcode.IsBin(code):
		if err := t.whole(code); err != nil {
			return err
		}
		v, err := t.in.DecodeBytes()
		t.out = rawjson.AppendQuoted(t.out, base64.StdEncoding.EncodeToString(v))
		return err
	case msgpcode.IsFixedArray(code) || code == msgpcode.Array16 || code == msgpcode.Array32:
		return t.array(depth)
	case msgpcode.IsFixedMap(code) || code == msgpcode.Map16 || code == msgpcode.Map32:
		return t.object(depth)
	case msgpcode.IsExt(code):
		if err := t.whole(code); err != nil {
			return err
		}
		v, err := t.in.DecodeTime()
		t.out = rawjson.AppendQuoted(t.out, v.UTC().Format(time.RFC3339Nano))
		return err
	}
	return fmt.Errorf("unknown code %#x", code)
}

func (t *transcoder) string() (string, error) {
	code, err := t.in.PeekCode()
	if err == nil {
		err = t.whole(code)
	}
	if err != nil {
		return "", err
	}
	return t.in.DecodeString()
}

func (t *transcoder) float(code byte) error {
	bitSize := 64
	v, err := t.in.DecodeFloat64()
	if code == msgpcode.Float {
		bitSize = 32
	}
	if err != nil {
		return err
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return errors.New("a number is not finite")
	}
	t.out = strconv.AppendFloat(t.out, v, 'g', -1, bitSize)
	return nil
}

func (t *transcoder) array(depth int) error {
	n, err := t.in.DecodeArrayLen()
	if err != nil {
		return err
	}
	t.out = append(t.out, '[')
	for i := range n {
		if i > 0 {
			t.out = append(t.out, ',')
		}
		if err := t.value(depth + 1); err != nil {
			return err
		}
	}
	t.out = append(t.out, ']')
	return nil
}

func (t *transcoder) object(depth int) error {
	n, err := t.in.DecodeMapLen()
	if err != nil {
		return err
	}
	t.out = append(t.out, '{')
	for i := range n {
		if i > 0 {
			t.out = append(t.out, ',')
		}
		name, err := t.string()
		if err != nil {
			return err
		}
		t.out = append(rawjson.AppendQuoted(t.out, name), ':')
		if err := t.value(depth + 1); err != nil {
			return err
		}
	}
	t.out = append(t.out, '}')
	return nil
}
