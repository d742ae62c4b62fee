package encode_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

func event(t testing.TB, payload string) *cdc.Event {
	t.Helper()
	e := new(cdc.Event)
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAppendEvent_WritesThePayloadOnOneLine(t *testing.T) {
	const same = "" // the payload stays as it is
	for _, c := range []struct{ payload, want string }{
		{`{"table":"t","operation":"INSERT","after":{"b":1.50,"a":12345678901234567890,"x":"\u0041\/\u0000\ud800"}}`, same},
		{
			" {\n \"table\" : \"t \\\" \",\r\n\t\"operation\": \"INSERT\" , \"z\" : [ 1 , { } ] } \n",
			`{"table":"t \" ","operation":"INSERT","z":[1,{}]}`,
		},
		{`{"table":"a b","operation":"INSERT","x":"\\","y":"\" ,\\\"","z":[" ","",null]}`, same},
		{
			`{"table":"a b","operation":"INSERT","x":"\\", "y":"\" ,\\\""}`,
			`{"table":"a b","operation":"INSERT","x":"\\","y":"\" ,\\\""}`,
		},
		{`{"table":"a","operation":"INSERT","x":""}` + "\n", `{"table":"a","operation":"INSERT","x":""}`},
		{
			"{\"table\":\"t\",\"operation\":\"INSERT\",\"after\":{\"a\xff\":\"b\xe2\x82 é\"}}",
			"{\"table\":\"t\",\"operation\":\"INSERT\",\"after\":{\"a\ufffd\":\"b\ufffd\ufffd é\"}}",
		},
	} {
		payload, want := c.payload, cmp.Or(c.want, c.payload)
		invalid := !utf8.ValidString(payload)
		e := event(t, payload)
		got, replaced := encode.AppendEvent([]byte("> "), e)
		if diff := gocmp.Diff("> "+want, string(got)); diff != "" || replaced != invalid {
			t.Errorf("replaced: %v, %s", replaced, diff)
		}
		text, replaced := encode.Text(e)
		if diff := gocmp.Diff(want, string(text)); diff != "" || replaced != invalid || string(e.Payload) != payload {
			t.Errorf("by itself: replaced: %v, %s", replaced, diff)
		}
	}
}

func orders(t testing.TB) *schema.Table {
	t.Helper()
	table, err := schema.New("order", "v7", []string{"companyId", "id"}, []schema.Column{
		{Name: "id", Type: schema.String},
		{Name: "companyId", Type: schema.String},
		{Name: "locationId", Type: schema.String},
		{Name: "total", Type: schema.Integer},
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func row(t testing.TB, table *schema.Table, image string, clock string) *change.Row {
	t.Helper()
	spans, err := change.NewSplitter(table).Split([]byte(image))
	if err != nil {
		t.Fatal(err)
	}
	at, err := cdc.ParseTimestamp(clock)
	if err != nil {
		t.Fatal(err)
	}
	return &change.Row{Image: []byte(image), Spans: spans, Op: cdc.Insert, Clock: at}
}

func TestAppendImported_WritesAnInsert(t *testing.T) {
	table := orders(t)
	for image, want := range map[string]string{
		`{"id":"o1", "companyId":"c1", "locationId":"l\u0031", "total":9007199254740993, "unknown":[1.0]}`: `{"operation":"INSERT",` +
			`"id":"fe78fb178e14f02eb5967b83357f1c4c","table":"order","key":["c1","o1"],"modelVersion":"v7","companyId":"c1",` +
			`"locationId":"l1","after":{"id":"o1","companyId":"c1","locationId":"l\u0031","total":9007199254740993,"unknown":[1.0]},` +
			`"timestamp":1712345678901,"mvccTimestamp":"1712345678901234567.0000000002","imported":true}`,
		`{"id":"o1","companyId":"c1","locationId":null}`: `{"operation":"INSERT",` +
			`"id":"fe78fb178e14f02eb5967b83357f1c4c","table":"order","key":["c1","o1"],"modelVersion":"v7","companyId":"c1",` +
			`"after":{"id":"o1","companyId":"c1","locationId":null},"timestamp":1712345678901,` +
			`"mvccTimestamp":"1712345678901234567.0000000002","imported":true}`,
	} {
		got := encode.AppendImported(nil, table, row(t, table, image, "1712345678901234567.0000000002"))
		if diff := gocmp.Diff(want, string(got)); diff != "" {
			t.Error(diff)
		}
		e := event(t, string(got))
		if e.Op != cdc.Insert || !e.Imported || e.RowID() != "o1" || e.Clock != (cdc.Timestamp{Wall: 1712345678901234567, Logical: 2}) {
			t.Errorf("it reads back as %+v", e)
		}
	}
}

func TestAppendImported_WritesColumnsWithoutAnImage(t *testing.T) {
	table := orders(t)
	e := event(t, `{"table":"order","operation":"INSERT","key":["c","9"],"after":{"total": 5},"mvccTimestamp":"1"}`)
	effect, err := change.NewSplitter(table).Effect(e) // its image is two texts, row and key
	if err != nil {
		t.Fatal(err)
	}
	got := event(t, string(encode.AppendImported(nil, table, effect.Upsert)))
	if want := `{"companyId":"c","id":"9","total":5}`; string(got.After) != want {
		t.Errorf("after is %s, want %s", got.After, want)
	}
}

func TestAppendImported_IDsDifferByTableKeyAndClock(t *testing.T) {
	table := orders(t)
	seen := map[string]string{}
	for _, c := range []struct{ image, clock string }{
		{`{"id":"1","companyId":"23"}`, "5"},
		{`{"id":"31","companyId":"2"}`, "5"},
		{`{"id":"1","companyId":"23"}`, "5.1"},
		{`{"id":"1","companyId":"23"}`, "6"},
		{`{"id":1,"companyId":"23"}`, "5"},
	} {
		id := event(t, string(encode.AppendImported(nil, table, row(t, table, c.image, c.clock)))).ID
		if other, taken := seen[id]; taken || len(id) != 32 {
			t.Errorf("%v and %s have the id %q", c, other, id)
		}
		seen[id] = fmt.Sprint(c)
	}
	a := event(t, string(encode.AppendImported(nil, table, row(t, table, `{"id":"1","companyId":"23","total":1}`, "5")))).ID
	b := event(t, string(encode.AppendImported(nil, table, row(t, table, `{"companyId":"\u00323","id":"1"}`, "5.0")))).ID
	if a != b {
		t.Error("the same row has two ids")
	}
}

const update = `{"operation":"UPDATE","id":"6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11","table":"order","key":["c1","o-1"],"companyId":"c1",` +
	`"locationId":null,"after":{"id":"o-1","status":"Open/Hold"},"diff":["status"],"timestamp":1712345678901,` +
	`"mvccTimestamp":"1712345678901234567.0000000003"}`

func TestObjectName_PartitionKey_MessageKey(t *testing.T) {
	e := event(t, update)
	bare := event(t, `{"operation":"DELETE","id":"e9","table":"part","before":{"id":12},"mvccTimestamp":"1712345678901234567"}`)
	got := []string{
		encode.ObjectName(e), encode.PartitionKey(e), encode.MessageKey(e),
		fmt.Sprint(encode.Partition(encode.AppendPartitionKey(nil, e), 10)),
		encode.ObjectName(bare), encode.PartitionKey(bare), encode.MessageKey(bare),
		fmt.Sprint(encode.Partition(encode.AppendPartitionKey(nil, bare), 10)),
	}
	want := []string{
		"order/1712345678-o-1-6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11.json", "order.c1.NONE.o-1",
		"dbchange.order.UPDATE.c1.NONE.6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11", "8",
		"part/1712345678-12-e9.json", "part.NONE.NONE.12", "dbchange.part.DELETE.NONE.NONE.e9", "4",
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPartition_CoversTheRange(t *testing.T) {
	seen := map[int]bool{}
	for i := range 1000 {
		p := encode.Partition(fmt.Appendf(nil, "order.c.l.%d", i), 7)
		if p < 0 || p > 6 {
			t.Fatalf("partition %d of 7", p)
		}
		seen[p] = true
	}
	if len(seen) != 7 || encode.Partition([]byte("x"), 1) != 0 {
		t.Errorf("partitions used: %v", seen)
	}
}

func TestPath_Render(t *testing.T) {
	e := event(t, update)
	for text, want := range map[string]string{
		`{{.table}}/received/{{.table}}_{{.mvccTimestamp}}_{{.id}}.json`: "order/received/order_1712345678901234567.0000000003_" +
			"6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11.json",
		`/{{.companyId}}/{{.locationId}}/{{.operation}}-{{.key}}-{{index .key 1}}`: "c1/NONE/UPDATE-c1-o-1-o-1",
		`{{.after.status}}/{{.after.nothing}}x/{{.before.id}}/y`:                   "Open%2FHold/x/NONE/y",
		`{{if .locationId}}l{{else}}none{{end}}/{{with .after}}{{.id}}{{end}}`:     "none/o-1",
		`{{range .diff}}{{.}}+{{$.table}}{{end}}/{{.timestamp}}.{{.imported}}`:     "status+order/1712345678901.false",
		`a b/é:x/{{printf "%q" .table}}`:                                           `a b/é%3Ax/%22order%22`,
		`./{{"../.."}}/{{"CON"}}.txt`:                                              "%2E/%2E%2E/%2E%2E/%43ON.txt",
		`_eds/{{.id}}`:                                                             "%5Feds/6f1c7a55-3f0e-4b9e-9d25-0e7f5f9f0a11",
		`/{{"_Ed"}}s/_eds/{{.operation}}_eds`:                                      "%5FEds/%5Feds/UPDATE_eds",
	} {
		p, err := encode.ParsePath(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := p.Render(e)
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, diff)
		}
		if again := encode.CleanPath(got); again != got {
			t.Errorf("%s is not clean: %s", got, again)
		}
	}
}

func TestParsePath_RejectsBadTemplates(t *testing.T) {
	for text, want := range map[string]string{
		`{{.tabel}}/{{.id}}`:                       `did you mean "table"?`,
		`{{if .x}}{{end}}`:                         "a field that no change has; fields are after, before, ",
		`{{range .key}}{{$.nope}}{{.fine}}{{end}}`: "a field that no change has",
		`{{.id`:                     "path:1: unclosed action",
		`../{{.id}}`:                "leads out",
		`{{.table}}/../{{.id}}`:     "leads out",
		`{{nofunc .id}}`:            `path:1: function "..." not defined`,
		`{{template "other" .bad}}`: "a field that no change has",
		`{{(index .key 0).x}}{{with .id}}{{end}}{{.y}}`: "a field that no change has",
	} {
		_, err := encode.ParsePath(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	p, err := encode.ParsePath(`{{index .key 7}}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Render(event(t, update)); err == nil || strings.Contains(err.Error(), "o-1") {
		t.Errorf("an index out of range: %v", err)
	}
	if p, err = encode.ParsePath(`{{range .after}}{{.}}/{{end}}x`); err != nil {
		t.Fatal(err)
	}
	var wide strings.Builder
	for i := range 200 {
		fmt.Fprintf(&wide, `"c%d":"a value",`, i)
	}
	_, err = p.Render(event(t, `{"table":"t","operation":"INSERT","after":{`+strings.TrimSuffix(wide.String(), ",")+`}}`))
	if err == nil || !strings.Contains(err.Error(), "more than 1024") {
		t.Errorf("a path without end: %v", err)
	}
}

func BenchmarkAppendEvent(b *testing.B) {
	e := event(b, update)
	var out []byte
	for b.Loop() {
		out, _ = encode.AppendEvent(out[:0], e)
	}
	b.SetBytes(int64(len(out)))
}

func BenchmarkObjectName(b *testing.B) {
	e := event(b, update)
	for b.Loop() {
		encode.ObjectName(e)
	}
}
