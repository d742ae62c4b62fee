package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

// TestRun_FailsOnlyTheTableOfABadFile, and finishes all other tables. The next run continues with
// the bad file, which it downloads again if the file is damaged. It loads no other file again.
func TestRun_FailsOnlyTheTableOfABadFile(t *testing.T) {
	file := fileName("order", 2)
	good := zipped(rowsOf(100, 100))
	badLine := zipped(rowsOf(100, 49) + `{"id":"SECRET","n":` + "\n" + rowsOf(150, 50))
	keyless := zipped(rowsOf(100, 99) + `{"n":"SECRET"}` + "\n")
	for name, c := range map[string]struct {
		file  []byte
		want  string
		again bool // whether the next run downloads the file again
	}{
		"truncated":     {good[:len(good)-50], "the file is truncated", true},
		"damaged":       {append(slices.Clone(good[:len(good)-5]), "xxxxx"...), "the file is damaged: gzip: invalid checksum", true},
		"not gzip":      {[]byte(rowsOf(100, 100)), "line 1: the file is not gzip", true},
		"bad line":      {badLine, "line 50: not valid json at byte 19: want a value", false},
		"without a key": {keyless, `line 100: the row has no value for "id" of its primary key`, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				w.files[file] = c.file
				_, err := w.run(t.Context(), d, nil)
				if err == nil || !strings.HasPrefix(
					err.Error(), oneOfThree+"order: file "+file+", line ",
				) || !strings.HasSuffix(err.Error(), c.want) {
					t.Errorf("got %v", err)
				}
				expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
				clocks, underWay := w.clocks()
				if _, ok := clocks["order"]; ok || len(clocks) != 2 || !underWay {
					t.Errorf("under way: %v, clocks: %v", underWay, clocks)
				}
				w.files[file] = good
				if !c.again { // the export is bad, and the operator has replaced the file
					path := filepath.Join(w.root, "data", "import", "job-job1", file)
					if err := os.WriteFile(path, good, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				report, err := w.run(t.Context(), d, nil)
				if err != nil {
					t.Fatal(err)
				}
				expect(t, d, everyRow)
				if clocks, underWay := w.clocks(); !cmp.Equal(clocks, everyClock) || underWay {
					t.Errorf("under way: %v, clocks: %v", underWay, clocks)
				}
				slices.Sort(d.loaded)
				if diff := cmp.Diff(
					[]string{fileName("customer", 1), fileName("order", 1), fileName("order", 2), fileName("order", 3)}, d.loaded,
				); diff != "" {
					t.Errorf("loaded: %s", diff)
				}
				if report.Rows != 208 || len(w.requests) != 1 || !report.Plan.Resumed {
					t.Errorf("%d rows, %d exports, resumed %v", report.Rows, len(w.requests), report.Plan.Resumed)
				}
			})
		})
	}
}

func TestRun_NamesTheLineOfARefusedRow(t *testing.T) {
	refused := fault.Mark(fault.Poison, errors.New("value out of range"))
	for want, refuse := range map[string]func(n int) error{
		"line 70: value out of range": func(n int) error {
			if n == 90 { // the destination reports the row later
				return &sink.RowError{Row: 70, Err: errors.New("value out of range")}
			}
			return nil
		},
		"line 90 or before: value out of range": func(n int) error {
			if n == 90 {
				return refused
			}
			return nil
		},
	} {
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			d.row = func(n int, _ *change.Row) error { return refuse(n) }
			began := time.Now()
			_, err := w.run(t.Context(), d, nil)
			want := oneOfThree + "order: file " + fileName("order", 1) + ", " + want
			if err == nil || err.Error() != want || time.Since(began) > 0 {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
			d.row = nil
			if _, err := w.run(t.Context(), d, nil); err != nil {
				t.Fatal(err)
			}
			expect(t, d, everyRow)
		})
	}
}

func TestRun_DetectsThatTheDestinationSkipsRows(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.row = func(n int, _ *change.Row) error {
			if n == 50 {
				return errEnough
			}
			return nil
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != oneOfThree+"order: file "+fileName("order", 1)+": the destination left out rows" {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}})
	})
}

// TestRun_WaitsForTheDestination while an operation fails, or its result is lost.
func TestRun_WaitsForTheDestination(t *testing.T) {
	for _, broken := range []string{"migrate", "begin", "load", "loaded", "finish", "finished"} {
		t.Run(broken, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				began, failures := time.Now(), 0
				d.fail = func(operation, _, _ string) error {
					if operation == broken && time.Since(began) < 9*time.Minute && (operation != "loaded" || failures < 3) {
						failures++
						return errors.New("connection reset")
					}
					return nil
				}
				if _, err := w.run(t.Context(), d, nil); err != nil {
					t.Fatal(err)
				}
				expect(t, d, everyRow)
				if failures == 0 {
					t.Error("nothing failed")
				}
				if broken == "loaded" || broken == "finished" {
					slices.Sort(d.loaded)
					if n := len(slices.Compact(slices.Clone(d.loaded))); n != len(d.loaded) || n != 4 {
						t.Errorf("loaded more than once: %v", d.loaded)
					}
				}
			})
		})
	}
}

func TestRun_FailsTheTablesOfADestinationThatStaysDown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.fail = func(operation, table, _ string) error {
			if operation == "finish" && table == "order" {
				return errors.New("connection reset")
			}
			return nil
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != oneOfThree+"order: put the table in place: connection reset" {
			t.Errorf("got %v", err)
		}
		if d.staged("order") != 3 {
			t.Errorf("%d files are staged", d.staged("order"))
		}
		before := len(d.loaded)
		d.fail = nil
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		if len(d.loaded) != before {
			t.Errorf("loaded again: %v", d.loaded[before:])
		}
	})
}

// TestRun_LoadsLostFilesAgain a few times, and reports the rows of the table.
func TestRun_LoadsLostFilesAgain(t *testing.T) {
	for losses, loads := range map[int]int{1: 2, 2: 3, 3: 3} {
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			d.fail = func(operation, table, _ string) error {
				if operation != "finish" || table != "order" || losses == 0 {
					return nil
				}
				losses--
				return errors.Join(fault.Mark(fault.Fatal, sink.ErrLoadLost), os.RemoveAll(filepath.Join(d.root, "stage", "order", "job1")))
			}
			report, err := w.run(t.Context(), d, nil)
			if n := w.gets[fileName("order", 1)]; n != loads {
				t.Errorf("a file was downloaded %d times, not %d", n, loads)
			}
			if loads == 3 && losses == 0 && err != nil {
				if want := oneOfThree + "order: put the table in place: the loaded rows are lost"; err.Error() != want {
					t.Errorf("got %v", err)
				}
				expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3)})
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expect(t, d, everyRow)
			if report.Rows != 208 || w.totals.Rows != 208 {
				t.Errorf("%d rows are reported, %d as progress", report.Rows, w.totals.Rows)
			}
		})
	}
}

func TestRun_ReportsTheRowsOfTheTable(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.put("order", rowsOf(0, 100), rowsOf(50, 100), rowsOf(200, 5))
		report, err := w.run(t.Context(), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, d, map[string][]string{"order": append(rows(0, 150), rows(200, 5)...)})
		if report.Rows != 158 {
			t.Errorf("%d rows are reported", report.Rows)
		}
		w.states(func(dir *state.Dir) error {
			all, err := dir.Snapshots(named("disk://" + d.root))
			if n := all["order"].Rows; n != 155 {
				t.Errorf("%d rows are recorded", n)
			}
			return err
		})
	})
}

func TestRun_DoesNotRetryAFatalError(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		began := time.Now()
		d.fail = func(operation, table, _ string) error {
			if operation == "begin" && table == "order" {
				return fault.Mark(fault.Fatal, errors.New("permission denied"))
			}
			return nil
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != oneOfThree+"order: begin the load: permission denied" || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestRun_ResumesAfterAnInterruption at each event, one after the other.
func TestRun_ResumesAfterAnInterruption(t *testing.T) {
	interrupted := errors.New("interrupted")
	happened := true
	for n := 1; happened; n++ {
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			left := n
			event := func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				if left--; left == 0 {
					cancel(interrupted)
				}
			}
			d.fail = func(_, _, _ string) error {
				event()
				return context.Cause(ctx)
			}
			w.serve = func(http.ResponseWriter, *http.Request, string, int) bool {
				event()
				return false
			}
			w.export = func(hq.ExportRequest) hq.Export {
				if left--; left == 0 {
					cancel(interrupted)
				}
				return w.everything()
			}
			_, err := w.run(ctx, d, nil)
			if happened = left <= 0; happened && !errors.Is(err, interrupted) && err != nil {
				t.Errorf("%d: %v", n, err)
			}
			for table := range everyRow {
				if live := d.live(table); !cmp.Equal(live, []string{"old"}) && !cmp.Equal(live, everyRow[table]) {
					t.Errorf("%d: %s is neither old nor new", n, table)
				}
			}
			finished := err == nil
			d.fail, w.serve, w.export = nil, nil, nil
			report, err := w.run(t.Context(), d, nil)
			if err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			expect(t, d, everyRow)
			if clocks, underWay := w.clocks(); !cmp.Equal(clocks, everyClock) || underWay {
				t.Errorf("%d: under way: %v, clocks: %v", n, underWay, clocks)
			}
			if finished {
				return
			}
			if len(w.requests) > 2 || report.Plan.Resumed && len(w.requests) != 1 {
				t.Errorf("%d: %d exports, resumed %v", n, len(w.requests), report.Plan.Resumed)
			}
			times := make(map[string]int)
			for _, file := range d.loaded {
				if times[file]++; times[file] > 2 {
					t.Errorf("%d: loaded %v", n, d.loaded)
				}
			}
		})
	}
}

// TestRun_EndsInTheSameTablesAfterAnyFaults: operations fail at random, and the import runs until it
// succeeds.
func TestRun_EndsInTheSameTablesAfterAnyFaults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"", "", "", "lost", "poison", "fatal", "cancel"}), 0, 60).Draw(rt, "faults")
		parallel := rapid.IntRange(1, 3).Draw(rt, "parallel")
		inWorld(t, func(t *testing.T, w *world, d *destination) {
			next := func() string {
				if len(faults) == 0 {
					return ""
				}
				f := faults[0]
				faults = faults[1:]
				return f
			}
			for try := 0; ; try++ {
				ctx, cancel := context.WithCancel(t.Context())
				d.fail = func(operation, _, _ string) error {
					switch next() {
					case "lost":
						return errors.New("connection reset")
					case "poison":
						return fault.Mark(fault.Poison, errors.New("refused"))
					case "fatal":
						return fault.Mark(fault.Fatal, errors.New("not permitted"))
					case "cancel":
						cancel()
					}
					return nil
				}
				_, err := w.run(ctx, d, func(c *snapshot.Config) { c.Parallel = parallel })
				cancel()
				if err == nil {
					break
				}
				for table := range everyRow {
					if live := d.live(table); !cmp.Equal(live, []string{"old"}) && !cmp.Equal(live, everyRow[table]) {
						t.Errorf("%s is neither old nor new", table)
					}
				}
				if try > 100 {
					t.Fatal(err)
				}
			}
			expect(t, d, everyRow)
			if clocks, underWay := w.clocks(); !cmp.Equal(clocks, everyClock) || underWay {
				t.Errorf("under way: %v, clocks: %v", underWay, clocks)
			}
		})
	})
}

// interrupt runs an import that ends with two of order's files staged.
func interrupt(t *testing.T, w *world, d *destination, change func(*snapshot.Config)) {
	t.Helper()
	d.fail = func(operation, table, file string) error {
		if operation == "load" && file == fileName("order", 3) {
			return fault.Mark(fault.Poison, errors.New("refused"))
		}
		return nil
	}
	if _, err := w.run(t.Context(), d, change); err == nil || d.staged("order") != 2 {
		t.Fatalf("%d files are staged, error %v", d.staged("order"), err)
	}
	d.fail = nil
}

func TestRun_DiscardsAnInterruptedImportWithOtherOptions(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		interrupt(t, w, d, nil)
		report, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Only = []string{"customer"} })
		if err != nil || report.Plan.Resumed {
			t.Fatal(report.Plan, err)
		}
		if d.staged("order") != 0 {
			t.Error("the staged rows are still there")
		}
		if left, err := os.ReadDir(w.root + "/data/import"); err != nil || len(left) > 0 {
			t.Errorf("%v, %v is left", err, left)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
	})
}

func TestRun_ReplacesAnExportThatHQNoLongerHas(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		interrupt(t, w, d, nil)
		delete(w.jobs, "job1")
		w.put("customer", rowsOf(0, 9))
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow) // customer was done
		if len(w.requests) != 2 || d.begun[len(d.begun)-1] != "job2 order 0" {
			t.Errorf("%d exports, begun %v", len(w.requests), d.begun)
		}
	})
}

// TestRun_ReexportsTablesAfterTheServerHasContinued: the missing tables come from a new export, because
// the server has read the stream beyond the old one.
func TestRun_ReexportsTablesAfterTheServerHasContinued(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		interrupt(t, w, d, nil)
		w.states(func(dir *state.Dir) error { return dir.MarkBegun("customer") })
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		if diff := cmp.Diff([]hq.ExportRequest{{}, {Tables: []string{"order"}}}, w.requests); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRun_LogsUnknownColumnsOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.put("customer", `{"id":"r00000","n":0,"extra":1,"more":2}`+"\n"+`{"id":"r00001","n":1,"extra":1}`+"\n"+`{"id":"r00002","n":2}`)
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		for _, column := range []string{"extra", "more"} {
			if n := strings.Count(w.log.String(), fmt.Sprintf("table=customer column=%s", column)); n != 1 {
				t.Errorf("%s is logged %d times", column, n)
			}
		}
	})
}

func TestRun_TreatsFilesOfOneNameAsOneFile(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.export = func(hq.ExportRequest) hq.Export {
			e := w.everything()
			order, customer := e.Tables["order"], e.Tables["customer"]
			order.URLs = append(order.URLs, order.URLs[0]+"again")
			customer.URLs = append(customer.URLs, strings.Replace(customer.URLs[0], "bucket", "other", 1))
			e.Tables["order"], e.Tables["customer"] = order, customer
			return e
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != oneOfThree+"customer: export: two different files have the name "+fileName("customer", 1) {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": rows(0, 205), "customer": {"old"}, "vendor": {}})
	})
}
