package e2e_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// TestTable_UnknownToHQ mixes changes of 500 tables that HQ does not know, and invalid messages,
// with other changes. One consumer reads all of these tables.
func TestTable_UnknownToHQ(t *testing.T) {
	t.Parallel()
	const unknown, garbage = 500, 150
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 50)
	for i := range unknown {
		table := fmt.Sprintf("unknown_%d", i)
		w.publish(table, "INSERT", map[string]any{
			"operation": "INSERT", "table": table, "id": table, "key": []string{"1"}, "modelVersion": "m1",
			"after": map[string]any{"id": "1"}, "mvccTimestamp": clock(),
		})
		if i < garbage {
			w.publish("customer", "INSERT", nil)
		}
	}
	w.work(100)
	w.drain(p)
	behind := func() string {
		return d.query(`SELECT count(*)::text FROM _eds_table WHERE kind = 'table' AND state = 'behind' AND cause = 'schema denied'`)
	}
	eventually(t, "the tables are recorded as behind", func() bool { return behind() == fmt.Sprint(unknown) },
		func() string { return behind() + "\n" + p.output() })
	healthy := func(lanes int) {
		t.Helper()
		if code, report := p.health(); code != http.StatusOK || len(report.Tables) == 0 {
			t.Errorf("health is %d, with %d tables: %v", code, len(report.Tables), report.Reasons)
		}
		var consumers []string
		eventually(t, fmt.Sprintf("there are at most %d lanes", lanes), func() bool {
			all, _ := w.hq.Consumers(t.Context())
			consumers = slices.Collect(maps.Keys(all))
			n := len(slices.DeleteFunc(slices.Clone(consumers), func(name string) bool {
				return !strings.HasPrefix(name, "eds-lane-") || strings.Contains(name, "-probe-")
			}))
			return 0 < n && n <= lanes
		}, func() string { return fmt.Sprintf("%q", consumers) })
	}
	healthy(1)
	p.kill()
	w.work(100)
	p = w.serve()
	w.follows(p)
	w.work(100)
	w.drain(p)
	healthy(2) // NATS keeps the consumer of the killed worker for some minutes
	if n := behind(); n != fmt.Sprint(unknown) {
		t.Errorf("after a crash %s tables are behind", n)
	}
	if stdout, stderr, code := w.eds("status", "--data-dir", w.data); code != 0 || !strings.Contains(stdout, "unknown_") {
		t.Errorf("status ends with %d:\n%s%s", code, stdout, stderr)
	}
	p.stop()
	w.equal()
	list, _, _ := w.eds("dlq", "list", "--data-dir", w.data)
	if n := strings.Count(list, "\n"); n < garbage {
		t.Errorf("%d lines of dead letters:\n%s", n, list)
	}
}
