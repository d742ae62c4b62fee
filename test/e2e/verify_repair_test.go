package e2e_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

var importDone = regexp.MustCompile(`(?m)^ *(\w+) .* done *$`)

// TestVerify_Repair changes, deletes and adds rows by hand. The repair imports these tables and no
// others, beside a running server and without one.
func TestVerify_Repair(t *testing.T) {
	t.Parallel()
	for name, running := range map[string]bool{"beside a server": true, "without a server": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 200)
			w.drain(p)
			if !running {
				p.stop()
			}
			d.execute(`
				UPDATE customer SET "updatedDate" = '2001-02-03T04:05:06Z' WHERE id = (SELECT min(id) FROM customer);
				DELETE FROM "order" WHERE id = (SELECT min(id) FROM "order");
				CREATE TEMP TABLE added AS SELECT * FROM vendor LIMIT 1; UPDATE added SET id = 'added';
				INSERT INTO vendor SELECT * FROM added`)
			stdout, stderr, code := w.eds("verify", "--data-dir", w.data, "--url", w.url, "--repair", "--no-confirm")
			if code != 0 || !strings.HasSuffix(stdout, " tables are equal.\n") {
				t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
			}
			var tables []string
			for _, m := range importDone.FindAllStringSubmatch(stdout, -1) {
				tables = append(tables, m[1])
			}
			if diff := cmp.Diff([]string{"customer", "order", "vendor"}, tables); diff != "" {
				t.Errorf("the tables that were imported: %s\n%s", diff, stdout)
			}
			if !running {
				p = w.serve()
			}
			w.continues(p, 100)
			w.drain(p)
			d.joined(p)
			p.stop()
			w.equal()
		})
	}
}
