package rules_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rules"
)

// directory writes the given files, keyed by name, to a new directory and returns its path.
func directory(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t testing.TB, files map[string]string) *rules.Rules {
	t.Helper()
	r, err := rules.Load(directory(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func event(t testing.TB, payload string) *cdc.Event {
	t.Helper()
	e := new(cdc.Event)
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// checkResult holds the results of one call of Check.
type checkResult struct {
	Skip           bool
	Reason, Object string
}

func check(r *rules.Rules, e *cdc.Event) checkResult {
	skip, reason, object := r.Check(e)
	return checkResult{skip, reason, object}
}

const orderSchema = `{"type":"object","required":["after"],"properties":{
	"operation":{"enum":["INSERT","UPDATE"]},
	"after":{"type":"object","required":["total"],"properties":{"total":{"type":"integer","maximum":9007199254740993}}}}}`

const orderPath = `{{.table}}/received/{{.table}}_{{.mvccTimestamp}}_{{.id}}.json`

func TestCheck_SkipsAndNamesChanges(t *testing.T) {
	r := load(t, map[string]string{
		"config.json":     `{"order":{"schema":"order.json","path":"` + orderPath + `"},"part":{"schema":"./sub/any.json"}}`,
		"order.json":      orderSchema,
		"sub/any.json":    `true`,
		"sub/unused.json": `{`,
	})
	if diff := cmp.Diff([]string{"order", "part"}, r.Tables()); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		payload string
		want    checkResult
	}{
		"no rule": {`{"table":"vendor","operation":"INSERT"}`, checkResult{Skip: true}},
		"a rule without a path": {
			`{"table":"part","operation":"DELETE","key":["1"]}`, checkResult{},
		},
		"named": {
			`{"table":"order","operation":"INSERT","id":"e1","mvccTimestamp":"1712345678901234567.0000000003",` +
				`"after":{"total":9007199254740993}}`,
			checkResult{Object: "order/received/order_1712345678901234567.0000000003_e1.json"},
		},
		"numbers are exact": {
			`{"table":"order","operation":"INSERT","id":"e1","mvccTimestamp":"1","after":{"total":9007199254740994}}`,
			checkResult{Skip: true, Reason: "the change fails the schema at order.json#/properties/after/properties/total/maximum"},
		},
		"every failure has its place": {
			`{"table":"order","operation":"DELETE"}`,
			checkResult{Skip: true, Reason: "the change fails the schema at order.json#/required, order.json#/properties/operation/enum"},
		},
	} {
		if diff := cmp.Diff(c.want, check(r, event(t, c.payload))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestCheck_ReasonsHoldNoValues(t *testing.T) {
	const secret = "SECRETVALUE"
	r := load(t, map[string]string{
		"config.json": `{"order":{"schema":"order.json","path":"{{.after.name.first}}"}}`,
		"order.json": `{"properties":{"after":{"additionalProperties":false,"properties":{
			"a":{"const":1},"b":{"enum":[1]},"c":{"pattern":"^x$"},"d":{"type":"integer"},"e":{"maxLength":1},"f":{"format":"date-time"},
			"g":{"not":{"type":"string"}},"h":{"oneOf":[{"const":1},{"const":2}]},"i":{"propertyNames":{"maxLength":2}},
"j":{"uniqueItems":true},
			"name":true}}}}`,
	})
	for _, after := range []string{
		`{"a":"SECRETVALUE"}`, `{"b":"SECRETVALUE"}`, `{"c":"SECRETVALUE"}`, `{"d":"SECRETVALUE"}`, `{"e":"SECRETVALUE"}`,
		`{"g":"SECRETVALUE"}`, `{"h":"SECRETVALUE"}`, `{"i":{"SECRETVALUE":1}}`, `{"j":["SECRETVALUE","SECRETVALUE"]}`, `{"SECRETVALUE":1}`,
		`{"name":"SECRETVALUE"}`, `{"name":{"first":"../SECRETVALUE"}}`, `{"name":{"SECRETVALUE":1}}`,
	} {
		got := check(r, event(t, `{"table":"order","operation":"INSERT","after":`+after+`}`))
		if !got.Skip || got.Reason == "" || strings.Contains(got.Reason, secret) {
			t.Errorf("%s: %+v", after, got)
		}
	}
}

func TestCheck_CutsLongReasons(t *testing.T) {
	r := load(t, map[string]string{
		"config.json": `{"t":{"schema":"s.json"}}`,
		"s.json":      `{"allOf":[false,false,false,false,false]}`,
	})
	want := checkResult{Skip: true, Reason: "the change fails the schema at s.json#/allOf/0, s.json#/allOf/1, s.json#/allOf/2, 2 more"}
	if diff := cmp.Diff(want, check(r, event(t, `{"table":"t","operation":"INSERT"}`))); diff != "" {
		t.Error(diff)
	}
}

func TestCheck_ObjectNamesStayInTheirDirectory(t *testing.T) {
	const fails = "the path template makes a name that is not a relative path of plain elements"
	const control = "the path template makes a name with control characters in it"
	const lacks = "the path template prints a field that the change lacks, or one with a NUL in it"
	r := load(t, map[string]string{"config.json": `{"t":{"schema":"s.json","path":"{{.id}}"}}`, "s.json": "{}"})
	for id, want := range map[string]checkResult{
		`a`:                         {Object: "a"},
		`a/b c/é.json`:              {Object: "a/b c/é.json"},
		`12:30:00`:                  {Object: "12:30:00"},
		`..a/b..`:                   {Object: "..a/b.."},
		`..`:                        {Skip: true, Reason: fails},
		`.`:                         {Skip: true, Reason: fails},
		`../../etc/passwd`:          {Skip: true, Reason: fails},
		`a/../../b`:                 {Skip: true, Reason: fails},
		`/etc/passwd`:               {Skip: true, Reason: fails},
		`a//b`:                      {Skip: true, Reason: fails},
		`a/`:                        {Skip: true, Reason: fails},
		`a/./b`:                     {Skip: true, Reason: fails},
		`a\\..\\..\\b`:              {Skip: true, Reason: fails},
		`C:/x`:                      {Skip: true, Reason: fails},
		`a\nb`:                      {Skip: true, Reason: control},
		`a\u001b[2J`:                {Skip: true, Reason: control},
		`a\u0000b`:                  {Skip: true, Reason: lacks},
		strings.Repeat("x", 1024):   {Object: strings.Repeat("x", 1024)},
		strings.Repeat("x", 1025):   {Skip: true, Reason: "the path template makes a name longer than 1024 bytes"},
		strings.Repeat("x", 100000): {Skip: true, Reason: "the path template makes a name longer than 1024 bytes"},
	} {
		if diff := cmp.Diff(want, check(r, event(t, `{"table":"t","operation":"INSERT","id":"`+id+`"}`))); diff != "" {
			t.Errorf("%.40s: %s", id, diff)
		}
	}
	if got := check(r, event(t, `{"table":"t","operation":"INSERT"}`)); got.Reason != lacks {
		t.Errorf("a change without an id: %+v", got)
	}
}

func TestCheck_TemplatesMayTestForAField(t *testing.T) {
	r := load(t, map[string]string{
		"config.json": `{"t":{"schema":"s.json","path":"{{or .locationId \"NONE\"}}/{{if ` +
			`.companyId}}{{.companyId}}{{else}}none{{end}}/{{with .after}}{{.n}}{{$.id}}{{end}}{{range .key}}-{{.}}{{end}}{{if eq ` +
			`.userId \"\"}}!{{end}}"}}`,
		"s.json": "{}",
	})
	for payload, want := range map[string]checkResult{
		`{"table":"t","operation":"INSERT","id":"i","companyId":"c","locationId":null,"after":{"n":12345678901234567890},` +
			`"key":["k"]}`: {Object: "NONE/c/12345678901234567890i-k!"},
		`{"table":"t","operation":"INSERT","id":"i","locationId":"l","userId":"u","after":{"n":1.10}}`: {Object: "l/none/1.10i"},
		`{"table":"t","operation":"INSERT","id":"i","after":{"x":1}}`: {Skip: true, Reason: "the path template fails: it uses a member " +
			"that the change lacks or one of another type"},
		`{"table":"t","operation":"INSERT","id":"i","after":{"n":null}}`: {
			Skip: true,
			Reason: "the path template prints a field that the " +
				"change lacks, or one with a NUL in it",
		},
	} {
		if diff := cmp.Diff(want, check(r, event(t, payload))); diff != "" {
			t.Errorf("%s: %s", payload, diff)
		}
	}
}

func TestLoad_SchemasMayReferToEachOther(t *testing.T) {
	r := load(t, map[string]string{
		"config.json":      `{"a":{"schema":"a.json"},"b":{"schema":"b.json"},"c":{"schema":"c.json"}}`,
		"a.json":           `{"$ref":"sub/common.json#/$defs/row"}`,
		"b.json":           `{"$schema":"http://json-schema.org/draft-07/schema#","allOf":[{"$ref":"https://example.com/common"}]}`,
		"c.json":           `{"$id":"https://example.com/c","$ref":"common#/$defs/row"}`,
		"sub/common.json":  `{"$id":"https://example.com/common","$defs":{"row":{"required":["after"]}},"required":["before"]}`,
		"sub/not-one.json": `[`,
	})
	for table, want := range map[string]string{
		"a": "the change fails the schema at sub/common.json#/$defs/row/required",
		"b": "the change fails the schema at https://example.com/common#/required",
		"c": "the change fails the schema at https://example.com/common#/$defs/row/required",
	} {
		if got := check(r, event(t, `{"table":"`+table+`","operation":"DELETE"}`)); got.Reason != want {
			t.Errorf("%s: got %q, want %q", table, got.Reason, want)
		}
	}
}

func TestLoad_ErrorsNameThePosition(t *testing.T) {
	outside := directory(t, map[string]string{"secret.json": "{}"})
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no config":      {nil, "config.json: no such file"},
		"not JSON":       {map[string]string{"config.json": "{\n  \"t\": {,\n}"}, "config.json:2:9: invalid character"},
		"not an object":  {map[string]string{"config.json": `[1]`}, `config.json:1:1: want {"table"`},
		"not a rule":     {map[string]string{"config.json": "{\"t\":\n 7}"}, `config.json:2:2: want {"table"`},
		"no schema":      {map[string]string{"config.json": `{"t":{"path":"x"}}`}, `table "t": it names no "schema" file`},
		"missing schema": {map[string]string{"config.json": `{"t":{"schema":"s.json"}}`}, `schema "s.json": openat s.json: no such file`},
		"broken schema": {
			map[string]string{"config.json": `{"t":{"schema":"s.json"}}`, "s.json": "{\n\"type\" 1}"},
			`schema "s.json": s.json:2:8: invalid character`,
		},
		"not a schema": {
			map[string]string{"config.json": `{"t":{"schema":"s.json"}}`, "s.json": `{"properties":{"a":{"type":"text"}}}`},
			`/properties/a/type is wrong`,
		},
		"bad pattern":     {map[string]string{"config.json": `{"t":{"schema":"s.json"}}`, "s.json": `{"pattern":"("}`}, `regex`},
		"absolute schema": {map[string]string{"config.json": `{"t":{"schema":"` + outside + `/secret.json"}}`}, "must be in the directory"},
		"escaping schema": {map[string]string{"config.json": `{"t":{"schema":"../secret.json"}}`}, "must be in the directory"},
		"escaping $ref": {map[string]string{
			"config.json": `{"t":{"schema":"s.json"}}`,
			"s.json":      `{"$ref":"../../../../../../etc/passwd"}`,
		}, "load etc/passwd"},
		"file $ref": {
			map[string]string{"config.json": `{"t":{"schema":"s.json"}}`, "s.json": `{"$ref":"file:///etc/passwd"}`},
			"nothing is fetched from elsewhere",
		},
		"network $ref": {
			map[string]string{"config.json": `{"t":{"schema":"s.json"}}`, "s.json": `{"$ref":"http://127.0.0.1:1/x"}`},
			"nothing is fetched from elsewhere",
		},
		"broken template": {
			map[string]string{"config.json": `{"t":{"schema":"s.json","path":"{{.id"}}`, "s.json": `{}`},
			`table "t": path: template: t:1`,
		},
		"unknown field": {
			map[string]string{"config.json": `{"t":{"schema":"s.json","path":"{{.mvcctimestamp}}"}}`, "s.json": `{}`},
			`did you mean "mvccTimestamp"?`,
		},
		"hidden field": {map[string]string{"config.json": `{"t":{"schema":"s.json","path":"{{with .after}}{{range .}}{{if (eq $.idd ` +
			`.)}}{{end}}{{end}}{{end}}"}}`, "s.json": `{}`}, `".idd"`},
		"two problems": {
			map[string]string{"config.json": `{"t":{"schema":"s.json","path":"{{.x}}"},"u":{}}`, "s.json": `{}`},
			"table \"u\": it names no",
		},
	} {
		_, err := rules.Load(directory(t, c.files))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want one with %q", name, err, c.want)
		}
	}
}

func TestLoad_FollowsNoLinkOutOfTheDirectory(t *testing.T) {
	dir := directory(t, map[string]string{"config.json": `{"t":{"schema":"s.json"}}`})
	outside := directory(t, map[string]string{"secret.json": "{}"})
	if err := os.Symlink(filepath.Join(outside, "secret.json"), filepath.Join(dir, "s.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Load(dir); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("got %v", err)
	}
}

func TestCheck_HostileChangesOnlyFail(t *testing.T) {
	r := load(t, map[string]string{
		"config.json": `{"t":{"schema":"s.json"}}`,
		"s.json":      `{"properties":{"after":{"properties":{"n":{"minimum":1,"multipleOf":0.01}}}}}`,
	})
	for name, after := range map[string]string{
		"vast number": `{"n":1e99999999}`,
		"tiny number": `{"n":1e-99999999}`,
		"deep":        `{"n":` + strings.Repeat("[", 9990) + strings.Repeat("]", 9990) + `}`,
	} {
		e := event(t, `{"table":"t","operation":"INSERT","after":`+after+`}`)
		got := check(r, e)
		if name == "deep" {
			if got.Skip && !strings.Contains(got.Reason, "nested") {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if !got.Skip || got.Reason == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestCheck_IsSafeForConcurrentUse(t *testing.T) {
	r := load(t, map[string]string{
		"config.json": `{"order":{"schema":"order.json","path":"` + orderPath + `"}}`,
		"order.json":  orderSchema,
	})
	e := event(t, `{"table":"order","operation":"INSERT","id":"e1","mvccTimestamp":"1","after":{"total":1}}`)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if got := check(r, e); got != (checkResult{Object: "order/received/order_1_e1.json"}) {
					t.Errorf("%+v", got)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkCheck(b *testing.B) {
	r := load(b, map[string]string{
		"config.json": `{"order":{"schema":"order.json","path":"` + orderPath + `"}}`,
		"order.json":  orderSchema,
	})
	row := `"total":5`
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		row += `,"` + string(c) + `":"some text of a column","` + string(c) + `_n":123.45`
	}
	e := event(b, `{"table":"order","operation":"INSERT","id":"e1","mvccTimestamp":"1","after":{`+row+`}}`)
	b.SetBytes(int64(len(e.Payload)))
	b.ReportAllocs()
	for b.Loop() {
		if skip, reason, _ := r.Check(e); skip {
			b.Fatal(reason)
		}
	}
}
