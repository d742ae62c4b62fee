package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/state"
)

// export makes HQ export tables, all by default, and returns the id of the finished job.
func (w *world) export(tables ...string) string {
	w.t.Helper()
	key, err := hq.ParseKey(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	client := hq.New(hq.Options{BaseURL: w.hq.APIURL(), Key: key})
	defer client.Close()
	job, err := client.StartExport(w.t.Context(), hq.ExportRequest{Tables: tables})
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the export is complete", func() bool {
		export, err := client.ExportStatus(w.t.Context(), job)
		if err != nil {
			w.t.Fatal(err)
		}
		return export.Completed
	}, func() string { return job })
	return job
}

// TestImport_OfAnOldExportIsBroughtForward imports a table from an export that is older
// than the position.
func TestImport_OfAnOldExportIsBroughtForward(t *testing.T) {
	t.Parallel()
	for name, trimmed := range map[string]bool{"stream kept": false, "stream trimmed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			job := w.export("order")
			w.continues(p, 300)
			p.stop()
			if trimmed {
				w.trim()
			}
			w.imports("--only", "order", "--job-id", job)
			if trimmed {
				p = w.serve("--heal", "off")
				eventually(t, "the server reports the gap", func() bool {
					_, report := p.health()
					order := report.Tables["order"]
					return order.State == "incomplete" && order.Gap != "" && order.Command == "eds import --only order"
				}, p.output)
				p.stop()
				w.imports("--only", "order")
			}
			p = w.serve()
			w.continues(p, 20)
			p.stop()
			w.equal()
		})
	}
}

// age makes an unfinished import look older.
func (w *world) age(by time.Duration) {
	w.t.Helper()
	dir, err := state.Open(w.data)
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	unfinished, ok, err := dir.Import()
	if err != nil || !ok || len(unfinished.Jobs) == 0 {
		w.t.Fatalf("there is no unfinished import: %+v, %v", unfinished, err)
	}
	for i := range unfinished.Jobs {
		unfinished.Jobs[i].Started = unfinished.Jobs[i].Started.Add(-by)
	}
	if err := dir.RecordJobs(unfinished.Jobs); err != nil {
		w.t.Fatal(err)
	}
}

// TestImport_ResumedDaysLaterIsBroughtForward interrupts an import. Meanwhile the stream may drop
// changes after the export.
func TestImport_ResumedDaysLaterIsBroughtForward(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]struct{ runs, trimmed bool }{
		"server down":                    {},
		"server down, stream trimmed":    {trimmed: true},
		"server running":                 {runs: true},
		"server running, stream trimmed": {runs: true, trimmed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			p.stop()
			w.killedImport(requests(http.MethodGet, "/storage/exports/"), 5)
			w.age(3 * 24 * time.Hour)
			if o.runs {
				p = w.serve()
				w.continues(p, 300)
				p.stop()
			} else {
				w.work(300)
			}
			if o.trimmed {
				w.trim()
			}
			w.imports()
			p = w.serve()
			if w.asksForImport(p) { // of an export of its own
				p.kill()
				w.imports()
				p = w.serve()
			}
			w.continues(p, 20)
			p.stop()
			w.equal()
			if t.Failed() {
				t.Logf("the server says:\n%s", p.warnings())
			}
		})
	}
}

// asksForImport waits until a server follows the stream, or reports a gap.
func (w *world) asksForImport(p *process) (asks bool) {
	w.t.Helper()
	eventually(w.t, "the server follows the stream or reports a gap", func() bool {
		code, body := p.get("")
		asks = strings.Contains(body, "run eds import")
		c := w.consumer()
		return asks || code == http.StatusOK && c != nil && c.NumWaiting > 0
	}, p.output)
	return asks
}

// TestImport_KilledAtAnyStepLosesNothing kills an import at each of its requests to HQ. After each,
// the server continues; at the end the import runs again.
func TestImport_KilledAtAnyStepLosesNothing(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	files := requests(http.MethodGet, "/storage/exports/")
	for _, step := range []struct {
		name string
		at   func(*http.Request) bool
		n    int
	}{
		{"before the export is ordered", requests(http.MethodPost, "/v3/export/bulk"), 1},
		{"after the export is ordered", requests(http.MethodGet, "/v3/export/bulk/"), 1},
		{"at the first file", files, 1},
		{"at the fourth file", files, 4},
		{"at a later file", files, 3},
	} {
		t.Run(step.name, func(t *testing.T) {
			w := w.in(t)
			w.killedImport(step.at, step.n)
			w.work(50)
			p := w.serve()
			w.continues(p, 20)
			p.stop()
			w.equal()
		})
	}
	t.Run("as a table is put in place", func(t *testing.T) {
		w := w.in(t)
		w.killedAtPlace(d)
		w.work(50)
		p := w.serve()
		w.continues(p, 20)
		p.stop()
		w.equal()
	})
	w.imports()
	p := w.serve()
	w.continues(p, 20)
	w.quiet(p)
	p.stop()
	w.equal()
	if stages := d.stages(); stages != "" {
		t.Errorf("%s are left", stages)
	}
}

// killedAtPlace kills an import that waits for a table's lock to put its rows in place. Its session
// stays in the database until the lock is released.
func (w *world) killedAtPlace(d *database) {
	w.t.Helper()
	defer d.lock(`LOCK TABLE "order" IN ACCESS SHARE MODE`)()
	p := w.importing()
	eventually(w.t, "the import waits for the lock", func() bool {
		return d.query(`SELECT count(*) > 0 FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) == "true"
	}, p.output)
	p.kill()
}

// TestImport_ClosesAGapAlthoughATableHasLeft removes an imported table from the schema.
func TestImport_ClosesAGapAlthoughATableHasLeft(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]bool{"same data directory": false, "new data directory": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t)
			w := newWorld(t, d.url, devhq.Options{})
			w.imports()
			p := w.serve()
			w.continues(p, 100)
			p.stop()
			w.drop("purchase_order")
			w.work(100)
			w.trim()
			w.gap(w.serve(), "eds import")
			importer := w
			if fresh {
				importer = w.from(t.TempDir())
			}
			importer.imports()
			for range 2 {
				p = w.serve()
				w.continues(p, 20)
				p.stop()
			}
			w.equal()
		})
	}
}

// drop removes a table from the schema and the exports of HQ.
func (w *world) drop(table string) {
	w.t.Helper()
	object := ""
	for name, text := range w.hq.Shop().LatestSchemas() {
		t, err := schema.Decode(text)
		if err != nil {
			w.t.Fatal(err)
		}
		if t.Name == table {
			object = name
		}
	}
	if object == "" {
		w.t.Fatalf("there is no table %s", table)
	}
	w.dropped = table
	w.hq.Disturb(func(r *http.Request) devhq.Fault {
		switch {
		case r.URL.Path == "/v3/schema":
			return edited(func(answer map[string]any) { delete(answer, object) })
		case requests(http.MethodGet, "/v3/export/bulk/")(r):
			return edited(func(answer map[string]any) {
				data, _ := answer["data"].(map[string]any)
				tables, _ := data["tables"].(map[string]any)
				delete(tables, table)
			})
		}
		return nil
	})
}

// edited changes a response of HQ.
func edited(change func(answer map[string]any)) devhq.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			answer, all := httptest.NewRecorder(), make(map[string]any)
			next.ServeHTTP(answer, r)
			if err := json.Unmarshal(answer.Body.Bytes(), &all); err != nil {
				http.Error(rw, fmt.Sprintf("read the answer: %v", err), http.StatusInternalServerError)
				return
			}
			change(all)
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(answer.Code)
			_ = json.NewEncoder(rw).Encode(all)
		})
	}
}
