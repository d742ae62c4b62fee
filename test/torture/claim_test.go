package torture

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestReadClaim(t *testing.T) {
	const gap = "open the stream: the stream no longer has messages 243 to 315; changes since 2026-11-29T21:18:03Z are missing: " +
		"import again"
	for name, test := range map[string]struct {
		text string
		want Claim
	}{
		"status, healthy": {
			`{"version":"1","health":{"status":"ok","reasons":[]},"state":"running","tables":{"order":{"inserts":1,"updates":2,` +
				`"deletes":0}}}`,
			Claim{Running: true},
		},
		"status, starting": {`{"health":{"status":"starting","reasons":[]},"state":"starting","tables":{}}`, Claim{}},
		"status, a gap": {
			`{"health":{"status":"unhealthy","reasons":[{"condition":"stream","message":"` + gap + `"}]},"state":"unhealthy","tables":{}}`,
			Claim{Whole: &Remedy{"stream: " + gap, "eds import"}},
		},
		"status, a gap of some tables": {
			`{"health":{"status":"unhealthy","reasons":[{"condition":"stream","message":"changes may be missing: run eds import ` +
				`--only order,part"}]},"state":"unhealthy","tables":{"order":{"inserts":1}}}`,
			Claim{Tables: map[string]Remedy{
				"order": {"stream: changes may be missing: run eds import --only order,part", "eds import --only order,part"},
				"part":  {"stream: changes may be missing: run eds import --only order,part", "eds import --only order,part"},
			}},
		},
		"status, unverified": {
			`{"health":{"status":"ok","reasons":[],"warnings":[{"condition":"continuity","message":"the stream is young"},` +
				`{"condition":"tls","message":"no TLS"}]},"state":"running","tables":{}}`,
			Claim{Running: true, Unverified: "the stream is young"},
		},
		"status, an outage": {
			`{"health":{"status":"unhealthy","reasons":[{"condition":"destination","message":"connection refused"}]},` +
				`"state":"waiting","tables":{}}`,
			Claim{Alarms: []string{"destination: connection refused"}},
		},
		"status, states of tables": {
			`{"health":{"status":"unhealthy","reasons":[{"condition":"tables","message":"2 tables are not complete; run eds status"}]},
			"state":"running","tables":{
				"order":{"state":"missing","reason":"it was dropped","command":"eds import --only order"},
				"part":{"state":"incomplete","reason":"messages 5 to 9 are gone","command":"eds import --only part"},
				"labor":{"state":"behind","reason":"schema denied"},
				"user":{"state":"unverified"},
				"customer":{"state":"ok"}}}`,
			Claim{Running: true, Alarms: []string{"tables: 2 tables are not complete; run eds status"}, Tables: map[string]Remedy{
				"order": {"missing: it was dropped", "eds import --only order"},
				"part":  {"incomplete: messages 5 to 9 are gone", "eds import --only part"},
				"labor": {"behind: schema denied", ""},
			}},
		},
		"health, healthy": {`{"status":"ok","reasons":[]}`, Claim{Running: true}},
		"health, a gap": {
			`{"status":"unhealthy","reasons":[{"condition":"stream","message":"` + gap + `"}]}`,
			Claim{Whole: &Remedy{"stream: " + gap, "eds import"}},
		},
		"health, tables": {
			`{"status":"ok","reasons":[],"tables":{"order":{"state":"missing","reason":"it was dropped","command":"eds import ` +
				`--only order"}}}`,
			Claim{Running: true, Tables: map[string]Remedy{"order": {"missing: it was dropped", "eds import --only order"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ReadClaim([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if c, err := ReadClaim([]byte("404 page not found")); err == nil {
		t.Errorf("text that is not JSON was read as %v", c)
	}
}

func TestReadLog_ReturnsTheLastError(t *testing.T) {
	got := ReadLog(`{"level":"ERROR","msg":"old","error":"x"}
not JSON
{"level":"ERROR","msg":"eds stops","error":"the stream was recreated; changes may be missing: import again"}
{"level":"INFO","msg":"the worker ends"}
`)
	want := Claim{Whole: &Remedy{
		"the server has exited: eds stops: the stream was recreated; changes may be missing: import again",
		"eds import",
	}}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	if got := ReadLog(""); got.Silent() {
		t.Error("a server that exited without an error is silent")
	}
}

func TestCommandIn(t *testing.T) {
	for message, want := range map[string]string{
		"changes are missing: import again":                              "eds import",
		"run eds import --only order,customer to bring them back":        "eds import --only order,customer",
		"run: eds import --companyIds a1b2 --no-delete.":                 "eds import --companyIds a1b2 --no-delete",
		"accept it with: eds accept-gap 7f3 --table order; or import it": "eds accept-gap 7f3 --table order",
		"connection refused":    "",
		"the importance of eds": "",
	} {
		if got := commandIn(message); got != want {
			t.Errorf("%q asks for %q, want %q", message, got, want)
		}
	}
}
