package snapshot_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

func TestRun_NoCleanupKeepsFilesThatDirUses(t *testing.T) {
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
		check("when hq no longer has the job")
		expect(t, d, everyRow)
		if err := os.Remove(filepath.Join(report.Dir, "export.json")); err != nil {
			t.Fatal(err)
		}
		check("when only the names are known")
		expect(t, d, map[string][]string{"order": rows(0, 205), "customer": rows(0, 3), "vendor": {}})
	})
}

// TestRun_StartsOverWithOtherFilesInDir: the loaded files of an older export are not part of the newer
// one.
func TestRun_StartsOverWithOtherFilesInDir(t *testing.T) {
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

func TestRun_FailsATableWithAMissingFileInDir(t *testing.T) {
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
		want := oneOfThree + "order: file " + fileName("order", 2) + ": download: the file is not in the directory; " +
			"to download it, name the directory with --download-dir and the export with --job-id"
		if err == nil || err.Error() != want {
			t.Errorf("got %v", err)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": rows(0, 3), "vendor": {}})
	})
}

func TestRun_ResumesInDownloadDir(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := filepath.Join(w.root, "some", "dir")
		into := func(c *snapshot.Config) { c.DownloadDir = dir }
		// The download of one file fails, so that the import fails.
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
			t.Fatalf("resumed: %+v, %v", report.Plan, err)
		}
		expect(t, d, everyRow)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 5 {
			t.Errorf("%d files, %v", len(entries), err)
		}
		if len(w.requests) != 1 || w.gets[fileName("order", 1)] != 1 {
			t.Errorf("%d exports, downloads %v", len(w.requests), w.gets)
		}
		// The directory must not get files of another export.
		_, err = w.run(t.Context(), d, into)
		if dirErr := new(snapshot.DirError); !errors.As(err, &dirErr) || !strings.Contains(
			err.Error(), "the export job1 was downloaded into it already",
		) || len(w.requests) != 1 {
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
					if err := os.WriteFile(
						filepath.Join(path, file), []byte(`{"job":"job1","complete":true,"tables":{}}`), 0o600,
					); err != nil {
						t.Fatal(err)
					}
				}
			}
			return path
		}
		w.jobs["given"] = w.everything()
		none := "there are no export files in it: " +
			"none of its files is named like <33 digits>-<hash>-<n>-<n>-<8 digits>-<table>-<schema id>.ndjson.gz"
		for name, c := range map[string]struct{ dir, job, want string }{
			"missing":           {filepath.Join(w.root, "nowhere"), "", "no such file or directory"},
			"a file":            {filepath.Join(dir("with", "notes.txt"), "notes.txt"), "", "not a directory"},
			"empty":             {dir("empty"), "", none},
			"empty, with a job": {dir("empty"), "given", none},
			"other files":       {dir("other", "order.ndjson.gz", "notes.txt"), "", none},
			"files below":       {dir("below", "sub/"+fileName("order", 1)), "", none},
			"parts of files":    {dir("parts", fileName("order", 1)+".part", fileName("order", 1)+".tag"), "", none},
			"a manifest alone":  {dir("manifest", "export.json"), "", none},
			"files of another export": {
				dir("export", "export.json", fileName("order", 1)), "given", "its files belong to the export job1, not to given",
			},
		} {
			for _, dry := range []bool{false, true} {
				_, err := w.run(t.Context(), d, func(c2 *snapshot.Config) { c2.Dir, c2.JobID, c2.DryRun = c.dir, c.job, dry })
				dirErr := new(snapshot.DirError)
				if !errors.As(err, &dirErr) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.dir) {
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
		if dirErr := new(snapshot.DirError); !errors.As(err, &dirErr) || !strings.Contains(
			err.Error(), "the download of the export job1 into it was interrupted; continue it with --download-dir",
		) {
			t.Errorf("a part: %v", err)
		}
		if _, err := w.run(t.Context(), d, func(c *snapshot.Config) { c.DownloadDir = dir }); err != nil || len(w.requests) != 1 {
			t.Errorf("%d exports, %v", len(w.requests), err)
		}
		expect(t, d, everyRow)
	})
}

// TestRun_DoesNotChangeDir, also if HQ lists the export and a file is damaged.
func TestRun_DoesNotChangeDir(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world, d *destination) {
		dir := filepath.Join(w.root, "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		w.jobs["given"] = w.everything()
		for name, body := range w.files {
			if name == fileName("order", 3) {
				continue // missing
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
		if err == nil || !strings.Contains(
			err.Error(), fileName("order", 3)+": download: the file is not in the directory",
		) || !strings.Contains(err.Error(), "customer: file "+fileName("customer", 1)) {
			t.Errorf("got %v", err)
		}
		after, _ := os.ReadDir(dir)
		if len(after) != len(before) || len(w.gets) > 0 || len(w.requests) > 0 {
			t.Errorf("%d files of %d are left, downloads %v", len(after), len(before), w.gets)
		}
		expect(t, d, map[string][]string{"order": {"old"}, "customer": {"old"}, "vendor": {}})
	})
}

func TestRun_RequestsNoExportThatItCannotDownload(t *testing.T) {
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
		if err == nil || !strings.Contains(
			err.Error(), "check that files can be downloaded into "+filepath.Join(w.root, "data", "import"),
		) {
			t.Errorf("into the data directory: %v", err)
		}
		if len(w.requests) > 0 || len(d.migrated) > 0 {
			t.Errorf("exports %v, migrated %v", w.requests, d.migrated)
		}
	})
}
