package hq_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

// TestSchema_DistinguishesDenialsFromFailures: the field listed is the status of a request for all
// schemas, which shows whether a 403 is about the key.
func TestSchema_DistinguishesDenialsFromFailures(t *testing.T) {
	for name, c := range map[string]struct {
		status, listed int
		body           string
		want           fault.Class
	}{
		"bad request":            {400, 200, ``, fault.Poison},
		"not found":              {404, 200, `{"success":false,"message":"no such version"}`, fault.Poison},
		"gone":                   {410, 200, ``, fault.Poison},
		"unprocessable":          {422, 200, ``, fault.Poison},
		"refused in an envelope": {200, 200, `{"success":false,"message":"no such version"}`, fault.Poison},
		"forbidden":              {403, 200, ``, fault.Poison},
		"forbidden, as the rest": {403, 403, ``, fault.Fatal},
		"forbidden, then down":   {403, 500, ``, fault.Transient},
		"unauthorized":           {401, 401, ``, fault.Fatal},
		"not found, by a proxy":  {404, 404, `default backend - 404`, fault.Transient},
		"gone, by a proxy":       {410, 502, `<html>`, fault.Transient},
		"not found, then down":   {404, 500, ``, fault.Transient},
		"no message, but HQ's":   {404, 200, `{"success":false}`, fault.Poison},
		"server error":           {500, 200, ``, fault.Transient},
		"unavailable":            {503, 200, ``, fault.Transient},
		"throttled":              {429, 200, ``, fault.Transient},
		"a proxy's page":         {200, 200, `<html>`, fault.Transient},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{t: t, answer: func(_ int, w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/v3/schema") {
					w.WriteHeader(c.listed)
					_, _ = io.WriteString(w, `{}`)
					return
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}}
			text, err := f.client(hq.Key{}).Schema(t.Context(), "order", "v9")
			if err == nil || text != nil || fault.Of(err) != c.want {
				t.Errorf("%s: %s, %v is %v, want %v", name, text, err, fault.Of(err), c.want)
			}
		})
	}
}
