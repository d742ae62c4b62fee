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
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"

	"github.com/shopmonkeyus/eds/internal/rawjson"
)

// transcode converts one msgpack value to JSON text. Integers keep all digits, and floats get
// their shortest exact form. Binary data becomes base64, and the timestamp extension becomes RFC
// 3339, as a JSON encoder would have sent them. For a large text, transcode measures the size
// before it allocates memory.
func (d *Decoder) transcode(payload []byte) ([]byte, error) {
	measure := newTranscoder(payload, d.buffer()[:0])
	measure.bounded = true
	if err := measure.whole(); err != nil {
		return nil, err
	}
	if measure.dropped == 0 {
		return bytes.Clone(measure.out), nil
	}
	size := measure.dropped + len(measure.out)
	if err := d.admit(size); err != nil {
		return nil, err
	}
	t := newTranscoder(payload, make([]byte, 0, size))
	err := t.whole()
	return t.out, err
}

// transcoder converts msgpack to JSON text.
type transcoder struct {
	in   *msgpack.Decoder
	text []byte
	rest *bytes.Reader // the unread part of text
	out  []byte
	// If bounded is true, the output is limited to about LargePayload bytes. Any further output is
	// dropped, and the next field counts the dropped bytes, up to MaxPayload.
	bounded bool
	dropped int
}

func newTranscoder(payload, out []byte) *transcoder {
	r := bytes.NewReader(payload)
	return &transcoder{in: msgpack.NewDecoder(r), text: payload, rest: r, out: out}
}

// whole converts the text, which must contain a single value.
func (t *transcoder) whole() error {
	if err := t.value(0); err != nil {
		return err
	}
	if t.rest.Len() != 0 {
		return errors.New("bytes follow the value")
	}
	return t.bound()
}

// bound enforces the limits of bounded mode. It is called before each value, and after each piece
// of a string.
func (t *transcoder) bound() error {
	if !t.bounded || len(t.out) <= LargePayload {
		return nil
	}
	t.dropped += len(t.out)
	t.out = t.out[:0]
	if t.dropped > MaxPayload {
		return errTooLarge
	}
	return nil
}

// head returns the size of the next value's header, and the length n of the data after it. The
// value must be a string, a binary or an extension. If the data extends past the end of the text,
// head returns an error, because the msgpack library would otherwise allocate memory for that
// data.
func (t *transcoder) head(code byte) (head, n int, err error) {
	head = 1
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
		return 0, 0, io.ErrUnexpectedEOF
	}
	for _, b := range text[1:head] {
		n = n<<8 | int(b)
	}
	if n > len(text)-head {
		return 0, 0, io.ErrUnexpectedEOF
	}
	return head, n, nil
}

// bytes reads the next string or binary. The result refers to the memory of the text.
func (t *transcoder) bytes(code byte) ([]byte, error) {
	head, n, err := t.head(code)
	if err != nil {
		return nil, err
	}
	start := len(t.text) - t.rest.Len() + head
	_, err = t.rest.Seek(int64(head+n), io.SeekCurrent)
	return t.text[start : start+n], err
}

// pieceSize is the size in bytes of the pieces in which strings are written. It is a multiple of
// 3, so that base64 encodes each piece without padding.
const pieceSize = 3 << 10

// quote writes text as a JSON string.
func (t *transcoder) quote(text []byte) error {
	t.out = append(t.out, '"')
	for len(text) > 0 {
		n := min(len(text), pieceSize)
		for back := 1; back < utf8.UTFMax && n < len(text) && !utf8.RuneStart(text[n]); back++ {
			n-- // a piece must not end within a character
		}
		t.out = rawjson.AppendEscaped(t.out, text[:n])
		text = text[n:]
		if err := t.bound(); err != nil {
			return err
		}
	}
	t.out = append(t.out, '"')
	return nil
}

// binary writes data as a JSON string in base64.
func (t *transcoder) binary(data []byte) error {
	t.out = append(t.out, '"')
	for len(data) > 0 {
		n := min(len(data), pieceSize)
		t.out = base64.StdEncoding.AppendEncode(t.out, data[:n])
		data = data[n:]
		if err := t.bound(); err != nil {
			return err
		}
	}
	t.out = append(t.out, '"')
	return nil
}

func (t *transcoder) value(depth int) error {
	if depth > rawjson.MaxDepth {
		return rawjson.ErrDepth
	}
	if err := t.bound(); err != nil {
		return err
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
		v, err := t.bytes(code)
		if err != nil {
			return err
		}
		return t.quote(v)
	case msgpcode.IsBin(code):
		v, err := t.bytes(code)
		if err != nil {
			return err
		}
		return t.binary(v)
	case msgpcode.IsFixedArray(code) || code == msgpcode.Array16 || code == msgpcode.Array32:
		return t.array(depth)
	case msgpcode.IsFixedMap(code) || code == msgpcode.Map16 || code == msgpcode.Map32:
		return t.object(depth)
	case msgpcode.IsExt(code):
		if _, _, err := t.head(code); err != nil {
			return err
		}
		v, err := t.in.DecodeTime()
		t.out = rawjson.AppendQuoted(t.out, v.UTC().Format(time.RFC3339Nano))
		return err
	}
	return fmt.Errorf("unknown code %#x", code)
}

// name writes the name of an object member, followed by a colon.
func (t *transcoder) name() error {
	code, err := t.in.PeekCode()
	if err != nil {
		return err
	}
	if !msgpcode.IsString(code) && !msgpcode.IsBin(code) {
		return errors.New("the name of a member is not a string")
	}
	name, err := t.bytes(code)
	if err != nil {
		return err
	}
	if err := t.quote(name); err != nil {
		return err
	}
	t.out = append(t.out, ':')
	return nil
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
		if err := t.name(); err != nil {
			return err
		}
		if err := t.value(depth + 1); err != nil {
			return err
		}
	}
	t.out = append(t.out, '}')
	return nil
}
