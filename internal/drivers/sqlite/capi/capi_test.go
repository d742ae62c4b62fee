package capi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(t *testing.T, path string, options Options) *DB {
	t.Helper()
	db, err := Open(path, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func exec(t *testing.T, db *DB, sql string) {
	t.Helper()
	if err := db.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func prepare(t *testing.T, db *DB, sql string) *Stmt {
	t.Helper()
	st, err := db.Prepare(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	t.Cleanup(st.Finalize)
	return st
}

// code returns the result code of an error, or 0 if the error has no result code.
func code(err error) int {
	if e := new(Error); errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestStmt_ReturnsValuesOfEveryKind(t *testing.T) {
	db := openAt(t, ":memory:", Options{Create: true})
	exec(t, db, "CREATE TABLE t (a, b, c)")
	insert := prepare(t, db, "INSERT INTO t VALUES (?, ?, ?)")
	var args Args
	args.Null()
	args.Int(-1 << 63)
	args.Float(0.1)
	args.String("")
	args.Text([]byte("a\x00b\xff"))
	args.End(append(args.Begin(), "ended"...))
	if n, err := insert.Exec(&args); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	rows := prepare(t, db, "SELECT a, b, c FROM t")
	type values struct {
		Kinds  [3]StorageClass
		Int    int64
		Float  float64
		String [3]string
	}
	var got []values
	for {
		more, err := rows.Step()
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
		v := values{Kinds: [3]StorageClass{rows.Kind(0), rows.Kind(1), rows.Kind(2)}, Int: rows.Int(1), Float: rows.Float(2)}
		for i := range v.String {
			if k := v.Kinds[i]; k == Text {
				v.String[i] = rows.String(i)
			}
		}
		got = append(got, v)
	}
	want := []values{
		{Kinds: [3]StorageClass{Null, Integer, Real}, Int: -1 << 63, Float: 0.1},
		{Kinds: [3]StorageClass{Text, Text, Text}, String: [3]string{"", "a\x00b\xff", "ended"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The sizes of the texts make the statement's C memory grow and shrink.
func TestStmt_BindsTextsOfEverySize(t *testing.T) {
	db := openAt(t, ":memory:", Options{Create: true})
	echo := prepare(t, db, "SELECT ?, ?")
	for _, size := range []int{0, 10, 5000, 10, 20 << 20, 10, 0, 3 << 20, 1 << 20} {
		var args Args
		args.String(strings.Repeat("a", size))
		args.String(strings.Repeat("b", size))
		if err := echo.Bind(&args); err != nil {
			t.Fatal(err)
		}
		if _, err := echo.Step(); err != nil {
			t.Fatal(err)
		}
		a, b := echo.String(0), echo.String(1)
		if a != strings.Repeat("a", size) || b != strings.Repeat("b", size) || echo.Kind(0) != Text {
			t.Errorf("%d bytes: the statement returned %d and %d of kind %d", size, len(a), len(b), echo.Kind(0))
		}
		echo.Reset()
	}
}

func TestExec_ExecutesScripts(t *testing.T) {
	db := openAt(t, ":memory:", Options{Create: true})
	exec(t, db, " -- nothing\n; CREATE TABLE t (a); /* ; */ INSERT INTO t VALUES (1), (2), (3);; SELECT * FROM t;"+
		" UPDATE t SET a = 5 WHERE a > 1 -- done")
	if n := db.Changes(); n != 2 {
		t.Errorf("%d changes", n)
	}
	if db.InTransaction() {
		t.Error("a transaction is open")
	}
	exec(t, db, "BEGIN")
	if !db.InTransaction() {
		t.Error("no transaction is open")
	}
	if _, err := db.Prepare(" -- nothing"); err == nil {
		t.Error("an empty statement was prepared")
	}
}

func TestError_HasItsCode(t *testing.T) {
	dir := t.TempDir()
	db := openAt(t, filepath.Join(dir, "a.db"), Options{Create: true})
	exec(t, db, "CREATE TABLE t (a PRIMARY KEY, b CHECK (b <> 'secret')); INSERT INTO t VALUES (1, 1)")
	for sql, want := range map[string]string{
		"SELECT * FROM missing":              "no such table: missing (code 1)",
		"INSERT INTO t VALUES (1, 2)":        "UNIQUE constraint failed: t.a (code 1555)",
		"INSERT INTO t VALUES (2, 'secret')": "CHECK constraint failed: b <> 'secret' (code 275)",
	} {
		if err := db.Exec(sql); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", sql, err, want)
		}
	}
	_, err := Open(filepath.Join(dir, "missing.db"), Options{})
	if want := "unable to open database file (code 14): no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFunction_IsCalled(t *testing.T) {
	db := openAt(t, ":memory:", Options{Create: true})
	if err := db.Function("joined", 2, func(args []string) (string, error) {
		if args[0] == "bad" {
			return "", errors.New("it is bad")
		}
		return args[0] + "+" + args[1], nil
	}); err != nil {
		t.Fatal(err)
	}
	got := prepare(t, db, "SELECT joined('a', 5), joined('', NULL)")
	if _, err := got.Step(); err != nil || got.String(0) != "a+5" || got.String(1) != "+" {
		t.Errorf("%q, %q, %v", got.String(0), got.String(1), err)
	}
	err := db.Exec("SELECT joined('bad', 1)")
	if code(err) != 1043 || err.Error() != "it is bad (code 1043)" {
		t.Errorf("got %v", err)
	}
}

func TestWithin_EndsStatementsWithItsContext(t *testing.T) {
	db := openAt(t, ":memory:", Options{Create: true})
	ctx, cancel := context.WithCancel(t.Context())
	err := db.Within(ctx, func() error {
		cancel()
		return db.Exec("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := db.Within(ctx, func() error { return errors.New("was called") }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := db.Within(t.Context(), func() error { return db.Exec("SELECT 1") }); err != nil {
		t.Errorf("the next statement was interrupted: %v", err)
	}
}

func TestBusyTimeout_BoundsTheWaitForALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	holder := openAt(t, path, Options{Create: true})
	exec(t, holder, "CREATE TABLE t (a); BEGIN EXCLUSIVE")
	waited := 0
	for timeout, least := range map[time.Duration]int{0: 0, 30 * time.Millisecond: 1} {
		db := openAt(t, path, Options{BusyTimeout: timeout, Waiting: func() { waited++ }})
		began := time.Now()
		if err := db.Exec("SELECT * FROM t"); code(err) != CodeBusy {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d < timeout || d > timeout+10*time.Second {
			t.Errorf("waited for %v, not %v", d, timeout)
		}
		if waited < least {
			t.Error("Waiting was not called")
		}
	}
	waited = 0
	db := openAt(t, path, Options{BusyTimeout: time.Hour, Waiting: func() { waited++; exec(t, holder, "COMMIT") }})
	if err := db.Exec("SELECT * FROM t"); err != nil || waited != 1 {
		t.Errorf("%v after %d waits", err, waited)
	}
}

func TestMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	db := openAt(t, path, Options{Create: true})
	exec(t, db, "CREATE TABLE t (a)")
	if db.Moved() {
		t.Error("an unchanged file has moved")
	}
	other := openAt(t, path+"2", Options{Create: true})
	exec(t, other, "CREATE TABLE t (a)")
	if err := other.Exec("VACUUM INTO '" + path + "3'"); err != nil {
		t.Fatal(err)
	}
	rename(t, path+"3", path)
	if !db.Moved() || other.Moved() {
		t.Errorf("the replaced file: %v, the other: %v", db.Moved(), other.Moved())
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
