package lake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
	"github.com/shopmonkeyus/eds/internal/testing/laketest"
)

func event(t testing.TB, n int, payload string) *cdc.Event {
	t.Helper()
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: 1_700_000_000_000_000_000 + int64(n)}}
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// jobEvent returns the nth event of the table job, with the given members.
func jobEvent(t testing.TB, n int, members string) *cdc.Event {
	t.Helper()
	return event(t, n, fmt.Sprintf(`{"id":"ev%d","table":"job","modelVersion":"7","key":["j1"],"companyId":"c1",`+
		`"timestamp":1700000000123,"mvccTimestamp":"1700000000123456789.0000000042",%s}`, n, members))
}

func table(t testing.TB, columns ...schema.Column) *schema.Table {
	t.Helper()
	s, err := schema.New("job", "7", []string{"id"}, append([]schema.Column{{Name: "id", Type: schema.String}}, columns...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// read reads the options of a query. It also declares path, as each destination does.
func read(query string) (lake.Settings, error) {
	options := append(lake.Options(defaults, parquetDefaults, "upload after"), sink.Option{Name: "path"})
	v, err := sink.ParseOptions(&url.URL{RawQuery: query}, options)
	if err != nil {
		return lake.Settings{}, err
	}
	return lake.Read(v, defaults, parquetDefaults)
}

func settings(t testing.TB, query string) lake.Settings {
	t.Helper()
	s, err := read(query)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var defaults = lake.Default{
	Compression: lake.Gzip, Layout: "{table}/dt=YYYY-MM-DD/", RollRows: 1000, RollBytes: 1 << 20, RollAge: time.Minute,
}

var parquetDefaults = lake.Default{
	Compression: lake.Zstd, Layout: "{table}/dt=YYYY-MM-DD/", RollRows: 1000, RollBytes: 1 << 20, RollAge: time.Minute,
}

// adjustments counts adjusted values by column and rule.
type adjustments map[string]int

func write(t testing.TB, query string, p *lake.Part) ([]byte, adjustments) {
	t.Helper()
	counted := make(adjustments)
	encoder := lake.NewEncoder(settings(t, query), func(_, column, rule string) { counted[column+" "+rule]++ })
	var out bytes.Buffer
	if err := encoder.Write(&out, p); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), counted
}

var allTypes = []schema.Column{
	{Name: "at", Type: schema.DateTime},
	{Name: "count", Type: schema.Integer},
	{Name: "price", Type: schema.Number},
	{Name: "done", Type: schema.Boolean},
	{Name: "tags", Type: schema.Array},
	{Name: "more", Type: schema.Object},
	{Name: "state", Type: schema.Enum},
	{Name: "name", Type: schema.String},
}

func TestParquet_HasColumnTypes(t *testing.T) {
	e := jobEvent(t, 5, `"operation":"UPDATE","userId":"u","locationId":"l","before":{"id":"j1","name":"old"},"diff":["name"],`+
		`"after":{"id":"j1","at":"2023-11-14T22:13:20.123456+02:00","count":9223372036854775807,"price":12.34,"done":true,`+
		`"tags":["a", 1],"more":{"n":12345678901234567890},"state":"open","name":"it's \u0000 \ud83d\ude00 ü"}`)
	part := &lake.Part{Dir: "job", Table: "job", Schema: table(t, allTypes...), Events: []*cdc.Event{e}}
	content, adjusted := write(t, "format=parquet", part)
	name, rows := laketest.Rows(t, content)
	want := []map[string]string{{
		"_eds_operation": `"UPDATE"`, "_eds_id": `"ev5"`, "_eds_version": `"7"`, "_eds_time": `"2023-11-14T22:13:20.123000Z"`,
		"_eds_clock": `"1700000000123456789.0000000042"`, "_eds_sequence": "5",
		"_eds_key": `["j1"]`, "_eds_company": `"c1"`, "_eds_location": `"l"`, "_eds_user": `"u"`, "_eds_imported": "false",
		"_eds_before": `{"id":"j1","name":"old"}`, "_eds_diff": `["name"]`,
		"id": `"j1"`, "at": `"2023-11-14T20:13:20.123456Z"`, "count": "9223372036854775807", "price": "12.34", "done": "true",
		"tags": `["a", 1]`, "more": `{"n":12345678901234567890}`,
		"state": `"open"`, "name": "\"it's \\u0000 😀 ü\"",
	}}
	if diff := cmp.Diff(want, rows); diff != "" || name != "job" || len(adjusted) != 0 {
		t.Errorf("table %q, adjusted %v, %s", name, adjusted, diff)
	}
	f, err := parquet.OpenFile(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for column, want := range map[string]string{
		"at": "TIMESTAMP(isAdjustedToUTC=true,unit=MICROS)", "count": "INT(64,true)", "price": "DOUBLE", "done": "BOOLEAN", "tags": "JSON",
		"more": "JSON", "state": "STRING", "name": "STRING",
		"_eds_time": "TIMESTAMP(isAdjustedToUTC=true,unit=MICROS)", "_eds_sequence": "INT(64,true)", "_eds_key": "JSON",
	} {
		leaf, ok := f.Schema().Lookup(column)
		if got := leaf.Node.Type().String(); !ok || got != want || leaf.Node.Required() {
			t.Errorf("column %s is %s, want %s that may be null", column, got, want)
		}
	}
}

// TestParquet_KeepsUnfitValuesAsJSON checks that no value is rounded or lost.
func TestParquet_KeepsUnfitValuesAsJSON(t *testing.T) {
	for name, c := range map[string]struct{ column, raw string }{
		"a wide integer": {"count", "9223372036854775808"}, "a fraction in an integer": {"count", "1.5"},
		"text in an integer": {"count", `"12"`},
		"a long decimal":     {"price", "0.12345678901234567890123"}, "a wide number": {"price", "9007199254740993"},
		"a huge number": {"price", "1e400"}, "text in a number": {"price", `"1.5"`},
		"nanoseconds": {"at", `"2023-11-14T22:13:20.123456789Z"`}, "no instant": {"at", `"yesterday"`},
		"a far year": {"at", `"+999999-01-01T00:00:00Z"`}, "a number as instant": {"at", "5"},
		"a number as truth": {"done", "1"}, "an object as text": {"name", `{"a":1}`}, "a number as text": {"name", "5"},
		"half a surrogate":               {"name", `"\ud800"`},
		"a column that the schema lacks": {"new", `{"deep":[1,2,9007199254740993]}`}, "a column of eds's own name": {"_eds_id", `"mine"`},
	} {
		e := jobEvent(t, 1, fmt.Sprintf(`"operation":"INSERT","after":{"id":"j1","%s":%s}`, c.column, c.raw))
		columns := append(slices.Clone(allTypes), schema.Column{Name: "_eds_id", Type: schema.String})
		content, adjusted := write(t, "format=parquet", &lake.Part{Table: "job", Schema: table(t, columns...), Events: []*cdc.Event{e}})
		_, rows := laketest.Rows(t, content)
		if want := fmt.Sprintf(`{"%s":%s}`, c.column, c.raw); rows[0]["_eds_rest"] != want {
			t.Errorf("%s: the rest is %s, want %s", name, rows[0]["_eds_rest"], want)
		}
		if _, there := rows[0][c.column]; there && c.column != "_eds_id" || rows[0]["id"] != `"j1"` || rows[0]["_eds_id"] != `"ev1"` {
			t.Errorf("%s: the row is %v", name, rows[0])
		}
		inSchema := table(t, columns...).Column(c.column) != nil && c.column != "_eds_id"
		if inSchema != (adjusted[c.column+" kept-as-json"] == 1) {
			t.Errorf("%s: adjusted %v", name, adjusted)
		}
	}
}

func TestParquet_WritesTheDeletedRow(t *testing.T) {
	s := table(t, allTypes...)
	whole := jobEvent(t, 1, `"operation":"DELETE","before":{"id":"j1","count":3}`)
	bare := jobEvent(t, 2, `"operation":"DELETE"`)
	content, _ := write(t, "format=parquet", &lake.Part{Table: "job", Schema: s, Events: []*cdc.Event{whole, bare}})
	_, rows := laketest.Rows(t, content)
	if rows[0]["id"] != `"j1"` || rows[0]["count"] != "3" || rows[0]["_eds_operation"] != `"DELETE"` || rows[0]["_eds_before"] != "" {
		t.Errorf("with an image: %v", rows[0])
	}
	if rows[1]["id"] != `"j1"` || rows[1]["_eds_key"] != `["j1"]` {
		t.Errorf("with a key alone: %v", rows[1])
	}
}

func TestParquet_KeepsRowsWithoutASchemaAsJSON(t *testing.T) {
	e := jobEvent(t, 1, `"operation":"INSERT","after":{"id":"j1","count":12345678901234567890}`)
	content, _ := write(t, "format=parquet&compress=none", &lake.Part{Table: "job", Events: []*cdc.Event{e}})
	if _, rows := laketest.Rows(t, content); rows[0]["_eds_rest"] != `{"id":"j1","count":12345678901234567890}` || rows[0]["id"] != "" {
		t.Errorf("the row is %v", rows[0])
	}
}

func TestEncoder_WritesTheSameBytes(t *testing.T) {
	var events []*cdc.Event
	for n := range 1000 {
		events = append(events, jobEvent(t, n+1, fmt.Sprintf(`"operation":"INSERT","after":{"id":"j1","count":%d}`, n)))
	}
	for _, query := range []string{
		"format=ndjson&compress=none", "format=ndjson&compress=gzip", "format=ndjson&compress=zstd",
		"format=parquet&compress=none", "format=parquet&compress=gzip", "format=parquet&compress=zstd",
	} {
		encoder := lake.NewEncoder(settings(t, query), func(string, string, string) {})
		var files [2]bytes.Buffer
		for i := range files {
			if err := encoder.Write(&files[i], &lake.Part{Table: "job", Schema: table(t, allTypes...), Events: events}); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(files[0].Bytes(), files[1].Bytes()) {
			t.Errorf("%s: one part makes two files", query)
		}
		got := laketest.Events(t, "x"+encoder.Extension(), files[0].Bytes())
		if len(got) != len(events) || !strings.Contains(string(got[999]), "ev1000") {
			t.Errorf("%s: %d events are read back", query, len(got))
		}
	}
}

func TestParquet_SplitsManyRowsIntoGroups(t *testing.T) {
	e := jobEvent(t, 1, `"operation":"INSERT","after":{"id":"j1"}`)
	events := slices.Repeat([]*cdc.Event{e}, 100_001)
	content, _ := write(t, "format=parquet", &lake.Part{Table: "job", Schema: table(t), Events: events})
	f, err := parquet.OpenFile(bytes.NewReader(content), int64(len(content)))
	if err != nil || len(f.RowGroups()) != 2 || f.NumRows() != 100_001 {
		t.Errorf("%d groups, %d rows, %v", len(f.RowGroups()), f.NumRows(), err)
	}
}

func TestSpool_LeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	e := jobEvent(t, 1, `"operation":"INSERT","after":{"id":"j1"}`)
	encoder := lake.NewEncoder(settings(t, "format=ndjson&compress=none"), func(string, string, string) {})
	failed := errors.New("no")
	err := encoder.Spool(&lake.Part{Table: "job", Events: []*cdc.Event{e}}, func(f *os.File, size int64) error {
		text, err := io.ReadAll(f)
		if err != nil || string(text) != string(e.Payload)+"\n" || size != int64(len(text)) {
			t.Errorf("it holds %q, %d bytes, %v", text, size, err)
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Errorf("the error is %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	t.Setenv("TMPDIR", filepath.Join(dir, "nowhere"))
	err = encoder.Spool(&lake.Part{Table: "job", Events: []*cdc.Event{e}}, func(*os.File, int64) error { return nil })
	if fault.Of(err) != fault.Transient || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

func TestLayout_Dir(t *testing.T) {
	e := event(t, 1, `{"operation":"UPDATE","id":"e","table":"a/b","modelVersion":"v1","key":["k"],"companyId":"..",`+
		`"timestamp":1700000000123,"mvccTimestamp":"1","after":{}}`)
	for layout, want := range map[string]string{
		"{table}/dt=YYYY-MM-DD/": "a%2Fb/dt=2023-11-14",
		"{table}":                "a%2Fb",
		"/lake/{table}/year=YYYY/month=MM/day=DD/hour=HH":    "lake/a%2Fb/year=2023/month=11/day=14/hour=22",
		"SUMMARY/{table}/YYYYMMDD":                           "SUMMARY/a%2Fb/20231114",
		"{company}/{location}/{table}/{operation}/{version}": "%2E%2E/NONE/a%2Fb/UPDATE/v1",
	} {
		l, err := lake.ParsePathTemplate(layout)
		if err != nil {
			t.Errorf("%s: %v", layout, err)
		} else if got := l.Dir(e); got != want {
			t.Errorf("%s is %s, want %s", layout, got, want)
		}
	}
	for layout, want := range map[string]string{
		"": "leads elsewhere", "dt=YYYY": "should name {table}", "{table}/{nope}": "unknown name in braces; it may name {company}",
		"{table}/{": "brace", "{table}/../x": "leads elsewhere", "{table}//x": "is empty",
	} {
		if _, err := lake.ParsePathTemplate(layout); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", layout, err, want)
		}
	}
	old := event(t, 1, `{"operation":"UPDATE","id":"e","table":"t","key":["k"],"timestamp":-99999999999999,"mvccTimestamp":"1","after":{}}`)
	l, err := lake.ParsePathTemplate("{table}/YYYY-MM-DD")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Dir(old); got != "t/0000-01-01" {
		t.Errorf("long ago is %s", got)
	}
}

func TestPlanner_SplitsByDirectoryVersionAndSize(t *testing.T) {
	var events []*cdc.Event
	add := func(table, version string, seconds int) {
		n := len(events) + 1
		events = append(events, event(t, n, fmt.Sprintf(`{"operation":"INSERT","id":"e%d","table":"%s","modelVersion":"%s","key":["k"],`+
			`"timestamp":%d000,"mvccTimestamp":"%d","after":{"id":"k"}}`, n, table, version, seconds, n)))
	}
	const day1, day2 = 1_700_000_000, 1_700_086_400
	add("a", "1", day1)
	add("b", "1", day1)
	add("a", "2", day1)
	add("a", "1", day1)
	add("a", "1", day2)
	add("a", "1", day1)
	unknown := fault.Mark(fault.Poison, errors.New("no such table"))
	var asked []string
	versions := func(_ context.Context, table, version string) (*schema.Table, error) {
		asked = append(asked, table+version)
		if table == "b" {
			return nil, unknown
		}
		return schema.New(table, version, []string{"id"}, []schema.Column{{Name: "id", Type: schema.String}})
	}
	layout := settings(t, "format=parquet").Layout
	describe := func(p *lake.Planner) []string {
		parts, err := p.Plan(t.Context(), events)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, part := range parts {
			text := part.Dir
			for _, e := range part.Events {
				text += " " + e.ID
			}
			if part.Schema != nil {
				text += " v" + part.Schema.Version
			}
			all = append(all, text)
		}
		return all
	}
	want := []string{
		"a/dt=2023-11-14 e1 e4 v1", "b/dt=2023-11-14 e2", "a/dt=2023-11-14 e3 v2", "a/dt=2023-11-15 e5 v1", "a/dt=2023-11-14 e6 v1",
	}
	got := describe(&lake.Planner{Layout: layout, Schemas: true, Rows: 2, Bytes: 1 << 20, Versions: versions})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want = []string{"a/dt=2023-11-14 e1 e3 e4 e6", "b/dt=2023-11-14 e2", "a/dt=2023-11-15 e5"}
	if diff := cmp.Diff(want, describe(&lake.Planner{Layout: layout, Rows: 10, Bytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	if parts := describe(&lake.Planner{Layout: layout, Rows: 10, Bytes: 1}); len(parts) != len(events) {
		t.Errorf("of one event each: %v", parts)
	}
	away := errors.New("away")
	versions = func(context.Context, string, string) (*schema.Table, error) { return nil, away }
	p := &lake.Planner{Layout: layout, Schemas: true, Rows: 1, Bytes: 1, Versions: versions}
	if _, err := p.Plan(t.Context(), events); !errors.Is(err, away) {
		t.Errorf("without HQ: %v", err)
	}
}

// TestPlanner_PutsEachEventIntoItsDirectory checks that the cache of directories does not mix up
// events.
func TestPlanner_PutsEachEventIntoItsDirectory(t *testing.T) {
	var events []*cdc.Event
	for _, at := range []int64{-1, 1, 3_599_999, 3_600_000, 86_399_999, 86_400_000, 1_700_000_000_000} {
		for _, members := range []string{
			`"operation":"INSERT"`, `"operation":"DELETE"`, `"operation":"INSERT","companyId":"a"`, `"operation":"INSERT","locationId":"a"`,
			`"operation":"INSERT","modelVersion":"a"`,
		} {
			for _, table := range []string{"job", "order"} {
				events = append(events, event(t, len(events)+1, fmt.Sprintf(`{"id":"e","table":%q,"key":["k"],"timestamp":%d,`+
					`"mvccTimestamp":"1",%s}`, table, at, members)))
			}
		}
	}
	for _, text := range []string{
		"{table}", "{table}/DD", "{table}/HH", "{table}/{operation}", "{table}/{company}/{location}", "{table}-{version}/dt=YYYY-MM-DD/HH",
	} {
		layout, err := lake.ParsePathTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		planner := lake.Planner{Layout: layout, Rows: 1000, Bytes: 1 << 20}
		parts, err := planner.Plan(t.Context(), events)
		if err != nil {
			t.Fatal(err)
		}
		seen, dirs := 0, make(map[string]bool)
		for _, p := range parts {
			if dirs[p.Dir+" "+p.Table] {
				t.Errorf("%s: two parts are of %s", text, p.Dir)
			}
			dirs[p.Dir+" "+p.Table] = true
			for _, e := range p.Events {
				if seen++; layout.Dir(e) != p.Dir || e.Table != p.Table {
					t.Errorf("%s: an event of %s is in %s", text, layout.Dir(e), p.Dir)
				}
			}
		}
		if seen != len(events) {
			t.Errorf("%s: there are %d events, want %d", text, seen, len(events))
		}
	}
}

func TestPart_NameHasThePositionsInTheStream(t *testing.T) {
	env := sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "f"}
	other := env
	other.Consumer = "eds-2"
	first, last := jobEvent(t, 7, `"operation":"INSERT","after":{"id":"j1"}`), jobEvent(t, 9, `"operation":"INSERT","after":{"id":"j1"}`)
	p := &lake.Part{Events: []*cdc.Event{first, last}}
	if got, want := p.Name(lake.ID(env)), "1700000000000000007-00000000000000000007-00000000000000000009-"+lake.ID(env); got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
	if lake.ID(env) == lake.ID(other) {
		t.Error("two consumers have one id")
	}
	first.Position, last.Position = cdc.Position{}, cdc.Position{}
	if got := p.Name(lake.ID(env)); !strings.HasPrefix(got, "event-") || got != p.Name(lake.ID(other)) {
		t.Errorf("without a place it is %s", got)
	}
	from := encode.SnapshotPart{Job: "j/1", File: "f 1.gz", Batch: 2}
	if got := lake.ImportName(from, 3); got != "import-j%2F1~f%201.gz~2-3" {
		t.Errorf("an import is %s", got)
	}
}

func TestRead_Settings(t *testing.T) {
	for query, want := range map[string]string{
		"format=xml": "json, ndjson or parquet", "compress=gzip": "compress needs format=ndjson", "layout=x": "layout needs format=ndjson",
		"roll-rows=5":          "roll-rows needs format=ndjson",
		"format=ndjson&path=x": "path needs format=json", "format=ndjson&compress=brotli": "none, gzip or zstd",
		"format=ndjson&layout=x": "{table}", "format=ndjson&roll-rows=0": "roll-rows",
		"format=ndjson&roll-rows=x": "roll-rows", "format=ndjson&roll-bytes=5t": "roll-bytes",
		"format=ndjson&roll-bytes=9999999g": "roll-bytes", "format=ndjson&roll-bytes=-1": "roll-bytes",
		"format=ndjson&roll-age=5": "roll-age", "format=ndjson&roll-age=1ms": "roll-age",
	} {
		if _, err := read(query); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
	if s := settings(t, "format=parquet"); s.Compression != lake.Zstd || s.RollRows != 1000 || s.RollAge != time.Minute {
		t.Errorf("defaults of parquet: %+v", s)
	}
	if s := settings(t, "format=ndjson"); s.Compression != lake.Gzip {
		t.Errorf("defaults of ndjson: %+v", s)
	}
	for text, want := range map[string]int64{"1": 1, "512": 512, "4k": 4096, "64m": 64 << 20, "2G": 2 << 30} {
		if got := settings(t, "format=ndjson&roll-bytes="+text).RollBytes; got != want {
			t.Errorf("%s is %d", text, got)
		}
	}
}
