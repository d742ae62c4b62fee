package sinktest

import (
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

var valueChecks = []property{
	{"every value survives, or is refused by name", keepsRows, checkValues},
	{"every value survives an import, or is refused by name", func(c features) bool { return c.rows }, checkLoadedValues},
	{"values of ten megabytes", keepsRows, checkLargeValues},
	{"all types in one row", keepsRows, checkTypes},
	{"events that contradict themselves", keepsRows, checkOddEvents},
}

// rawValue is one raw JSON value for a column of a type.
type rawValue struct {
	kind schema.Type
	raw  string
	// refusable says that a destination may refuse the value as poison.
	refusable bool
	// exact is a part of the raw text that is present whenever the value was stored unchanged. If a
	// stored value lacks this part, a rule has changed the value, and the change must be counted.
	// The field exact is "" for values that no rule changes.
	exact string
}

// values returns values that the types of different destinations handle differently.
func values() []rawValue {
	all := []rawValue{
		{kind: schema.Number, raw: `1e400`, refusable: true},
		{kind: schema.Number, raw: `0.1234567890123456789`},
		{kind: schema.Number, raw: `9007199254740993`, refusable: true, exact: `9007199254740993`},
		{kind: schema.Number, raw: `123456789012345678901234567890`, refusable: true, exact: `123456789012345678901234567890`},
		{kind: schema.Number, raw: `"two words"`, refusable: true},
		{kind: schema.Number, raw: `true`, refusable: true},
		{kind: schema.Number, raw: `1e-400`, refusable: true},
		{kind: schema.Integer, raw: `9223372036854775808`, refusable: true},
		{kind: schema.Integer, raw: `-9223372036854775809`, refusable: true},
		{kind: schema.Integer, raw: `123456789012345678901234567890123456789012`, refusable: true},
		{kind: schema.Integer, raw: `1.5`, refusable: true},
		{kind: schema.Integer, raw: `"a word instead"`, refusable: true},
		{kind: schema.Integer, raw: `""`, refusable: true},
		{kind: schema.Integer, raw: `[1]`, refusable: true},
		{kind: schema.Integer, raw: `1e99999`, refusable: true},
		{kind: schema.Boolean, raw: `"yes"`, refusable: true},
		{kind: schema.Boolean, raw: `2`, refusable: true},
		{kind: schema.Boolean, raw: `{}`, refusable: true},
		{kind: schema.DateTime, raw: `"soon"`, refusable: true},
		{kind: schema.DateTime, raw: `""`, refusable: true},
		{kind: schema.DateTime, raw: `"2026-02-30T00:00:00Z"`, refusable: true},
		{kind: schema.DateTime, raw: `"2026-13-01T00:00:00Z"`, refusable: true},
		{kind: schema.DateTime, raw: `"0001-01-01T00:00:00Z"`, refusable: true},
		{kind: schema.DateTime, raw: `"0000-01-01T00:00:00Z"`, refusable: true},
		{kind: schema.DateTime, raw: `"99999-01-01T00:00:00Z"`, refusable: true},
		{kind: schema.DateTime, raw: `"infinity"`, refusable: true},
		{kind: schema.DateTime, raw: `"now"`, refusable: true},
		{kind: schema.DateTime, raw: `1767323045000`, refusable: true},
		{kind: schema.DateTime, raw: `{}`, refusable: true},
	}
	add := func(kind schema.Type, raws ...string) {
		for _, raw := range raws {
			all = append(all, rawValue{kind: kind, raw: raw})
		}
	}
	add(schema.String, portableStrings()...)
	add(schema.Enum, `"open"`, `""`, `"it's \"quoted\""`, `"日本語"`)
	add(schema.Integer, `0`, `-0`, `1`, `-1`, `2147483648`, `4294967296`, `9007199254740991`, `9007199254740993`, `-9007199254740993`,
		`9223372036854775807`, `-9223372036854775808`, `1.0`, `1e3`, `"42"`)
	add(schema.Number, `0`, `-0.0`, `0.1`, `-0.1`, `1e15`, `123456789.123`, `0.12345678901234568`, `3.0000000000000004`,
		`1.7976931348623157e308`, `2.2250738585072014e-308`, `5e-324`, `99999999999999.99`, `1e22`, `1e23`, `9007199254740992`,
		`9223372036854775808`, `"1.5"`)
	add(schema.Boolean, `true`, `false`)
	add(schema.DateTime, `"2026-01-02T03:04:05Z"`, `"2026-01-02T03:04:05.000001Z"`, `"2026-01-02T03:04:05.999999Z"`,
		`"2026-01-02T03:04:05.1Z"`, `"2026-01-02T03:04:05+05:45"`, `"2026-01-02T03:04:05.123456-11:30"`, `"2026-01-02T03:04:05"`,
		`"2026-01-02 03:04:05"`,
		`"2026-01-02"`, `"1970-01-01T00:00:00Z"`, `"1969-12-31T23:59:59.999999Z"`, `"1969-07-20T20:17:40.5Z"`, `"1899-12-31T00:00:00Z"`,
		`"1582-10-10T00:00:00Z"`, `"1000-01-01T00:00:00Z"`, `"2038-01-19T03:14:08Z"`, `"2106-02-07T06:28:16Z"`,
		`"9999-12-31T23:59:59Z"`, `"2024-02-29T12:00:00Z"`, `"2026-03-29T02:30:00+01:00"`, `"2026-01-02T03:04:05.123456789Z"`)
	for _, kind := range []schema.Type{schema.Object, schema.Array} {
		add(kind, `{}`, `[]`, `{"a":1,"b":[true,false,null],"c":{"d":"e"}}`, `{"b":1,"a":2,"b":3}`,
			`[1,1.0,1e2,0.1,-0,9007199254740993,12345678901234567890]`, `"a scalar"`, `""`, `"null"`, `"{}"`, `12.50`, `true`, `false`,
			`{"":""}`, `{"it's":"\"$1 $$ \\ \n \t"}`, `{"😀":"\u0041\ud83d\ude00"}`, ` { "spaced" : [ 1 , 2 ] } `,
			`"2026-01-02T03:04:05Z"`, nested(100), `{"text":`+portableStrings()[1]+`}`)
	}
	return append(all, unportable()...)
}

// portableStrings returns strings that every destination must keep unchanged.
func portableStrings() []string {
	texts := []string{
		`""`, `"it's '' quoted"`, `"say \"hi\" \"\""`, `"back\\slash \\\\ \\' \\n \\N \\."`,
		`"$$ $1 $tag$ $tag$ ? :a @a %s %d {{.}} ${HOME}"`, `"'; DROP TABLE customer; --"`,
		`"x' OR '1'='1"`, `"/* comment */ -- comment"`, `"tab\t newline\n return\r bell\u0007 escape\u001b delete\u007f"`, `"\r\n"`,
		`" blanks "`, `"\\N"`, `"\\."`, `"NULL"`, `"null"`, `"\u0001\u0002\u001f"`,
		`"2026-01-02T03:04:05Z"`, `"2026-01-02"`, `"1e5"`, `"007"`, `"0x1F"`, `"true"`, `"12345678901234567890"`, `"1.10"`, `"NaN"`,
		`"{}"`, `"[1,2]"`, `"{a,b}"`, `"日本語 äöü ß İı"`, `"😀 \ud83d\ude00"`, `"\u2028\u2029\ufeff\u200b\u00a0"`, `"e\u0301 and é"`,
		`"\ufffe\uffff"`, `"<a href='x'>&amp;</a>"`, `"a,b;c|d"`, `"\\x41 \\101 \\u0041"`, `"E'\\\\x'"`, `12.50`, `true`, `{"a": 1}`,
	}
	return append(texts, quoted(strings.Repeat("long text, not in vain. ", 4000)))
}

// unportable returns strings that some destinations cannot keep unchanged. Each occurs as a
// string and inside JSON.
func unportable() []rawValue {
	var all []rawValue
	for text, exact := range map[string]string{
		`U+0000 a\u0000b`: `\u0000`, `\u0000`: `\u0000`, "not UTF-8 a\xffb": "\xff", "cut short \xe2\x82": "\xe2\x82",
		"encoded surrogate \xed\xa0\x80": "\xed\xa0\x80", "overlong \xc0\xaf": "\xc0\xaf",
		`lone surrogate a\ud83db`: `\ud83d`, `\ude00\ud83d`: `\ude00`,
	} {
		all = append(all, rawValue{schema.String, `"` + text + `"`, true, exact},
			rawValue{schema.Object, `{"a":["` + text + `"]}`, true, exact}, rawValue{schema.Object, `{"` + text + `":1}`, true, exact})
	}
	return append(all,
		rawValue{kind: schema.Object, raw: nested(rawjson.MaxDepth - 10), refusable: true},
		rawValue{kind: schema.Object, raw: `{"n":1e400}`, refusable: true},
		rawValue{kind: schema.Object, raw: `{"n":1e999999999}`, refusable: true},
		rawValue{kind: schema.Object, raw: `{"n":0.12345678901234567890123}`, refusable: true, exact: `0.12345678901234567890123`},
		rawValue{
			kind: schema.Object, raw: `{"n":123456789012345678901234567890}`, refusable: true, exact: `123456789012345678901234567890`,
		},
	)
}

func nested(depth int) string {
	return strings.Repeat(`{"a":[`, depth/2) + "1" + strings.Repeat(`]}`, depth/2)
}

func quoted(text string) string { return string(rawjson.AppendQuoted(nil, text)) }

// valueTable returns a table with one column per type. Errors about a value must contain the name
// of its column.
func valueTable(h *harness) *schema.Table {
	columns := []schema.Column{column("id", schema.String)}
	for kind := schema.String; kind <= schema.Array; kind++ {
		columns = append(columns, column("col_"+strings.ReplaceAll(kind.String(), "-", "_"), kind))
	}
	return newTable(h, "all_values", "1", 1, columns...)
}

func (v rawValue) column(t *schema.Table) schema.Column {
	for _, c := range t.Columns[1:] {
		if c.Type == v.kind {
			return c
		}
	}
	panic("no column of that type")
}

func (v rawValue) row(t *schema.Table, id int) string {
	return fmt.Sprintf(`{"id":"%d","%s":%s}`, id, v.column(t).Name, v.raw)
}

func checkValues(h *harness) {
	t := valueTable(h)
	s := h.open()
	h.migrate(s, t)
	outcomes := make(map[string]writeOutcome)
	for id, v := range values() {
		err := h.try(s, h.insert(t, v.row(t, id)))
		rule, changed := h.adjusted.take(t.Name, v.column(t).Name)
		outcomes[fmt.Sprint(id)] = writeOutcome{v, err, rule, changed}
	}
	h.expectOutcomes(s, t, outcomes)
}

// tenMegabytes returns a string of about ten megabytes.
func tenMegabytes() string { return strings.Repeat("ten megabytes. ", 700_000) }

func checkLargeValues(h *harness) {
	t := valueTable(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"small","col_string":"before"}`))
	h.apply(s, h.insert(t, fmt.Sprintf(`{"id":"text","col_string":"%s"}`, tenMegabytes())),
		h.insert(t, fmt.Sprintf(`{"id":"json","col_object":{"text":"%s","a":[1]}}`, tenMegabytes())),
		h.insert(t, `{"id":"after","col_string":"after"}`))
	h.expect(s, t)
}

func checkLoadedValues(h *harness) {
	t := valueTable(h)
	s := h.open()
	l, err := s.BeginLoad(h.ctx(), "job", t, sink.Replace, sink.Scope{})
	if err != nil {
		h.Fatalf("begin to load: %v", err)
	}
	outcomes := make(map[string]writeOutcome)
	for id, v := range values() {
		_, err := l.LoadFile(h.ctx(), fmt.Sprintf("file-%d", id), imagesOf(h, t, v.row(t, id)))
		rule, changed := h.adjusted.take(t.Name, v.column(t).Name)
		outcomes[fmt.Sprint(id)] = writeOutcome{v, err, rule, changed}
	}
	h.end(l, true)
	h.expectOutcomes(s, t, outcomes)
}

// writeOutcome is the result of writing a value.
type writeOutcome struct {
	rawValue
	err     error
	rule    string // the rule that changed the value, if changed is set
	changed bool
}

// expectOutcomes compares the stored values with the outcomes of writing them.
func (h *harness) expectOutcomes(s sink.Sink, t *schema.Table, outcomes map[string]writeOutcome) {
	h.Helper()
	stored := make(map[string][]byte)
	for row, err := range s.(sink.Reader).Read(h.ctx(), t) {
		if err != nil {
			h.Fatalf("read: %v", err)
		}
		id := string(rawjson.Text(row.Value(0)))
		if o, ok := outcomes[id]; ok {
			stored[id] = append([]byte{}, row.Value(t.Slot([]byte(o.column(t).Name)))...)
			h.checkOthersNull(t, row, o)
		}
	}
	for id, o := range outcomes {
		raw, found := stored[id]
		switch {
		case o.err != nil:
			h.checkRefusal(t, o)
			if found {
				h.Errorf("%s was refused, and is stored", o.title())
			}
		case !found:
			h.Errorf("%s was accepted, and is not stored", o.title())
		default:
			h.checkSurvival(t, o, raw)
		}
	}
	if len(stored) < len(outcomes)/2 {
		h.Errorf("only %d of %d values survived", len(stored), len(outcomes))
	}
}

func (v rawValue) title() string {
	raw := v.raw
	if len(raw) > 60 {
		raw = raw[:60] + "..."
	}
	return fmt.Sprintf("%v %q", v.kind, raw)
}

// checkOthersNull checks that the row has a value only in the column that was written.
func (h *harness) checkOthersNull(t *schema.Table, row *change.Row, o writeOutcome) {
	h.Helper()
	for slot, c := range t.Columns[1:] {
		if c.Type != o.kind && !row.IsNull(slot+1) {
			h.Errorf("%s put a value into column %s", o.title(), c.Name)
		}
	}
}

func (h *harness) checkRefusal(t *schema.Table, o writeOutcome) {
	h.Helper()
	text := o.err.Error()
	c := o.column(t)
	switch {
	case !o.refusable:
		h.Errorf("%s was refused: %.300s", o.title(), text)
	case fault.Of(o.err) != fault.Poison:
		h.Errorf("%s: the error is %v, want poison: %.300s", o.title(), fault.Of(o.err), text)
	case !strings.Contains(text, t.Name) || !strings.Contains(text, c.Name):
		h.Errorf("%s: the error does not name table %s and column %s: %.300s", o.title(), t.Name, c.Name, text)
	}
	if written := string(rawjson.Text([]byte(o.raw))); len(written) >= 5 && strings.Contains(text, written) {
		h.Errorf("%s: the error contains the value: %.300s", o.title(), text)
	}
}

func (h *harness) checkSurvival(t *schema.Table, o writeOutcome, raw []byte) {
	h.Helper()
	c := o.column(t)
	want, wantNull := verify.Canonical(c, []byte(o.raw))
	got, gotNull := verify.Canonical(c, raw)
	switch exact := o.exact == "" || strings.Contains(string(raw), o.exact); {
	case want == got && wantNull == gotNull && (exact || o.changed):
	case want == got && wantNull == gotNull:
		h.Errorf("%s was changed, and no rule was counted", o.title())
	case o.exact != "" && o.changed && !gotNull:
		// A named rule says so.
	default:
		h.Errorf("%s became %.100q by rule %q", o.title(), raw, o.rule)
	}
}

func checkTypes(h *harness) {
	t := valueTable(h)
	s := h.open()
	h.migrate(s, t)
	row := `{"id":"%s","col_string":"it's","col_enum":"open","col_date_time":"1969-12-31T23:59:59.5+01:00",` +
		`"col_integer":-9223372036854775808,"col_number":-0.12345678901234568,"col_boolean":false,"col_object":{"a":{"b":[]}},` +
		`"col_array":[{},[],"x",null]}`
	h.apply(s, h.insert(t, fmt.Sprintf(row, "1")), h.insert(t, fmt.Sprintf(row, "2")), h.insert(t, `{"id":"3"}`),
		h.insert(t, `{"id":"4","col_string":null,"col_enum":null,"col_date_time":null,"col_integer":null,"col_number":null,`+
			`"col_boolean":null,"col_object":null,"col_array":null}`))
	h.expect(s, t)
	h.apply(s, h.update(t, fmt.Sprintf(row, "3")), h.update(t, `{"id":"1"}`), h.delete(t, fmt.Sprintf(row, "2")))
	h.expect(s, t)
}

func checkOddEvents(h *harness) {
	t := customers(h)
	s := h.open()
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one","visits":1}`), h.insert(t, `{"id":"2","name":"two","visits":2}`))
	h.apply(s,
		// The diff names a column that the row lacks. The row decides.
		h.with(h.update(t, `{"id":"1","visits":5}`), `"diff":["name","nothing"]`),
		// The row has properties that the schema lacks.
		h.update(t, `{"id":"2","name":"two","unknown":"x","__proto__":{},"visits":3,"id ":"no"}`),
		// A name occurs twice. The last value counts.
		h.insert(t, `{"id":"3","name":"first","name":"last"}`),
		h.insert(t, `{"\u0069d":"4","n\u0061me":"escaped names"}`),
	)
	h.expect(s, t)
}

// with adds members to the event of a step.
func (h *harness) with(st textChange, members string) textChange {
	st.payload = strings.TrimSuffix(st.payload, "}") + "," + members + "}"
	return st
}
