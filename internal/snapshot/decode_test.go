package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

func decodeTable(t testing.TB, columns ...string) *schema.Table {
	t.Helper()
	cs := []schema.Column{{Name: "id", Type: schema.String}}
	for _, c := range columns {
		cs = append(cs, schema.Column{Name: c, Type: schema.String})
	}
	table, err := schema.New("order", "1", []string{"id"}, cs)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func zip(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newDecoder(t testing.TB) *fileDecoder {
	return &fileDecoder{
		name: "f", table: decodeTable(t, "v"), clock: cdc.Timestamp{Wall: 7}, limit: MaxLine, unknown: func([]byte) {},
		passed: func(int) {},
	}
}

// decode returns the values of column v of every row, and the error.
func decode(d *fileDecoder, zipped []byte) (values []string, err error) {
	for row, err := range d.Rows(context.Background(), bytes.NewReader(zipped)) {
		if err != nil {
			return values, err
		}
		values = append(values, string(row.Value(1)))
	}
	return values, nil
}

func TestRows_KeepTheirTextAndTheClockOfTheFile(t *testing.T) {
	d := newDecoder(t)
	text := "{\"id\":\"1\",\"v\":9007199254740993}\n\n \r\n{\"v\":\"a\\u0000\",\"id\":\"2\",\"x\":1}\r\n{\"id\":3}"
	var got []string
	for row, err := range d.Rows(t.Context(), bytes.NewReader(zip(t, text))) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %v %v line %d", row.Value(0), row.Value(1), row.Op, row.Clock.Wall, d.line))
	}
	want := []string{`"1" 9007199254740993 INSERT 7 line 1`, `"2" "a\u0000" INSERT 7 line 4`, `3  INSERT 7 line 5`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if lines := []int64{d.lineOf(1), d.lineOf(2), d.lineOf(3)}; !slices.Equal(lines, []int64{1, 4, 5}) {
		t.Errorf("the rows are in the lines %v", lines)
	}
}

func TestRows_AreNoneInAnEmptyFile(t *testing.T) {
	for _, text := range []string{"", "\n", " \n\n"} {
		if got, err := decode(newDecoder(t), zip(t, text)); len(got) > 0 || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestRows_ReadConcatenatedGzipAsOneFile(t *testing.T) {
	file := append(zip(t, `{"id":"1","v":1}`+"\n"+`{"id":`), zip(t, `"2","v":2}`+"\n")...)
	got, err := decode(newDecoder(t), file)
	if diff := cmp.Diff([]string{"1", "2"}, got); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
}

// TestRows_NameBadLines at, before and after the ends of blocks.
func TestRows_NameBadLines(t *testing.T) {
	for line, want := range map[string]string{
		`{"id":"x",`:          "not valid json",
		`[]`:                  "want an object",
		`{"id":"x"} {}`:       "want the end of the text",
		`{"v":"SECRET"}`:      `the row has no value for "id" of its primary key`,
		`{"id":null}`:         `the row has no value for "id" of its primary key`,
		`{"id":"SECRET","v":`: "not valid json",
	} {
		for _, at := range []int{1, 2, 5000, 9999, 10000} {
			var text strings.Builder
			for i := 1; i <= 10000; i++ {
				if i == at {
					text.WriteString(line + "\n")
					continue
				}
				fmt.Fprintf(&text, `{"id":"%d","v":"%s"}`+"\n", i, strings.Repeat("v", i%200))
			}
			got, err := decode(newDecoder(t), zip(t, text.String()))
			var e *FileError
			if !errors.As(err, &e) || e.File != "f" || e.Line != int64(at) ||
				!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%s at %d: %v", line, at, err)
			}
			if len(got) != at-1 {
				t.Errorf("%s at %d: %d rows before it", line, at, len(got))
			}
		}
	}
}

func TestRows_ReadLinesOfAnySize(t *testing.T) {
	sizes := []int{
		0, 1, blockSize - 20, blockSize - 19, blockSize - 18, blockSize - 17, blockSize, 3*blockSize + 1, 2, keptBlock + 1, 5,
		12 << 20, 1,
	}
	var text strings.Builder
	var want []string
	for i, n := range sizes {
		v := `"` + strings.Repeat("v", n) + `"`
		want = append(want, v)
		fmt.Fprintf(&text, `{"id":"%02d","v":%s}`+"\n", i, v)
	}
	got, err := decode(newDecoder(t), zip(t, text.String()))
	if err != nil || !cmp.Equal(want, got) {
		t.Errorf("%d of %d rows came, or they have changed: %v", len(got), len(want), err)
	}
}

func TestRows_RefuseALineThatIsTooLong(t *testing.T) {
	const limit = 1 << 20
	const around = `{"id":"2","v":""}`
	for size, want := range map[int]string{
		limit:      "",
		limit + 1:  "file f, line 2: it is longer than 1 MiB",
		10 * limit: "file f, line 2: it is longer than 1 MiB",
	} {
		for _, end := range []string{"\n", "\n{\"id\":\"3\"}\n", ""} {
			d := newDecoder(t)
			d.limit = limit
			line := `{"id":"2","v":"` + strings.Repeat("v", size-len(around)) + `"}`
			_, err := decode(d, zip(t, `{"id":"1","v":1}`+"\n"+line+end))
			if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want {
				t.Errorf("%d bytes and %q: %v, want %q", size, end, err, want)
			}
		}
	}
}

func TestRows_ReportDamagedFiles(t *testing.T) {
	var text strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&text, `{"id":"%d","v":"%x"}`+"\n", i, i*i*7919)
	}
	good := zip(t, text.String())
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	broken := bytes.Clone(good)
	for i := len(broken) / 2; i < len(broken)/2+64; i++ {
		broken[i] ^= 0x5a
	}
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"truncated":       {good[:len(good)/2], "the file is truncated"},
		"without its end": {good[:len(good)-1], "the file is truncated"},
		"empty":           {nil, "line 1: the file is truncated"},
		"short":           {good[:5], "line 1: the file is truncated"},
		"another format":  {[]byte(text.String()), "line 1: the file is not gzip"},
		"bad checksum":    {flipped, "line 2001: the file is damaged"},
		"bad bytes":       {broken, "the file is damaged"},
	} {
		_, err := decode(newDecoder(t), c.file)
		if !errors.As(err, new(*damagedError)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRows_EndWithTheLoopOrTheContext(t *testing.T) {
	file := zip(t, strings.Repeat(`{"id":"1","v":1}`+"\n", 300000))
	n := 0
	for range newDecoder(t).Rows(t.Context(), bytes.NewReader(file)) {
		if n++; n == 10 {
			break
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := errors.New("ended")
	var last error
	for _, err := range newDecoder(t).Rows(ctx, bytes.NewReader(file)) {
		cancel(ended)
		last = err
	}
	if !errors.Is(last, ended) {
		t.Errorf("ended with %v", last)
	}
}

// FuzzRows compares the decoder with encoding/json over a scanner.
func FuzzRows(f *testing.F) {
	for _, s := range []string{
		`{"id":"1","v":1}`, "{\"id\":\"1\",\"v\":1}\n\n{\"id\":2}\r\n", `{"id":null}`, "{}\n", "x", "{\"id\":\"\n\"}", "\n", " ",
	} {
		f.Add([]byte(s), uint16(0))
		f.Add([]byte(s), uint16(len(s)))
	}
	f.Fuzz(func(t *testing.T, text []byte, cut uint16) {
		file := zip(t, string(text))
		damaged := cut > 0 && int(cut) < len(file)
		if damaged {
			file = file[:len(file)-int(cut)]
		}
		var want []string
		bad := int64(0)
		for i, line := range bytes.Split(text, []byte{'\n'}) {
			if len(bytes.Trim(line, " \t\r")) == 0 {
				continue
			}
			var row map[string]json.RawMessage
			if json.Unmarshal(line, &row) != nil || row == nil || row["id"] == nil || string(row["id"]) == "null" {
				bad = int64(i) + 1
				break
			}
			want = append(want, string(row["v"]))
		}
		got, err := decode(newDecoder(t), file)
		if damaged {
			if err == nil || len(got) > len(want) {
				t.Fatalf("a damaged file has %d rows and error %v", len(got), err)
			}
			return
		}
		var e *FileError
		switch {
		case bad == 0 && err != nil:
			t.Fatalf("%q: %v", text, err)
		case bad > 0 && (!errors.As(err, &e) || e.Line != bad):
			t.Fatalf("%q: %v, want an error in line %d", text, err, bad)
		}
		if !cmp.Equal(want, got) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
	})
}

// BenchmarkRows decodes files of 20 and 60 columns. For comparison, it also only unpacks them, which
// is the limit. MB/s are of text.
func BenchmarkRows(b *testing.B) {
	for _, columns := range []int{20, 60} {
		table, file, size, rows := benchmarkFile(b, columns)
		b.Run(fmt.Sprintf("columns=%d/unpack", columns), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				z, err := gzip.NewReader(bytes.NewReader(file))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, z); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
		b.Run(fmt.Sprintf("columns=%d/rows", columns), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				d := &fileDecoder{name: "f", table: table, limit: MaxLine, unknown: func([]byte) {}, passed: func(int) {}}
				for _, err := range d.Rows(b.Context(), bytes.NewReader(file)) {
					if err != nil {
						b.Fatal(err)
					}
				}
				if d.row != rows {
					b.Fatalf("%d rows", d.row)
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// benchmarkFile returns an export file of the given number of columns.
func benchmarkFile(b *testing.B, columns int) (t *schema.Table, file []byte, size, rows int64) {
	names := make([]string, columns-1)
	for i := range names {
		names[i] = fmt.Sprintf("column_%02d", i)
	}
	var text strings.Builder
	rows = 20000
	for i := range rows {
		fmt.Fprintf(&text, `{"id":"%032d"`, i)
		for j, name := range names {
			fmt.Fprintf(&text, `,%q:"%x value %d of a row"`, name, i*7919*int64(j+1), j)
		}
		text.WriteString("}\n")
	}
	return decodeTable(b, names...), zip(b, text.String()), int64(text.Len()), rows
}

func TestRows_BoundLinesLikeMessagesOfTheStream(t *testing.T) {
	const around = `{"id":"1","v":""}`
	for size, want := range map[int]string{cdc.MaxPayload: "<nil>", cdc.MaxPayload + 1: "file f, line 1: it is longer than 64 MiB"} {
		_, err := decode(newDecoder(t), zip(t, `{"id":"1","v":"`+strings.Repeat("v", size-len(around))+`"}`))
		if got := fmt.Sprint(err); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
}
