package cdc_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

func TestTimestamp_ComparesExactly(t *testing.T) {
	ascending := []string{
		"0", "1", "1712345678901234567", "1712345678901234567.0000000001", "1712345678901234567.0000000002",
		"1712345678901234567.0000000010", "1712345678901234567.2147483647", "1712345678901234568", "9223372036854775807.0000000001",
	}
	var previous cdc.Timestamp
	for i, s := range ascending {
		ts, err := cdc.ParseTimestamp(s)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && (previous.Compare(ts) != -1 || ts.Compare(previous) != 1 || previous.Sortable() >= ts.Sortable()) {
			t.Errorf("%s does not come after %s", s, ascending[i-1])
		}
		back, err := cdc.ParseTimestamp(ts.String())
		if err != nil || back != ts {
			t.Errorf("%s reads back as %v, %v", ts, back, err)
		}
		previous = ts
	}
}

func TestParseTimestamp_RejectsMalformedClocks(t *testing.T) {
	for _, s := range []string{"", "x", "-1", "1.", "1.x", "1.00000000001", "1e9", "9223372036854775808", " 1", "1.9999999999"} {
		if ts, err := cdc.ParseTimestamp(s); err == nil {
			t.Errorf("ParseTimestamp(%q) = %v, want an error", s, ts)
		}
	}
}

const change = `{"operation":"UPDATE","id":"ev1","table":"order","key":["c1","o1"],"modelVersion":"v7","companyId":"c1","locationId":null,
"before":{"id":"o1","total":1},"after":{"id":"o1","total":9007199254740993,"note":"a\u0000b"},"diff":["total"],
"timestamp":1712345678901,"mvccTimestamp":"1712345678901234567.0000000003","imported":false,"unknown":{"x":[1]}}`

func TestDecode_KeepsRowsRaw(t *testing.T) {
	var got cdc.Event
	got.Position = cdc.Position{Sequence: 7, Stored: 9}
	d := cdc.NewDecoder()
	d.Members = true
	if err := d.Decode(&got, []byte(change), ""); err != nil {
		t.Fatal(err)
	}
	want := cdc.Event{
		Position: cdc.Position{Sequence: 7, Stored: 9}, Op: cdc.Update, ID: "ev1", Table: "order", ModelVersion: "v7", CompanyID: "c1",
		Key: []byte(`["c1","o1"]`), Before: []byte(`{"id":"o1","total":1}`),
		After: []byte(`{"id":"o1","total":9007199254740993,"note":"a\u0000b"}`), Diff: []byte(`["total"]`), Timestamp: 1712345678901,
		Clock: cdc.Timestamp{Wall: 1712345678901234567, Logical: 3}, MVCC: "1712345678901234567.0000000003", Payload: []byte(change),
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(cdc.Event{}, "Members")); diff != "" {
		t.Error(diff)
	}
	var members []string
	for _, m := range got.Members {
		members = append(members, change[m.Name.Start:m.Name.End]+":"+change[m.Value.Start:m.Value.End])
	}
	if diff := cmp.Diff([]string{`"id":"o1"`, `"total":9007199254740993`, `"note":"a\u0000b"`}, members); diff != "" {
		t.Error(diff)
	}
	if got.RowID() != "o1" {
		t.Errorf("RowID = %q", got.RowID())
	}
}

func TestDecode_ReadsEveryEncoding(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(change))
	_ = w.Close()

	packed, err := msgpack.Marshal(map[string]any{
		"operation": "INSERT", "id": "e", "table": "part", "timestamp": int64(5), "mvccTimestamp": "6",
		"after": map[string]any{"big": uint64(math.MaxUint64)},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := cdc.NewDecoder()
	var e cdc.Event
	for range 2 { // the second time, the decoder reuses its state
		if err := d.Decode(&e, zipped.Bytes(), "gzip/json"); err != nil || e.ID != "ev1" || string(e.Payload) != change {
			t.Fatalf("gzip/json: %+v, %v", e, err)
		}
		if err := d.Decode(&e, packed, "msgpack"); err != nil || e.Table != "part" || string(e.After) != `{"big":18446744073709551615}` {
			t.Fatalf("msgpack: %s, %v", e.Payload, err)
		}
	}
}

func TestDecode_MsgpackBecomesTheSameJSON(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)
	packed, err := msgpack.Marshal(map[string]any{"after": map[string]any{
		"a": []any{
			int8(-1), uint8(200), int64(math.MinInt64), 1.5, float32(0.1), true, nil, "é\"\x00",
			[]byte{1, 2},
			when,
			map[string]any{},
		},
	}, "table": "t", "operation": "INSERT"})
	if err != nil {
		t.Fatal(err)
	}
	var e cdc.Event
	if err := cdc.NewDecoder().Decode(&e, packed, "msgpack"); err != nil {
		t.Fatal(err)
	}
	want := `{"a":[-1,200,-9223372036854775808,1.5,0.1,true,null,"é\"\u0000","AQI=","2026-01-02T03:04:05.6789Z",{}]}`
	if string(e.After) != want {
		t.Errorf("got  %s\nwant %s", e.After, want)
	}
}

func TestDecode_ErrorsHoldNoValue(t *testing.T) {
	const secret = "SECRETVALUE"
	for name, c := range map[string]struct{ payload, encoding string }{
		"not json":          {`{"table":"` + secret, ""},
		"no table":          {`{"operation":"INSERT","after":{"x":"` + secret + `"}}`, ""},
		"no operation":      {`{"table":"t"}`, ""},
		"unknown operation": {`{"table":"t","operation":"` + secret + `"}`, ""},
		"row is a scalar":   {`{"table":"t","operation":"INSERT","after":"` + secret + `"}`, ""},
		"key is a scalar":   {`{"table":"t","operation":"INSERT","key":"` + secret + `"}`, ""},
		"trailing text":     {`{"table":"t","operation":"INSERT"}` + secret, ""},
		"clock":             {`{"table":"t","operation":"INSERT","mvccTimestamp":"soon"}`, ""},
		"not gzip":          {secret, "gzip/json"},
		"not msgpack":       {"\xc1" + secret, "msgpack"},
		"cut msgpack":       {"\x82\xa1a", "msgpack"},
		"encoding":          {`{}`, "br"},
	} {
		var e cdc.Event
		err := cdc.NewDecoder().Decode(&e, []byte(c.payload), c.encoding)
		if err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error reveals a value: %v", name, err)
		}
	}
}

func TestRowID_FallsBackToTheRow(t *testing.T) {
	for payload, want := range map[string]string{
		`{"table":"t","operation":"DELETE","key":[],"before":{"id":"b"}}`:            "b",
		`{"table":"t","operation":"INSERT","after":{"id":12},"before":{"id":"no"}}`:  "12",
		`{"table":"t","operation":"INSERT","key":["only"],"after":{"id":"another"}}`: "only",
		`{"table":"t","operation":"DELETE"}`:                                         "",
	} {
		var e cdc.Event
		if err := cdc.NewDecoder().Decode(&e, []byte(payload), ""); err != nil {
			t.Fatal(err)
		}
		if got := e.RowID(); got != want {
			t.Errorf("RowID of %s = %q, want %q", payload, got, want)
		}
	}
}

func TestCovers_ExcludesARecreatedStream(t *testing.T) {
	checkpoint := cdc.Position{Sequence: 100, Stored: 1000}
	for _, c := range []struct {
		p    cdc.Position
		want bool
	}{
		{cdc.Position{Sequence: 100, Stored: 1000}, true},
		{cdc.Position{Sequence: 7, Stored: 70}, true},
		{cdc.Position{Sequence: 101, Stored: 1001}, false},
		{cdc.Position{Sequence: 7, Stored: 2000}, false}, // the stream was recreated
	} {
		if got := checkpoint.Covers(c.p); got != c.want {
			t.Errorf("Covers(%v) = %v", c.p, got)
		}
	}
	if got := checkpoint.Advance(cdc.Position{Sequence: 101, Stored: 900}); got != (cdc.Position{Sequence: 101, Stored: 1000}) {
		t.Errorf("Advance = %v", got)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(change), "")
	f.Add([]byte("\x82\xa5table\xa1t\xa9operation\xa6INSERT"), "msgpack")
	f.Add([]byte{0x1f, 0x8b}, "gzip/json")
	f.Add([]byte(`{"table":"t","operation":"INSERT","after":{"a":{"b":[1]}} , "after":{}}`), "")
	f.Fuzz(func(t *testing.T, payload []byte, encoding string) {
		var e, plain cdc.Event
		d := cdc.NewDecoder()
		d.Members = true
		err := d.Decode(&e, payload, encoding)
		if without := cdc.NewDecoder().Decode(&plain, payload, encoding); (err == nil) != (without == nil) {
			t.Fatalf("with members: %v, without: %v", err, without)
		}
		if err != nil {
			return
		}
		if diff := cmp.Diff(e, plain, cmpopts.IgnoreFields(cdc.Event{}, "Members")); diff != "" || plain.Members != nil {
			t.Fatalf("with members and without: %s", diff)
		}
		if !json.Valid(e.Payload) {
			t.Fatalf("decoded a payload that is not JSON: %q", e.Payload)
		}
		_ = e.RowID()
		for _, m := range e.Members {
			if !json.Valid(e.Payload[m.Name.Start:m.Name.End]) || !json.Valid(e.Payload[m.Value.Start:m.Value.End]) {
				t.Fatalf("member %v of %q is not JSON", m, e.Payload)
			}
		}
		var again cdc.Event
		if err := cdc.NewDecoder().Decode(&again, e.Payload, ""); err != nil {
			t.Fatalf("its own JSON does not decode: %v", err)
		}
	})
}
