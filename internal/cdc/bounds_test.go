package cdc_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// zipOf returns a compressed JSON string that has size bytes, including the quotes. It is composed
// of gzip members of up to 1 MiB, because those are quick to create.
func zipOf(t *testing.T, size int) []byte {
	t.Helper()
	member := func(text string) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = io.WriteString(w, text) // writing to memory cannot fail
		_ = w.Close()
		return out.Bytes()
	}
	zeros := strings.Repeat("0", 1<<20)
	whole, rest := (size-2)>>20, (size-2)&(1<<20-1)
	return slices.Concat(member(`"`+zeros[:rest]), bytes.Repeat(member(zeros), whole), member(`"`))
}

// allocated returns the number of bytes that the function do allocates.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestText_TakesExactlyTheMemoryOfAMessage(t *testing.T) {
	d := cdc.NewDecoder()
	if _, err := d.Text(zipOf(t, 10), "gzip/json"); err != nil { // also allocates the reusable memory
		t.Fatal(err)
	}
	for _, size := range []int{
		2, 1000, cdc.LargePayload - 1, cdc.LargePayload, cdc.LargePayload + 1, 2*cdc.LargePayload + 2,
		2*cdc.LargePayload + 3, cdc.MaxPayload,
	} {
		zipped := zipOf(t, size)
		packed, err := msgpack.Marshal(strings.Repeat("0", min(size, 5<<20)-2))
		if err != nil {
			t.Fatal(err)
		}
		for encoding, payload := range map[string][]byte{"gzip/json": zipped, "msgpack": packed} {
			var text []byte
			size := size
			if encoding == "msgpack" { // msgpack is slower
				size = min(size, 5<<20)
			}
			took := allocated(func() { text, err = d.Text(payload, encoding) })
			if err != nil || len(text) != size || cap(text) > size+size/4+64 || text[0] != '"' || text[size-1] != '"' {
				t.Errorf("%s of %d bytes: %d with capacity %d, %v", encoding, size, len(text), cap(text), err)
			}
			if took > uint64(size+size/4+64<<10) {
				t.Errorf("%s of %d bytes took %d", encoding, size, took)
			}
		}
	}
}

func TestText_TakesNoMemoryForATooLargeMessage(t *testing.T) {
	str := func(n int) []byte {
		packed, err := msgpack.Marshal(strings.Repeat("\x00", n))
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	array := func(head string, n int, element string) []byte { return []byte(head + strings.Repeat(element, n)) }
	for name, c := range map[string]struct {
		encoding string
		payload  []byte
		want     string
	}{
		"json":                   {"", make([]byte, cdc.MaxPayload+1), "the message is larger than 64 MiB"},
		"gzip, a byte too large": {"gzip/json", zipOf(t, cdc.MaxPayload+1), "the message is larger than 64 MiB"},
		"gzip, 250 MB":           {"gzip/json", zipOf(t, 250<<20), "the message is larger than 64 MiB"},
		"two gzip members":       {"gzip/json", append(zipOf(t, 40<<20), zipOf(t, 40<<20)...), "the message is larger than 64 MiB"},
		"control characters":     {"msgpack", str(11 << 20), "the message is larger than 64 MiB"},
		"nils":                   {"msgpack", array("\xdd\x00\xe0\x00\x00", 0xe00000, "\xc0"), "the message is larger than 64 MiB"},
		"an array of 4 billion":  {"msgpack", []byte("\xdd\xff\xff\xff\xff\xc0"), "not valid msgpack"},
		"a map of 4 billion":     {"msgpack", []byte("\xdf\xff\xff\xff\xff\xa1a\xc0"), "not valid msgpack"},
		"a string of 4 GiB":      {"msgpack", []byte("\xdb\xff\xff\xff\xffa"), "not valid msgpack"},
		"a binary of 4 GiB":      {"msgpack", []byte("\xc6\xff\xff\xff\xffa"), "not valid msgpack"},
		"an extension of 4 GiB":  {"msgpack", []byte("\xc9\xff\xff\xff\xff\xffa"), "not valid msgpack"},
		"arrays of arrays":       {"msgpack", bytes.Repeat([]byte{0x91}, 1<<20), "nested too deeply"},
		"wide arrays of arrays":  {"msgpack", bytes.Repeat([]byte("\xdd\xff\xff\xff\xff"), 1<<20), "nested too deeply"},
		"maps of maps":           {"msgpack", bytes.Repeat([]byte{0x81, 0xa0}, 1<<20), "nested too deeply"},
	} {
		d := cdc.NewDecoder()
		large := 0
		d.Large = func(int) error { large++; return nil }
		var err error
		took := allocated(func() { _, err = d.Text(c.payload, c.encoding) })
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 200 {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if took > 4<<20 || large > 0 {
			t.Errorf("%s: it took %d bytes, and was announced %d times", name, took, large)
		}
	}
}

func TestText_AnnouncesALargeMessage(t *testing.T) {
	no := errors.New("not now")
	packed, err := msgpack.Marshal(strings.Repeat("\x00", 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for encoding, payload := range map[string][]byte{"gzip/json": zipOf(t, 6<<20), "msgpack": packed} {
		d := cdc.NewDecoder()
		asked := 0
		d.Large = func(int) error {
			if asked++; asked == 1 {
				return no
			}
			return nil
		}
		took := allocated(func() {
			if _, err := d.Text(payload, encoding); !errors.Is(err, no) {
				t.Errorf("%s: %v", encoding, err)
			}
		})
		if took > 3<<20 {
			t.Errorf("%s: it took %d bytes before it was admitted", encoding, took)
		}
		if text, err := d.Text(payload, encoding); err != nil || asked != 2 || !json.Valid(text) {
			t.Errorf("%s: asked %d times, %v", encoding, asked, err)
		}
	}
}

func TestText_KeepsCharactersWhole(t *testing.T) {
	for _, part := range []string{"é", "日本", "😀", "a😀\x00\"", "\xff\xfe", "\x80"} {
		for _, offset := range []int{0, 1, 3} {
			text := strings.Repeat("x", offset) + strings.Repeat(part, (5<<18)/len(part))
			packed, err := msgpack.Marshal(map[string]any{text[:5000]: text})
			if err != nil {
				t.Fatal(err)
			}
			got, err := cdc.NewDecoder().Text(packed, "msgpack")
			if err != nil {
				t.Fatal(err)
			}
			var back map[string]string
			if err := json.Unmarshal(got, &back); err != nil {
				t.Fatal(err)
			}
			for name, value := range back {
				if want := strings.ToValidUTF8(text, ""); strings.ReplaceAll(value, "\ufffd", "") != want ||
					!strings.HasPrefix(value, name[:3000]) {
					t.Errorf("%q after %d: %d bytes became %d", part, offset, len(text), len(value))
				}
			}
		}
	}
}

func TestText_DoesNotTrustTheSizeThatGzipStates(t *testing.T) {
	for _, size := range []int{100, 3 << 20} {
		lie := zipOf(t, size)
		copy(lie[len(lie)-4:], []byte{0, 0, 0, 1})
		if _, err := cdc.NewDecoder().Text(lie, "gzip/json"); err == nil {
			t.Errorf("%d bytes: a wrong size is not noticed", size)
		}
		whole := zipOf(t, size)
		if _, err := cdc.NewDecoder().Text(whole[:len(whole)-3], "gzip/json"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, truncated: %v", size, err)
		}
	}
}
