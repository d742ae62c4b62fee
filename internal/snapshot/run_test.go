package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

// inWorld runs f in a bubble with a world of three tables: order has three files, customer one, and
// vendor none.
func inWorld(t *testing.T, f func(t *testing.T, w *world, d *destination)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w, d := newWorld(t, root, "order", "customer", "vendor"), newDestination(t, root)
		w.put("order", rowsOf(0, 100), rowsOf(100, 100), rowsOf(200, 5))
		w.put("customer", rowsOf(0, 3))
		for table, rows := range map[string][]string{"order": {"old"}, "customer": {"old"}, "vendor": nil} {
			if err := d.setLive(table, rows); err != nil {
				t.Fatal(err)
			}
		}
		f(t, w, d)
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
}

// hangs makes the first call of an operation on a table hang for the given time.
func (d *destination) hangs(operation, table string, long time.Duration) {
	d.hang = sync.OnceFunc(func() { time.Sleep(long) })
	d.hanging = [2]string{operation, table}
}

// everyRow has the rows of the destination after a complete import.
var everyRow = map[string][]string{"order": rows(0, 205), "customer": rows(0, 3), "vendor": {}}

// oneOfThree is the start of the error message if one of the three tables was not imported.
const oneOfThree = "1 of 3 tables were not imported: "

// everyClock has the clocks in the data directory after a complete import.
var everyClock = map[string]cdc.Timestamp{"order": at(3), "customer": at(1), "vendor": {Wall: at(59).Wall}}

// expect compares the live tables with want.
func expect(t *testing.T, d *destination, want map[string][]string) {
	t.Helper()
	got := make(map[string][]string)
	for table := range want {
		got[table] = d.live(table)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("live tables: %.2000s", diff)
	}
}

// TestRun_KeepsTablesWithoutRowsInTheExport, and imports the others. The import has ended, so the next
// one does not resume it.
func TestRun_KeepsTablesWithoutRowsInTheExport(t *testing.T) {
	const reason = "the snapshot has no rows for the table, but the table has some; they are kept; " +
		"to empty the table, run: eds import --only vendor --allow-empty"
	for name, change := range map[string]func(c *snapshot.Config){
		"all tables": func(*snapshot.Config) {},
		"by name":    func(c *snapshot.Config) { c.Only = []string{"vendor", "order"} },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				w.put("vendor", "", "\n")
				old := map[string][]string{"vendor": {"old"}, "order": rows(0, 205)}
				if err := d.setLive("vendor", []string{"old"}); err != nil {
					t.Fatal(err)
				}
				for range 2 { // the second is another import
					report, err := w.run(t.Context(), d, change)
					want := fmt.Sprintf("1 of %d tables were not imported: vendor: "+reason, len(report.Tables))
					if err == nil || err.Error() != want {
						t.Errorf("got %v\nwant %s", err, want)
					}
					failed := new(snapshot.TablesError)
					if !errors.As(err, &failed) || !failed.Final() || !failed.Failed[0].Kept || report.Plan.Resumed {
						t.Errorf("final %v, resumed %v", failed.Final(), report.Plan.Resumed)
					}
					expect(t, d, old)
					clocks, underWay := w.clocks()
					if _, ok := clocks["vendor"]; ok || underWay {
						t.Errorf("under way: %v, clocks: %v", underWay, clocks)
					}
					if n := d.staged("vendor"); n != 0 {
						t.Errorf("%d files are left at the destination", n)
					}
				}
				if len(w.requests) != 2 {
					t.Errorf("%d exports", len(w.requests))
				}
				if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { change(c); c.AllowEmpty = true }); err != nil {
					t.Fatal(err)
				}
				old["vendor"] = []string{}
				expect(t, d, old)
			})
		})
	}
}

// TestRun_ReportsTablesWithReservedNames, and imports the others once.
func TestRun_ReportsTablesWithReservedNames(t *testing.T) {
	for _, only := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			reserved := &schema.MalformedError{Objects: map[string]error{
				"checkpoint": fmt.Errorf("table %q: %w", "_eds_checkpoint", schema.ErrReserved), "odd": errors.New("it has no key"),
			}}
			for range 2 {
				report, err := w.run(
					t.Context(), d, func(c *snapshot.Config) { c.Schemas, c.SchemaOnly = latest{w.tables, reserved}, only },
				)
				const want = "1 of 4 tables were not imported: checkpoint: table \"_eds_checkpoint\": " +
					"names that begin with _eds_ are reserved for eds"
				if err == nil || err.Error() != want {
					t.Errorf("got %v", err)
				}
				if len(report.Tables) != 4 || report.Plan.Resumed {
					t.Errorf("%d tables, resumed: %v", len(report.Tables), report.Plan.Resumed)
				}
				if _, underWay := w.clocks(); underWay {
					t.Error("the import is not ended")
				}
			}
			if !only {
				expect(t, d, everyRow)
			}
			w.states(func(dir *state.Dir) error {
				all, err := dir.Snapshots(named("disk://" + d.root))
				for table, s := range all { // else a gap in the stream could never be closed
					if !s.Whole {
						t.Errorf("the snapshot of %s is not of an import of every table", table)
					}
				}
				return err
			})
		})
	}
}

// latest is a schema source that returns both tables and an error.
type latest struct {
	tables map[string]*schema.Table
	err    error
}

func (l latest) Latest(context.Context) (map[string]*schema.Table, error) { return l.tables, l.err }

func TestImport_GoesOnWithoutTheTablesThatItKeeps(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		if err := d.setLive("vendor", []string{"old"}); err != nil {
			t.Fatal(err)
		}
		w.files[fileName("order", 2)] = []byte("damaged")
		_, err := w.run(t.Context(), d, nil)
		if failed := new(snapshot.TablesError); !errors.As(err, &failed) || len(failed.Failed) != 2 || failed.Final() {
			t.Errorf("got %v", err)
		}
		w.put("order", rowsOf(0, 100), rowsOf(100, 100), rowsOf(200, 5))
		report, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.AllowEmpty = true })
		if err != nil || !report.Plan.Resumed || len(w.requests) != 1 {
			t.Errorf("resumed %v, %d exports, error %v", report.Plan.Resumed, len(w.requests), err)
		}
		expect(t, d, everyRow)
	})
}

func TestRun_ReplacesTheTables(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		report, err := w.run(t.Context(), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		clocks, underWay := w.clocks()
		if diff := cmp.Diff(everyClock, clocks); diff != "" || underWay {
			t.Errorf("under way: %v, clocks: %s", underWay, diff)
		}
		if diff := cmp.Diff([]string{"customer", "order", "vendor"}, d.migrated); diff != "" {
			t.Error(diff)
		}
		want := []snapshot.TableReport{
			{Table: "customer", Rows: 3, Files: 1, Clock: at(1)},
			{Table: "order", Rows: 205, Files: 3, Clock: at(3)},
			{Table: "vendor", Clock: cdc.Timestamp{Wall: at(59).Wall}},
		}
		if diff := cmp.Diff(want, report.Tables, cmpopts.IgnoreFields(snapshot.TableReport{}, "Bytes")); diff != "" || report.Rows != 208 {
			t.Errorf("%d rows, %s", report.Rows, diff)
		}
		if left, err := os.ReadDir(w.root + "/data/import"); err != nil || len(left) > 0 {
			t.Errorf("%v, %v is left", err, left)
		}
		if diff := cmp.Diff([]hq.ExportRequest{{}}, w.requests); diff != "" {
			t.Error(diff)
		}
		for n := 1; n <= 3; n++ {
			if got := d.clocks[fileName("order", n)]; got != at(n) {
				t.Errorf("rows of file %d are of %v", n, got)
			}
		}
	})
}

func TestProgress_AddsUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		report, err := w.run(t.Context(), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := snapshot.Totals{Tables: 3, Done: 3, Rows: 208, Bytes: report.Bytes, Downloaded: report.Bytes, TotalBytes: report.Bytes}
		if diff := cmp.Diff(want, w.totals); diff != "" || report.Bytes == 0 {
			t.Error(diff)
		}
		for i, n := range w.counts {
			if n != 3 {
				t.Fatalf("%d tables are counted, want 3 (progress %d)", n, i)
			}
		}
		phases, last := "", snapshot.TableProgress{}
		for _, p := range w.events {
			if p.Table != "order" {
				continue
			}
			if p.Phase != last.Phase {
				phases += p.Phase.String() + " "
			}
			if p.Rows < last.Rows || p.Bytes < last.Bytes || p.Files < last.Files || p.Downloaded < last.Downloaded {
				t.Errorf("%+v after %+v", p, last)
			}
			last = p
		}
		if phases != "waiting queued loading finishing done " || last.Rows != 205 ||
			last.Files != 3 || last.TotalFiles != 3 || last.Bytes != last.TotalBytes {
			t.Errorf("%s, at the end %+v", phases, last)
		}
	})
}

func TestRun_LoadsTablesWhileOthersAreExported(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		var asked []time.Time
		w.status = func(_ string, n int) (hq.Export, error) {
			asked = append(asked, time.Now())
			e := w.everything()
			e.Completed = n >= 12
			switch {
			case n < 3:
				e.Tables = nil
			case n < 6:
				e.Tables["order"] = hq.ExportTable{Status: hq.ExportPending}
				delete(e.Tables, "vendor")
			case n < 12:
				if n == 11 && !cmp.Equal(d.live("order"), everyRow["order"]) {
					t.Error("order is ready but not loaded")
				}
				e.Tables["vendor"] = hq.ExportTable{Status: "pending"}
			}
			return e, nil
		}
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		if last := asked[11].Sub(asked[10]); last < 7*time.Second || last > 15*time.Second {
			t.Errorf("the last wait was %v", last)
		}
		if first := asked[1].Sub(asked[0]); first > time.Second {
			t.Errorf("the first wait was %v", first)
		}
	})
}

func TestRun_BoundsTheTablesThatLoadAtOnce(t *testing.T) {
	for _, parallel := range []int{1, 2} {
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			var mu sync.Mutex
			now, most := 0, 0
			d.fail = func(operation, _, _ string) error {
				mu.Lock()
				defer mu.Unlock()
				switch operation {
				case "begin":
					now++
					most = max(most, now)
				case "close":
					now--
				}
				return nil
			}
			if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Parallel = parallel }); err != nil {
				t.Fatal(err)
			}
			if most > parallel {
				t.Errorf("%d tables at once, want at most %d", most, parallel)
			}
		})
	}
}

func TestRun_FailsOnlyTheTableThatTheDestinationRefuses(t *testing.T) {
	refuse := func(_, table, _ string) error {
		if table == "order" {
			return fault.Mark(fault.Fatal, errors.New("a view is in the way"))
		}
		return nil
	}
	const want = "1 of 3 tables were not imported: order: make the tables: a view is in the way"
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.fail = refuse
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.SchemaOnly = true }); err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		if clocks, _ := w.clocks(); len(clocks) != 2 {
			t.Errorf("clocks: %v", clocks)
		}
		if _, err := w.run(t.Context(), d, nil); err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
		d.fail = nil
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		d.fail = func(string, string, string) error { return fault.Mark(fault.Fatal, errors.New("permission denied")) }
		if _, err := w.run(t.Context(), d, nil); err == nil || err.Error() != "make the tables: permission denied" {
			t.Errorf("got %v", err)
		}
	})
}

func TestRun_ImportsARequestedJob(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.jobs["given"] = w.everything()
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.JobID = "given" }); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.JobID = "unknown/../job" })
		if err == nil || !strings.HasPrefix(err.Error(), `hq does not have the export "unknown/../job"`) || len(w.requests) > 0 {
			t.Errorf("%v, requests %v", err, w.requests)
		}
	})
}

func TestRun_ReexportsTablesThatHQFailedToExport(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.tables["lost"], w.tables["odd"], w.tables["timeless"] = w.tables["vendor"], w.tables["vendor"], w.tables["vendor"]
		w.export = func(hq.ExportRequest) hq.Export {
			e := w.everything()
			e.Tables["order"] = hq.ExportTable{Status: hq.ExportFailed, Error: "out of memory"}
			e.Tables["vendor"] = hq.ExportTable{Status: hq.ExportPending}
			e.Tables["odd"] = hq.ExportTable{Status: hq.ExportCompleted, URLs: []string{"http://store/SECRET/orders.csv?SECRET"}}
			e.Tables["timeless"] = hq.ExportTable{Status: hq.ExportCompleted}
			e.Tables["secret_table"] = hq.ExportTable{Status: hq.ExportCompleted, Cursor: "1"}
			delete(e.Tables, "lost")
			return e
		}
		report, err := w.run(t.Context(), d, nil)
		got := make(map[string]string)
		for _, r := range report.Tables {
			got[r.Table] = fmt.Sprint(r.Err)
		}
		want := map[string]string{
			"customer": "<nil>", "lost": "<nil>",
			"order":        `export: hq reports "out of memory"`,
			"vendor":       "export: it ended without this table",
			"odd":          `export: the name of export file "orders.csv": does not end in .ndjson.gz`,
			"timeless":     "export: the table has neither files nor a cursor, so its time is unknown",
			"secret_table": "the export has the table, but the schema does not",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		var e *snapshot.TablesError
		if !errors.As(err, &e) || len(e.Failed) != 5 || e.Of != 7 || !strings.HasPrefix(
			err.Error(), "5 of 7 tables were not imported: odd: export: ",
		) {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
		// The next run requests another export of the failed tables only.
		w.export = nil
		delete(w.jobs["job1"].Tables, "secret_table")
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]hq.ExportRequest{{}, {Tables: []string{"odd", "order", "timeless", "vendor"}}}, w.requests); diff != "" {
			t.Error(diff)
		}
		expect(t, d, everyRow)
		if n := w.gets[fileName("customer", 1)]; n != 1 {
			t.Errorf("customer was downloaded %d times", n)
		}
	})
}

func TestRun_FailsARequestedTableThatIsNotExported(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.export = func(hq.ExportRequest) hq.Export { return hq.Export{Completed: true} }
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Only = []string{"vendor"} })
		if err == nil || err.Error() != "1 of 1 table was not imported: vendor: the export does not have it" {
			t.Errorf("got %v", err)
		}
	})
}

func TestRun_WaitsForHQ(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		down := &hq.Error{Operation: "ask for the state of the export", Status: http.StatusServiceUnavailable}
		began := time.Now()
		w.status = func(string, int) (hq.Export, error) {
			if time.Since(began) < 9*time.Minute {
				return hq.Export{}, down
			}
			return w.everything(), nil
		}
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		w.status = func(string, int) (hq.Export, error) { return hq.Export{}, down }
		began = time.Now()
		_, err := w.run(t.Context(), d, nil)
		if !errors.Is(err, down) || time.Since(began) > 10*time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// states opens the data directory and calls f.
func (w *world) states(f func(d *state.Dir) error) {
	w.t.Helper()
	dir := w.open()
	defer dir.Close()
	if err := f(dir); err != nil {
		w.t.Fatal(err)
	}
}

func TestCount_ChoosesSingularOrPlural(t *testing.T) {
	for n, want := range map[int64]string{0: "0 rows", 1: "1 row", 2: "2 rows"} {
		if got := snapshot.Count(n, "row", "rows"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestRun_BeginsAfterTheConfirmation(t *testing.T) {
	for name, schemaOnly := range map[string]bool{"rows": false, "schema only": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				w.status = func(job string, _ int) (hq.Export, error) {
					time.Sleep(time.Second)
					return w.jobs[job], nil
				}
				report, err := w.run(t.Context(), d, func(c *snapshot.Config) {
					c.SchemaOnly = schemaOnly
					c.Confirm = func(snapshot.Plan) error {
						time.Sleep(time.Hour)
						if len(w.events) > 0 {
							t.Errorf("progress before the confirmation: %v", w.events)
						}
						return nil
					}
				})
				if err != nil || report.Elapsed > time.Minute || report.Elapsed == 0 && !schemaOnly {
					t.Errorf("took %v, %v", report.Elapsed, err)
				}
			})
		})
	}
}
