package amqp

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestDecode_ReadsEveryFormat decodes a value in each format of the specification. The encodings
// are written by hand.
func TestDecode_ReadsEveryFormat(t *testing.T) {
	moment := time.UnixMilli(1_700_000_000_123).UTC()
	for _, c := range []struct {
		encoding string
		want     any
	}{
		{"\x40", nil},
		{"\x41", true},
		{"\x42", false},
		{"\x56\x01", true},
		{"\x56\x00", false},
		{"\x50\xff", uint8(255)},
		{"\x60\x01\x02", uint16(258)},
		{"\x43", uint32(0)},
		{"\x52\xff", uint32(255)},
		{"\x70\x00\x01\x00\x00", uint32(65536)},
		{"\x44", uint64(0)},
		{"\x53\x07", uint64(7)},
		{"\x80\xff\xff\xff\xff\xff\xff\xff\xff", uint64(math.MaxUint64)},
		{"\x51\xff", int8(-1)},
		{"\x61\xff\xfe", int16(-2)},
		{"\x54\x80", int32(-128)},
		{"\x71\xff\xff\xff\xfe", int32(-2)},
		{"\x55\xff", int64(-1)},
		{"\x81\x80\x00\x00\x00\x00\x00\x00\x00", int64(math.MinInt64)},
		{"\x72\x3f\xc0\x00\x00", float32(1.5)},
		{"\x82\xbf\xf8\x00\x00\x00\x00\x00\x00", -1.5},
		{"\x73\x00\x01\xf6\x00", Char('😀')},
		{"\x83\x00\x00\x01\x8b\xcf\xe5\x68\x7b", moment},
		{"\x980123456789abcdef", UUID([]byte("0123456789abcdef"))},
		{"\xa0\x02\x00\xff", []byte{0, 255}},
		{"\xb0\x00\x00\x00\x01\x07", []byte{7}},
		{"\xa1\x03\xe2\x82\xac", "€"},
		{"\xb1\x00\x00\x00\x01x", "x"},
		{"\xa3\x02ab", Symbol("ab")},
		{"\xb3\x00\x00\x00\x01x", Symbol("x")},
		{"\x45", List{}},
		{"\xc0\x03\x02\x40\x41", List{nil, true}},
		{"\xd0\x00\x00\x00\x05\x00\x00\x00\x01\x42", List{false}},
		{"\xc1\x06\x02\xa1\x01k\x52\x01", Map{"k": uint32(1)}},
		{"\xd1\x00\x00\x00\x04\x00\x00\x00\x00", Map{}},
		{"\xe0\x04\x02\x50\x01\x02", List{uint8(1), uint8(2)}},
		{"\xf0\x00\x00\x00\x06\x00\x00\x00\x01\x51\xff", List{int8(-1)}},
		{"\xe0\x02\x03\x41", List{true, true, true}},
		{"\x00\x53\x24\x45", Described{Descriptor: uint64(0x24), Value: List{}}},
		{"\x00\xa3\x01d\x00\x53\x01\x40", Described{Descriptor: Symbol("d"), Value: Described{Descriptor: uint64(1)}}},
	} {
		got, rest, err := Decode([]byte(c.encoding + "rest"))
		if err != nil || string(rest) != "rest" {
			t.Errorf("%x: %v, and %q is left", c.encoding, err, rest)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%x:\n%s", c.encoding, diff)
		}
		again, rest, err := Decode(Append(nil, got))
		if diff := cmp.Diff(got, again); diff != "" || len(rest) > 0 || err != nil {
			t.Errorf("%x, encoded and decoded: %v\n%s", c.encoding, err, diff)
		}
	}
}

func TestDecode_RefusesBrokenValues(t *testing.T) {
	for name, encoding := range map[string]string{
		"nothing":                   "",
		"unknown code":              "\x99",
		"decimal":                   "\x74\x00\x00\x00\x00",
		"cut integer":               "\x70\x00",
		"cut string":                "\xa1\x05x",
		"huge size":                 "\xb0\xff\xff\xff\xff",
		"boolean of 2":              "\x56\x02",
		"invalid UTF-8":             "\xa1\x01\xff",
		"symbol beyond ASCII":       "\xa3\x02é",
		"list with too few values":  "\xc0\x02\x02\x40",
		"list with too many values": "\xc0\x03\x01\x40\x40",
		"list with a huge count":    "\xd0\x00\x00\x00\x05\xff\xff\xff\xff\x40",
		"array with a huge count":   "\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x41",
		"map with an odd count":     "\xc1\x02\x01\x40",
		"map with a key twice":      "\xc1\x05\x04\x41\x40\x41\x40",
		"map with a list as key":    "\xc1\x03\x02\x45\x40",
		"description of nothing":    "\x00\x53\x01",
		"endless descriptions":      strings.Repeat("\x00", 1000),
	} {
		v, _, err := Decode([]byte(encoding))
		if refusal := (*Error)(nil); !errors.As(err, &refusal) || refusal.Condition != DecodeError {
			t.Errorf("%s decodes to %v: %v", name, v, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"\x40", "\xc1\x06\x02\xa1\x01k\x52\x01", "\xe0\x04\x02\x50\x01\x02", "\x00\x53\x75\xa0\x01x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _, err := Decode(b)
		if err != nil {
			return
		}
		if _, rest, err := Decode(Append(nil, v)); err != nil || len(rest) > 0 {
			t.Errorf("%x is %v, which does not decode again: %v", b, v, err)
		}
		_, _ = ParseMessage(b)
	})
}

func TestParseMessage_ChecksSections(t *testing.T) {
	section := func(code uint64, v any) string { return string(Append(nil, Described{Descriptor: code, Value: v})) }
	data := section(sectionData, []byte("x"))
	for name, c := range map[string]struct{ message, want string }{
		"no body":                     {section(sectionProperties, List{"id"}), "has no body"},
		"no section":                  {"\x40", "section <nil>"},
		"sections in another order":   {data + section(sectionProperties, List{}), "section 115 after section 0x75"},
		"a section twice":             {section(sectionProperties, List{}) + section(sectionProperties, List{}), "after section"},
		"two kinds of body":           {data + section(sectionValue, "x"), "bodies of two kinds"},
		"text as data":                {section(sectionData, "x"), "data is a string"},
		"annotation without a symbol": {section(sectionAnnotations, Map{"k": "v"}) + data, "annotation is a string"},
		"property without a name":     {section(sectionApplicationProperties, Map{Symbol("k"): "v"}) + data, "property is a amqp.Symbol"},
		"compound property":           {section(sectionApplicationProperties, Map{"k": List{}}) + data, "property k is a amqp.List"},
		"content type that is no name": {
			section(sectionProperties, List{nil, nil, nil, nil, nil, nil, "text"}) + data,
			"content-type is a string",
		},
	} {
		if _, err := ParseMessage([]byte(c.message)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	m, err := ParseMessage([]byte(section(0x70, List{true}) + section(sectionAnnotations, Map{Symbol("k"): "v"}) +
		section(sectionProperties, List{"id", nil, nil, nil, "reply", "other", Symbol("text/plain")}) +
		section(sectionApplicationProperties, Map{"n": int64(1)}) + data + data + section(sectionFooter, Map{})))
	if err != nil {
		t.Fatal(err)
	}
	want := &Message{
		Annotations: Map{Symbol("k"): "v"}, ApplicationProperties: map[string]any{"n": int64(1)}, Data: [][]byte{[]byte("x"), []byte("x")},
		Properties: Properties{MessageID: "id", ReplyTo: "reply", CorrelationID: "other", ContentType: "text/plain"},
	}
	if diff := cmp.Diff(want, m, cmp.AllowUnexported(Properties{})); diff != "" {
		t.Error(diff)
	}
}
