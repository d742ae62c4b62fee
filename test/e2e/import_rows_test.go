package e2e_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// exports appends lines to each export file of a table.
func (w *world) exports(table, lines string) {
	w.t.Helper()
	w.hq.Disturb(func(r *http.Request) devhq.Fault {
		if !strings.HasPrefix(r.URL.Path, "/storage/exports/") || !strings.Contains(r.URL.Path, "-"+table+"-") {
			return nil
		}
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				recorded := httptest.NewRecorder()
				next.ServeHTTP(recorded, r)
				text, err := gzip.NewReader(recorded.Body)
				if err != nil {
					w.t.Error(err)
					return
				}
				var body bytes.Buffer
				z := gzip.NewWriter(&body)
				_, err = io.Copy(z, io.MultiReader(text, strings.NewReader(lines)))
				if err != nil || z.Close() != nil {
					w.t.Errorf("write an export file: %v", err)
				}
				_, _ = rw.Write(body.Bytes())
			})
		}
	})
}

// importEnds runs "eds import" and returns its output and exit code.
func (w *world) importEnds(args ...string) (out string, code int) {
	w.t.Helper()
	stdout, stderr, code := w.eds(append([]string{"import", "--data-dir", w.data, "--url", w.url, "--no-confirm"}, args...)...)
	return stdout + stderr, code
}

// letters returns the output of "eds dlq list".
func (w *world) letters() string {
	w.t.Helper()
	out, stderr, code := w.eds("dlq", "list", "--data-dir", w.data)
	if code != 0 {
		w.t.Fatalf("dlq list ended with %d\n%s", code, stderr)
	}
	return out
}

// TestImport_LeavesRowsOutThatCannotBeLoaded imports a row with a bad date and a row that a user's
// constraint refuses: with the command, and with the server.
func TestImport_LeavesRowsOutThatCannotBeLoaded(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	before := d.query("SELECT count(*) FROM customer")
	d.execute("ALTER TABLE customer ADD CONSTRAINT liked CHECK (id <> 'disliked')")
	w.exports("customer", `{"id":"undated","createdDate":"soon"}`+"\n"+`{"id":"disliked"}`+"\n")

	said := regexp.MustCompile(`(?m)^ *customer .* done, 2 rows refused *$`)
	expect := func(how, out string, code int) {
		t.Helper()
		if code != 1 || !said.MatchString(out) || !strings.Contains(out, "eds: 2 rows could not be loaded; the tables have all "+
			"others; see: eds dlq list") {
			t.Errorf("the import %s ends with %d\n%s", how, code, out)
		}
		letters := w.letters()
		for _, want := range []string{` waiting .* customer +undated +INSERT +import +file \S+-customer-\S+, line \d+: ` +
			`.*customer\.createdDate`, ` waiting .* customer +disliked +INSERT +import +file \S+-customer-\S+, line \d+: ` +
			`.*constraint "liked"`} {
			if !regexp.MustCompile(want).MatchString(letters) {
				t.Errorf("the dead letters after the import %s lack %s\n%s", how, want, letters)
			}
		}
		if n := strings.Count(letters, "\n"); n != 3 {
			t.Errorf("there are %d dead letters after the import %s\n%s", n-1, how, letters)
		}
		if now := d.query("SELECT count(*) FROM customer"); now != before {
			t.Errorf("the import %s has put %s rows in place, want %s", how, now, before)
		}
	}
	out, code := w.importEnds()
	expect("of all tables", out, code)
	out, code = w.importEnds("--only", "customer")
	expect("again", out, code)
	d.execute("UPDATE customer SET id = 'kept' WHERE id = (SELECT min(id) FROM customer)")
	if out, code = w.importEnds("--only", "customer", "--strict"); code != 1 ||
		!regexp.MustCompile(`(?m)^ *customer .* failed *$`).MatchString(out) || !w.has("customer", "kept") {
		t.Errorf("the strict import ends with %d, or has replaced the rows\n%s", code, out)
	}

	p := w.serve()
	w.complete(p)
	out, code = w.importEnds("--only", "customer")
	expect("beside the server", out, code)
	if out, code = w.importEnds("--only", "customer", "--strict"); code != 1 || !strings.Contains(out, "customer-") ||
		strings.Contains(out, "rows refused") {
		t.Errorf("the strict import beside the server ends with %d\n%s", code, out)
	}
	p.stop()

	d.execute("ALTER TABLE customer DROP CONSTRAINT liked")
	out, _, code = w.eds("dlq", "replay", "--data-dir", w.data, "--url", w.url)
	if want := "1 applied, 1 rejected again, 0 superseded\n"; code != 1 || out != want || !w.has("customer", "disliked") {
		t.Errorf("the replay ends with %d\n%s", code, out)
	}
	w.hq.Disturb(nil)
	w.imports()
	w.equal()
	if letters := w.letters(); letters != "The dead-letter queue is empty.\n" {
		t.Errorf("after an import of all rows there are dead letters\n%s", letters)
	}
}
