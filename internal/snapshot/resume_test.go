package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// TestABadFileFailsItsTableAlone: the others are finished; the next run goes on
// at that file, downloaded again where it was damaged, and loads no other again.
func TestABadFileFailsItsTableAlone(t *testing.T) {
	file := fileName("order", 2)
	good := zipped(rowsOf(100, 100))
	badLine := zipped(rowsOf(100, 49) + `{"id":"SECRET","n":` + "\n" + rowsOf(150, 50))
	keyless := zipped(rowsOf(100, 99) + `{"n":"SECRET"}` + "\n")
	for name, c := range map[string]struct {
		file  []byte
		want  string
		again bool // the file is downloaded again by itself
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
				if err == nil || !strings.HasPrefix(err.Error(), "1 of 3 tables were not imported: order: file "+file+", line ") || !strings.HasSuffix(err.Error(), c.want) {
					t.Errorf("got %v", err)
				}
				expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
				clocks, underWay := w.clocks()
				if _, ok := clocks["order"]; ok || len(clocks) != 2 || !underWay {
					t.Errorf("under way: %v, clocks: %v", underWay, clocks)
				}
				w.files[file] = good
				if !c.again { // what HQ made is bad, and a person has put a good one there
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
				if diff := cmp.Diff([]string{fileName("customer", 1), fileName("order", 1), fileName("order", 2), fileName("order", 3)}, d.loaded); diff != "" {
					t.Errorf("loaded: %s", diff)
				}
				if report.Rows != 208 || len(w.requests) != 1 || !report.Plan.Resumed {
					t.Errorf("%d rows, %d exports, resumed %v", report.Rows, len(w.requests), report.Plan.Resumed)
				}
			})
		})
	}
}

func TestARowThatTheDestinationRefuses(t *testing.T) {
	refused := fault.Mark(fault.Poison, errors.New("value out of range"))
	for want, refuse := range map[string]func(n int) error{
		"line 70: value out of range": func(n int) error {
			if n == 90 { // the answer comes later than the row
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
			if err == nil || err.Error() != "1 of 3 tables were not imported: order: file "+fileName("order", 1)+", "+want || time.Since(began) > 0 {
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

func TestADestinationThatLeavesOutRowsIsCaught(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.row = func(n int, _ *change.Row) error {
			if n == 50 {
				return errEnough
			}
			return nil
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != "1 of 3 tables were not imported: order: file "+fileName("order", 1)+": the destination left out rows" {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}})
	})
}

// TestADestinationThatIsAwayIsWaitedFor breaks each operation for a while, and
// after it was done, so that only the answer is lost.
func TestADestinationThatIsAwayIsWaitedFor(t *testing.T) {
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

func TestADestinationThatStaysAwayFailsItsTables(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		d.fail = func(operation, table, _ string) error {
			if operation == "finish" && table == "order" {
				return errors.New("connection reset")
			}
			return nil
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != "1 of 3 tables were not imported: order: put the table in place: connection reset" {
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

// TestImport_LoadsAgainWhatTheDestinationHasLost: the files are downloaded and loaded
// again, a few times at most, and the rows that are reported are those of the table.
func TestImport_LoadsAgainWhatTheDestinationHasLost(t *testing.T) {
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
				if want := "1 of 3 tables were not imported: order: put the table in place: the loaded rows are lost"; err.Error() != want {
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

func TestImport_ReportsTheRowsOfTheTable(t *testing.T) {
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

func TestAFatalErrorIsNotTriedAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		began := time.Now()
		d.fail = func(operation, table, _ string) error {
			if operation == "begin" && table == "order" {
				return fault.Mark(fault.Fatal, errors.New("permission denied"))
			}
			return nil
		}
		_, err := w.run(t.Context(), d, nil)
		if err == nil || err.Error() != "1 of 3 tables were not imported: order: begin the load: permission denied" || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestAnInterruptedImportGoesOn interrupts at each thing that happens, one
// after the other, and each time runs the import again.
func TestAnInterruptedImportGoesOn(t *testing.T) {
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

// TestAnyFaultsEndInTheSameTables lets anything fail at any time, runs the
// import until it succeeds, and compares.
func TestAnyFaultsEndInTheSameTables(t *testing.T) {
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

func TestAnotherImportDiscardsTheInterruptedOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		interrupt(t, w, d, nil)
		report, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Only = []string{"customer"} })
		if err != nil || report.Plan.Resumed {
			t.Fatal(report.Plan, err)
		}
		if d.staged("order") != 0 {
			t.Error("what was staged is still there")
		}
		if left, err := os.ReadDir(w.root + "/data/import"); err != nil || len(left) > 0 {
			t.Errorf("%v, %v is left", err, left)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
	})
}

func TestAJobThatHQHasForgottenIsDoneOver(t *testing.T) {
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

// TestASnapshotThatTheServerHasPassedIsTakenAnew: the tables that are missing
// come from a new export, since the stream has gone on.
func TestASnapshotThatTheServerHasPassedIsTakenAnew(t *testing.T) {
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

func TestNoCleanupKeepsTheFilesAndDirUsesThem(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		report, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.NoCleanup = true })
		if err != nil {
			t.Fatal(err)
		}
		fromDir := func(c *snapshot.Config) { c.Dir = report.Dir }
		check := func(name string) {
			t.Helper()
			if err := errors.Join(d.setLive("order", []string{"old"}), d.setLive("customer", []string{"old"})); err != nil {
				t.Fatal(err)
			}
			before := len(w.gets)
			if _, err := w.run(t.Context(), d, fromDir); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(w.requests) != 1 || len(w.gets) != before {
				t.Errorf("%s: %d exports, downloads %v", name, len(w.requests), w.gets)
			}
			if entries, err := os.ReadDir(report.Dir); err != nil || len(entries) < 4 {
				t.Errorf("%s: %d files are left", name, len(entries))
			}
			if clocks, underWay := w.clocks(); !cmp.Equal(clocks, everyClock) || underWay {
				t.Errorf("%s: under way: %v, clocks: %v", name, underWay, clocks)
			}
		}
		check("while hq has the job")
		expect(t, d, everyRow)
		delete(w.jobs, "job1")
		clear(w.files)
		check("when hq has forgotten the job")
		expect(t, d, everyRow)
		if err := os.Remove(filepath.Join(report.Dir, "export.json")); err != nil {
			t.Fatal(err)
		}
		check("when nothing but the names is known")
		expect(t, d, map[string][]string{"order": rows(0, 205), "customer": rows(0, 3), "vendor": {}})
	})
}

// TestImport_StartsAfreshWithOtherFilesInDir: what an interrupted import has loaded of
// an older export is no part of the newer one.
func TestImport_StartsAfreshWithOtherFilesInDir(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := t.TempDir()
		fill := func(names ...string) {
			t.Helper()
			old, err := os.ReadDir(dir)
			for _, entry := range old {
				err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
			}
			for _, name := range names {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), w.files[name], 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		fromDir := func(c *snapshot.Config) { c.Dir, c.Only = dir, []string{"order"} }
		fill(fileName("order", 1), fileName("order", 3))
		d.fail = func(operation, _, file string) error {
			if operation == "load" && file == fileName("order", 3) {
				return fault.Mark(fault.Poison, errors.New("refused"))
			}
			return nil
		}
		if _, err := w.run(t.Context(), d, fromDir); err == nil || d.staged("order") != 1 {
			t.Fatalf("%d files are staged, error %v", d.staged("order"), err)
		}
		d.fail = nil
		fill(fileName("order", 2))
		if _, err := w.run(t.Context(), d, fromDir); err != nil {
			t.Fatal(err)
		}
		expect(t, d, map[string][]string{"order": rows(100, 100)})
	})
}

func TestAFileThatIsMissingInDirFailsItsTable(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		report, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.NoCleanup = true })
		if err != nil {
			t.Fatal(err)
		}
		delete(w.jobs, "job1")
		if err := os.Remove(filepath.Join(report.Dir, fileName("order", 2))); err != nil {
			t.Fatal(err)
		}
		if err := d.setLive("order", []string{"old"}); err != nil {
			t.Fatal(err)
		}
		_, err = w.run(t.Context(), d, func(c *snapshot.Config) { c.Dir = report.Dir })
		want := "1 of 3 tables were not imported: order: file " + fileName("order", 2) + ": download: the file is not in the directory; to download it, name the directory with --download-dir and the export with --job-id"
		if err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
	})
}

func TestRun_DownloadsIntoDownloadDirAndGoesOnThere(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := filepath.Join(w.root, "some", "dir")
		into := func(c *snapshot.Config) { c.DownloadDir = dir }
		// The download of one file fails, so that the import does.
		w.serve = func(rw http.ResponseWriter, r *http.Request, file string, _ int) bool {
			if file == fileName("order", 2) {
				http.NotFound(rw, r)
				return true
			}
			return false
		}
		if _, err := w.run(t.Context(), d, into); err == nil {
			t.Fatal("a file is missing")
		}
		w.serve = nil
		report, err := w.run(t.Context(), d, into)
		if err != nil || report.Dir != dir || !report.Plan.Resumed {
			t.Fatalf("it goes on: %+v, %v", report.Plan, err)
		}
		expect(t, d, everyRow)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 5 {
			t.Errorf("%d files, %v", len(entries), err)
		}
		if len(w.requests) != 1 || w.gets[fileName("order", 1)] != 1 {
			t.Errorf("%d exports, downloads %v", len(w.requests), w.gets)
		}
		// Another export must not lie among its files.
		_, err = w.run(t.Context(), d, into)
		if dirErr := new(snapshot.DirError); !errors.As(err, &dirErr) || !strings.Contains(err.Error(), "the export job1 was downloaded into it already") || len(w.requests) != 1 {
			t.Errorf("again: %v, %d exports", err, len(w.requests))
		}
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Dir = dir }); err != nil || len(w.requests) != 1 {
			t.Errorf("from there: %v, %d exports", err, len(w.requests))
		}
	})
}

func TestRun_NeedsExportFilesInDir(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := func(name string, files ...string) string {
			path := filepath.Join(w.root, name)
			for _, file := range append([]string{"."}, files...) {
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(path, file)), 0o700), os.MkdirAll(path, 0o700)); err != nil {
					t.Fatal(err)
				}
				if file != "." {
					if err := os.WriteFile(filepath.Join(path, file), []byte(`{"job":"job1","complete":true,"tables":{}}`), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			return path
		}
		w.jobs["given"] = w.everything()
		none := "there are no export files in it: none of its files is named like <33 digits>-<hash>-<n>-<n>-<8 digits>-<table>-<schema id>.ndjson.gz"
		for name, c := range map[string]struct{ dir, job, want string }{
			"missing":                 {filepath.Join(w.root, "nowhere"), "", "no such file or directory"},
			"a file":                  {filepath.Join(dir("with", "notes.txt"), "notes.txt"), "", "not a directory"},
			"empty":                   {dir("empty"), "", none},
			"empty, with a job":       {dir("empty"), "given", none},
			"other files":             {dir("other", "order.ndjson.gz", "notes.txt"), "", none},
			"files below":             {dir("below", "sub/"+fileName("order", 1)), "", none},
			"parts of files":          {dir("parts", fileName("order", 1)+".part", fileName("order", 1)+".tag"), "", none},
			"a manifest alone":        {dir("manifest", "export.json"), "", none},
			"files of another export": {dir("export", "export.json", fileName("order", 1)), "given", "its files are of the export job1, not of given"},
		} {
			for _, dry := range []bool{false, true} {
				_, err := w.run(t.Context(), d, func(c2 *snapshot.Config) { c2.Dir, c2.JobID, c2.DryRun = c.dir, c.job, dry })
				if dirErr := new(snapshot.DirError); !errors.As(err, &dirErr) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.dir) {
					t.Errorf("%s: %v, want %q", name, err, c.want)
				}
			}
		}
		if len(w.requests)+len(w.gets)+len(d.migrated) > 0 {
			t.Errorf("%d exports, downloads %v, migrated %v", len(w.requests), w.gets, d.migrated)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": {"old"}, "vendor": {}})
	})
}

func TestRun_LoadsNoPartOfADownloadFromDir(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := filepath.Join(w.root, "dir")
		ctx, cancel := context.WithCancel(t.Context())
		w.status = func(job string, asked int) (hq.Export, error) {
			e := w.jobs[job]
			if asked > 2 {
				cancel() // while order is not exported yet
			}
			e.Completed = false
			e.Tables = maps.Clone(e.Tables)
			e.Tables["order"] = hq.ExportTable{Status: hq.ExportPending}
			return e, nil
		}
		if _, err := w.run(ctx, d, func(c *snapshot.Config) { c.DownloadDir = dir }); err == nil {
			t.Fatal("it was not interrupted")
		}
		w.status = nil
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Dir = dir })
		if dirErr := new(snapshot.DirError); !errors.As(err, &dirErr) || !strings.Contains(err.Error(), "the download of the export job1 into it was interrupted; go on with it with --download-dir") {
			t.Errorf("a part: %v", err)
		}
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.DownloadDir = dir }); err != nil || len(w.requests) != 1 {
			t.Errorf("%d exports, %v", len(w.requests), err)
		}
		expect(t, d, everyRow)
	})
}

// TestRun_LeavesDirAsItIs loads files of an export that HQ lists, one of them damaged.
func TestRun_LeavesDirAsItIs(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := filepath.Join(w.root, "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		w.jobs["given"] = w.everything()
		for name, body := range w.files {
			if name == fileName("order", 3) {
				continue // is missing
			}
			if name == fileName("customer", 1) {
				body = body[:len(body)/2]
			}
			if err := os.WriteFile(filepath.Join(dir, name), body, 0o400); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := os.ReadDir(dir)
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.Dir, c.JobID = dir, "given" })
		if err == nil || !strings.Contains(err.Error(), fileName("order", 3)+": download: the file is not in the directory") || !strings.Contains(err.Error(), "customer: file "+fileName("customer", 1)) {
			t.Errorf("got %v", err)
		}
		after, _ := os.ReadDir(dir)
		if len(after) != len(before) || len(w.gets) > 0 || len(w.requests) > 0 {
			t.Errorf("%d files of %d are left, downloads %v", len(after), len(before), w.gets)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": {"old"}, "vendor": {}})
	})
}

func TestRun_OrdersNoExportThatItCannotDownload(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		blocked := filepath.Join(w.root, "file")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.DownloadDir = filepath.Join(blocked, "dir") })
		if err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("into a file: %v", err)
		}
		if err := os.WriteFile(filepath.Join(w.root, "data", "import"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = w.run(t.Context(), d, nil)
		if err == nil || !strings.Contains(err.Error(), "make sure that files can be downloaded into "+filepath.Join(w.root, "data", "import")) {
			t.Errorf("into the data directory: %v", err)
		}
		if len(w.requests) > 0 || len(d.migrated) > 0 {
			t.Errorf("exports %v, migrated %v", w.requests, d.migrated)
		}
	})
}

func TestColumnsThatTheSchemaLacksAreSaid(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		w.put("customer", `{"id":"r00000","n":0,"extra":1,"more":2}`+"\n"+`{"id":"r00001","n":1,"extra":1}`+"\n"+`{"id":"r00002","n":2}`)
		if _, err := w.run(t.Context(), d, nil); err != nil {
			t.Fatal(err)
		}
		expect(t, d, everyRow)
		for _, column := range []string{"extra", "more"} {
			if n := strings.Count(w.log.String(), fmt.Sprintf("table=customer column=%s", column)); n != 1 {
				t.Errorf("%s is said %d times", column, n)
			}
		}
	})
}

func TestFilesOfOneNameAreOneFileOrAnError(t *testing.T) {
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
		if err == nil || err.Error() != "1 of 3 tables were not imported: customer: export: two different files have the name "+fileName("customer", 1) {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": rows(0, 205), "customer": {"old"}, "vendor": {}})
	})
}
