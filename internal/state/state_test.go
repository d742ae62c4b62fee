package state_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ schema.Cache = (*state.Dir)(nil)

// here is a destination.
var here = at("sqlite:///x", "sqlite://x")

func open(t testing.TB, path string) *state.Dir {
	t.Helper()
	d, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// reopened closes d and opens it again.
func reopened(t testing.TB, d *state.Dir) *state.Dir {
	t.Helper()
	path := d.Path()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpen_CreatesTheDirectoryForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	d := open(t, path)
	for file, want := range map[string]fs.FileMode{d.Path(): 0o700 | fs.ModeDir, d.Path("eds.db"): 0o600} {
		stat, err := os.Stat(file)
		if err != nil || stat.Mode() != want {
			t.Errorf("%s: %v, %v", file, stat.Mode(), err)
		}
	}
}

func TestOpen_RefusesADirectoryInUse(t *testing.T) {
	d := open(t, t.TempDir())
	_, err := state.Open(d.Path())
	if !errors.Is(err, state.ErrInUse) || fault.Of(err) != fault.Fatal ||
		!strings.Contains(err.Error(), "another eds is using it") || !strings.Contains(err.Error(), d.Path()) {
		t.Errorf("got %v", err)
	}
	reopened(t, d)
}

// content returns the files below a directory, with their content.
func content(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			all[path] = "directory"
			return err
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	})
	must(t, err)
	return all
}

func TestLook_ChangesNothing(t *testing.T) {
	above := t.TempDir()
	path := filepath.Join(above, "data")
	look := func(snapshots int) {
		t.Helper()
		before := content(t, above)
		d, err := state.Look(path)
		must(t, err)
		found, err := d.Snapshots(here)
		if err != nil || len(found) != snapshots {
			t.Errorf("%d snapshots, %v", len(found), err)
		}
		if _, underWay, err := d.Import(); underWay || err != nil {
			t.Errorf("an import is under way: %v, %v", underWay, err)
		}
		if _, ok, err := d.LoadSchema("order", "1"); ok || err != nil {
			t.Errorf("a schema is known: %v, %v", ok, err)
		}
		must(t, d.SaveSchema("order", "1", []byte("{}")))
		if err := d.RecordSnapshots(here, state.ImportRecord{Table: "order"}); err == nil {
			t.Error("a change is accepted")
		}
		must(t, d.Close())
		if diff := cmp.Diff(before, content(t, above)); diff != "" {
			t.Errorf("it was changed: %.300s", diff)
		}
	}
	look(0)
	must(t, os.Mkdir(path, 0o700))
	look(0)
	must(t, os.WriteFile(filepath.Join(path, "eds.db"), nil, 0o600))
	look(0)
	db, err := bbolt.Open(filepath.Join(path, "eds.db"), 0o600, nil) // as after a crash of the first start
	must(t, err)
	must(t, db.Close())
	look(0)
	d := open(t, path)
	must(t, d.RecordSnapshots(here, state.ImportRecord{Table: "order"}, state.ImportRecord{Table: "customer"}))
	if _, err := state.Look(path); !errors.Is(err, state.ErrInUse) {
		t.Errorf("while another eds uses it: %v", err)
	}
	must(t, d.Close())
	look(2)
}

func TestOpen_FailsIfTheDirectoryCannotBeCreated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := state.Open(filepath.Join(file, "data")); err == nil || fault.Of(err) != fault.Fatal {
		t.Errorf("got %v", err)
	}
}

func TestSaveSchema_SurvivesTheProcess(t *testing.T) {
	d := open(t, t.TempDir())
	must(t, d.SaveSchema("order", "1", []byte(`{"a":1}`)))
	must(t, d.SaveSchema("order", "1", []byte(`{"a":1}`)))
	must(t, d.SaveSchema("o", "rder1", []byte(`{"b":1}`)))
	must(t, d.SaveSchema("", "order1", []byte(`{"c":1}`)))
	d = reopened(t, d)
	for key, want := range map[[2]string]string{
		{"order", "1"}: `{"a":1}`, {"o", "rder1"}: `{"b":1}`, {"", "order1"}: `{"c":1}`, {"order", "2"}: "",
	} {
		text, ok, err := d.LoadSchema(key[0], key[1])
		if string(text) != want || ok != (want != "") || err != nil {
			t.Errorf("%q: %s, %v, %v", key, text, ok, err)
		}
	}
}

func TestRecordSnapshots_SurvivesTheProcess(t *testing.T) {
	d := open(t, t.TempDir())
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	order := state.ImportRecord{
		Table: "order", Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: 9007199254740993, Logical: 4294967295}},
		Job: "j", Identity: here.Identity, Destination: here.Masked, Rows: 1 << 60, ImportedAt: at,
	}
	odd := state.ImportRecord{Table: `o"d/d`, Identity: here.Identity, Destination: here.Masked, ImportedAt: at}
	must(t, d.RecordSnapshots(here, order, odd))
	must(t, d.MarkBegun("order", "unknown"))
	d = reopened(t, d)
	got, err := d.Snapshots(here)
	must(t, err)
	order.Begun = true
	if diff := cmp.Diff(map[string]state.ImportRecord{"order": order, `o"d/d`: odd}, got); diff != "" {
		t.Error(diff)
	}
	must(t, d.RecordSnapshots(here, state.ImportRecord{Table: "order", ImportedAt: at}))
	if got, err = d.Snapshots(here); err != nil || got["order"].Begun {
		t.Errorf("a new snapshot is not begun: %+v, %v", got["order"], err)
	}
}

func TestImport_IsKeptUntilItSucceeds(t *testing.T) {
	d := open(t, t.TempDir())
	if _, ok, err := d.Import(); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	want := state.Import{Fingerprint: "f", Destination: "d", Started: at, Jobs: []state.ExportRecord{{ID: "j1", Started: at}}}
	must(t, d.BeginImport(state.Import{Fingerprint: "old"}))
	must(t, d.RecordTable("old", state.ImportTable{Job: "old"}))
	must(t, d.BeginImport(want))
	want.Jobs = append(want.Jobs, state.ExportRecord{ID: "j2", Tables: []string{"a/b"}})
	must(t, d.RecordJobs(want.Jobs))
	must(t, d.RecordTable("order", state.ImportTable{Job: "j1"}))
	must(t, d.RecordTable("a/b", state.ImportTable{Job: "j2", ExportFailed: true}))
	must(t, d.RecordFile("a/b", "f1", state.ImportFile{Rows: 1, Bytes: 2}))
	must(t, d.RecordFile("order", "f1", state.ImportFile{Rows: 3, Bytes: 4}))
	must(t, d.RecordFile("unknown", "f1", state.ImportFile{}))
	snapshot := state.ImportRecord{
		Table: "order", Identity: here.Identity, Destination: here.Masked, Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: 5}},
		Job: "j1", Rows: 3, ImportedAt: at,
	}
	must(t, d.FinishTable(here, snapshot))
	d = reopened(t, d)
	want.Tables = map[string]state.ImportTable{
		"order": {Job: "j1", Done: true, Rows: 3, Clock: snapshot.Clock, Files: map[string]state.ImportFile{"f1": {Rows: 3, Bytes: 4}}},
		"a/b":   {Job: "j2", ExportFailed: true, Files: map[string]state.ImportFile{"f1": {Rows: 1, Bytes: 2}}},
	}
	got, ok, err := d.Import()
	if diff := cmp.Diff(want, got); diff != "" || !ok || err != nil {
		t.Errorf("%v, %v, %s", ok, err, diff)
	}
	must(t, d.FinishImport())
	if _, ok, err := d.Import(); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	all, err := d.Snapshots(here)
	if diff := cmp.Diff(map[string]state.ImportRecord{"order": snapshot}, all); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestDir_KeepsPositionsAndValues(t *testing.T) {
	d := open(t, t.TempDir())
	want := state.Settled{
		Key: here.Identity, Destination: here.Spelled,
		Position: cdc.Position{Sequence: 1 << 63, Stored: 1712345678901234567}, At: time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC),
	}
	must(t, d.RecordSettled("eds-1", here, want))
	must(t, d.SetValue("a", "b"))
	must(t, d.SetValue("c", "d"))
	must(t, d.SetValue("c", ""))
	d = reopened(t, d)
	got, ok, err := d.Settled("eds-1", here)
	if diff := cmp.Diff(want, got); diff != "" || !ok || err != nil {
		t.Errorf("%v, %v, %s", ok, err, diff)
	}
	if _, ok, err := d.Settled("eds-2", here); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	for key, want := range map[string]string{"a": "b", "c": "", "e": ""} {
		if got, err := d.Value(key); got != want || err != nil {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
}

// filled returns the content of a database file with some used pages.
func filled(t *testing.T) []byte {
	path := t.TempDir()
	d, err := state.Open(path)
	must(t, err)
	for i := range 50 {
		must(t, d.SaveSchema(fmt.Sprint("object", i), "1", []byte(strings.Repeat("x", 3000))))
		must(t, d.RecordTable(fmt.Sprint("table", i), state.ImportTable{Job: "j"}))
	}
	must(t, d.Close())
	text, err := os.ReadFile(filepath.Join(path, "eds.db"))
	must(t, err)
	return text
}

// TestOpen_ReportsDamage returns an error, does not panic, and leaves the file unchanged.
func TestOpen_ReportsDamage(t *testing.T) {
	good := filled(t)
	page := os.Getpagesize()
	overwrite := func(from, to int) []byte {
		bad := append([]byte(nil), good...)
		for i := from; i < min(to, len(bad)); i++ {
			bad[i] = 0xa5
		}
		return bad
	}
	for name, text := range map[string][]byte{
		"not a database":      []byte(strings.Repeat("hello\n", 20000)),
		"too short":           good[:100],
		"without pages":       good[:2*page],
		"truncated":           good[:len(good)/4],
		"without both metas":  overwrite(0, 2*page),
		"with bad pages":      overwrite(2*page, len(good)),
		"with one bad region": overwrite(6*page, 40*page),
	} {
		path := t.TempDir()
		file := filepath.Join(path, "eds.db")
		must(t, os.WriteFile(file, text, 0o600))
		d, err := state.Open(path)
		if err == nil {
			_ = d.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), file) || fault.Of(err) != fault.Fatal {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(file); string(now) != string(text) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestOpen_SurvivesOneDamagedMetaPage(t *testing.T) {
	text := filled(t)
	for i := range 64 {
		text[i] = 0
	}
	path := t.TempDir()
	must(t, os.WriteFile(filepath.Join(path, "eds.db"), text, 0o600))
	d := open(t, path)
	if _, ok, err := d.LoadSchema("object7", "1"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestOpen_RefusesTheStateOfANewerVersion(t *testing.T) {
	d := open(t, t.TempDir())
	must(t, d.Close())
	db, err := bbolt.Open(d.Path("eds.db"), 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("2")) }))
	must(t, db.Close())
	_, err = state.Open(d.Path())
	if err == nil || !strings.Contains(err.Error(), "newer version of eds") {
		t.Errorf("got %v", err)
	}
	if _, err := state.Open(d.Path()); errors.Is(err, state.ErrInUse) {
		t.Error("the lock was kept")
	}
}

func TestHasReference_IsSetWithTheFirstState(t *testing.T) {
	pending := func(d *state.Dir) bool {
		t.Helper()
		pending, err := d.HasReference()
		must(t, err)
		return pending
	}
	path := t.TempDir()
	d := open(t, path)
	must(t, os.WriteFile(d.Path("eds-data.db"), nil, 0o600))
	if d = reopened(t, d); pending(d) {
		t.Error("a reference server is pending although there was a state before")
	}
	must(t, d.Close())
	must(t, os.Remove(d.Path("eds.db")))
	d = open(t, path)
	if !pending(d) {
		t.Error("no reference server is pending")
	}
	snapshot := state.ImportRecord{
		Table: "order", Identity: here.Identity, Destination: here.Masked, Reference: true,
		Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: 7}},
	}
	must(t, d.FinishReference(here, snapshot))
	d = reopened(t, d)
	if pending(d) {
		t.Error("a reference server is still pending")
	}
	all, err := d.Snapshots(here)
	must(t, err)
	if diff := cmp.Diff(map[string]state.ImportRecord{"order": snapshot}, all); diff != "" {
		t.Error(diff)
	}
}

func TestReferenceTimes_ReadsOnlyRegularFiles(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"a directory": {func(path string) error { return os.Mkdir(path, 0o700) }, "it is not a file"},
		"a dead link": {func(path string) error { return os.Symlink("nowhere", path) }, "no such file or directory"},
		"nothing":     {func(string) error { return nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			must(t, c.make(d.Path("eds-data.db")))
			times, err := d.ReferenceTimes()
			if c.want == "" {
				if err != nil || len(times) > 0 {
					t.Errorf("%v, %v", times, err)
				}
				return
			}
			unreadable := new(state.ReferenceError)
			if !errors.As(err, &unreadable) || unreadable.Path != d.Path("eds-data.db") || unreadable.Err.Error() != c.want {
				t.Error(err)
			}
		})
	}
}
