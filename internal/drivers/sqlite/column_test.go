package sqlite

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

// memory opens a new database in memory.
func memory(t testing.TB) *capi.DB {
	t.Helper()
	return openAt(t, ":memory:")
}

func openAt(t testing.TB, path string) *capi.DB {
	t.Helper()
	db, err := capi.Open(path, capi.Options{Create: true, BusyTimeout: 10 * time.Second})
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

func mustExec(t testing.TB, db *capi.DB, sql string) {
	t.Helper()
	if err := db.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// lines returns the rows of a query. The columns of a row are joined by "|".
func lines(t testing.TB, db *capi.DB, sql string) []string {
	t.Helper()
	st, err := db.Prepare(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer st.Finalize()
	var all []string
	for {
		more, err := st.Step()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if !more {
			return all
		}
		var row []string
		for i := range st.Columns() {
			row = append(row, st.String(i))
		}
		all = append(all, strings.Join(row, "|"))
	}
}

// encode appends a value to args, and returns the name of the rule that adjusted the value, or "".
// The type of the source's column is kind.
func encode(args *capi.Args, kind schema.Type, a affinity, raw []byte) (rule string, err error) {
	t := &sqlsink.Target{Slot: -1, Type: kind, Real: &sqlsink.RealColumn{Native: &attribute{affinity: a}}}
	c := newColumnEncoder(&sqlsink.Layout{Table: new(schema.Table)}, t, func(_, _, r string) { rule = r })
	err = c.encode(args, raw)
	return rule, err
}

// stored stores a raw value of the given kind in a column with the given declaration. It returns
// the type and the literal of the stored value, the value that Read returns if that value differs
// from the raw value, and the rule that adjusted the value. If storing fails, it returns the error.
func stored(t *testing.T, kind schema.Type, declaration, raw string) string {
	t.Helper()
	db := memory(t)
	mustExec(t, db, fmt.Sprintf("CREATE TABLE t (c %s)", declaration))
	var args capi.Args
	rule, err := encode(&args, kind, affinityOf(declaration), []byte(raw))
	if err != nil {
		return "error: " + err.Error()
	}
	insert, err := db.Prepare("INSERT INTO t VALUES (?)")
	if err != nil {
		t.Fatal(err)
	}
	defer insert.Finalize()
	if _, err := insert.Exec(&args); err != nil {
		return "refused: " + err.Error()
	}
	read, err := db.Prepare("SELECT c FROM t")
	if err != nil {
		t.Fatal(err)
	}
	defer read.Finalize()
	if _, err := read.Step(); err != nil {
		t.Fatal(err)
	}
	back := string(appendStored(nil, kind, read, 0))
	got := lines(t, db, "SELECT typeof(c), quote(c) FROM t")[0]
	if back != raw {
		got += " reads " + back
	}
	if rule != "" {
		got += " by " + rule
	}
	return got
}

func TestColumn_StoresValues(t *testing.T) {
	for _, c := range []struct {
		kind             schema.Type
		declaration, raw string
		want             string
	}{
		// Columns that eds creates.
		{schema.String, "TEXT", `"it's"`, `text|'it''s'`},
		{schema.String, "TEXT", `""`, `text|''`},
		{schema.String, "TEXT", `"007"`, `text|'007'`},
		{schema.String, "TEXT", `"1e5"`, `text|'1e5'`},
		{schema.String, "TEXT", `"\u00e9\ud83d\ude00"`, `text|'é😀' reads "é😀"`},
		{schema.String, "TEXT", `12.50`, `text|'12.50' reads "12.50"`},
		{schema.String, "TEXT", `{"a": 1}`, `text|'{"a": 1}' reads "{\"a\": 1}"`},
		{schema.String, "TEXT", "\"a\xffb\"", "text|'a\uFFFDb' reads \"a\uFFFDb\" by sqlite_invalid_utf8"},
		{schema.String, "TEXT", `"a\ud83db"`, "text|'a\uFFFDb' reads \"a\uFFFDb\" by sqlite_surrogate"},
		{schema.String, "TEXT", `"a\ufffdb"`, "text|'a\uFFFDb' reads \"a\uFFFDb\""},
		{schema.String, "TEXT", "\"\uFFFD\\ude00\"", "text|'\uFFFD\uFFFD' reads \"\uFFFD\uFFFD\" by sqlite_surrogate"},
		{schema.Enum, "TEXT", `"open"`, `text|'open'`},
		{schema.DateTime, "TEXT", `"2026-01-02T03:04:05+05:45"`, `text|'2026-01-01T21:19:05.000000Z' reads "2026-01-01T21:19:05.000000Z"`},
		{
			schema.DateTime, "TEXT", `"1969-12-31T23:59:59.9999999Z"`,
			`text|'1969-12-31T23:59:59.999999Z' reads "1969-12-31T23:59:59.999999Z" by sqlite_time_precision`,
		},
		{schema.DateTime, "TEXT", `"soon"`, `error: it is not a date and time of RFC 3339`},
		{schema.DateTime, "TEXT", `1767323045`, `error: it is not a date and time of RFC 3339`},
		{schema.Integer, "INTEGER", `9223372036854775807`, `integer|9223372036854775807`},
		{schema.Integer, "INTEGER", `-9223372036854775808`, `integer|-9223372036854775808`},
		{schema.Integer, "INTEGER", `9007199254740993`, `integer|9007199254740993`},
		{schema.Integer, "INTEGER", `12.0`, `integer|12 reads 12`},
		{schema.Integer, "INTEGER", `1e3`, `integer|1000 reads 1000`},
		{schema.Integer, "INTEGER", `"42"`, `integer|42 reads 42`},
		{schema.Integer, "INTEGER", `9223372036854775808`, `error: it is out of the type's range`},
		{schema.Integer, "INTEGER", `1e99999`, `error: it is out of the type's range`},
		{schema.Integer, "INTEGER", `1.5`, `error: it is not an integer`},
		{schema.Integer, "INTEGER", `true`, `error: it is not an integer`},
		{schema.Integer, "INTEGER", `"x"`, `error: it is not an integer`},
		{schema.Number, "REAL", `0.1`, `real|0.1`},
		{schema.Number, "REAL", `12.50`, `real|12.5 reads 12.5`},
		{schema.Number, "REAL", `3.0000000000000004`, `real|3.0000000000000004`},
		{schema.Number, "REAL", `5e-324`, `real|4.9406564584124654e-324`},
		{schema.Number, "REAL", `-0.0`, `real|0.0 reads 0`},
		{schema.Number, "REAL", `0.1234567890123456789`, `real|0.12345678901234568 reads 0.12345678901234568 by sqlite_float_precision`},
		{schema.Number, "REAL", `9007199254740993`, `real|9007199254740992.0 reads 9007199254740992 by sqlite_float_precision`},
		{schema.Number, "REAL", `1e400`, `error: it is out of the type's range`},
		{schema.Number, "REAL", `1e-400`, `real|0.0 reads 0 by sqlite_float_precision`},
		{schema.Number, "REAL", `"1.5"`, `real|1.5 reads 1.5`},
		{schema.Number, "REAL", `[1]`, `error: it is not a number`},
		{schema.Boolean, "INTEGER", `true`, `integer|1`},
		{schema.Boolean, "INTEGER", `false`, `integer|0`},
		{schema.Boolean, "INTEGER", `2`, `error: it is neither true nor false`},
		{schema.Boolean, "INTEGER", `"yes"`, `error: it is neither true nor false`},
		{schema.Object, "TEXT", `{"n": 12345678901234567890}`, `text|'{"n": 12345678901234567890}'`},
		{schema.Object, "TEXT", `"a scalar"`, `text|'"a scalar"'`},
		{schema.Object, "TEXT", `{"a":"\ud83d"}`, `text|'{"a":"\ud83d"}'`},
		{schema.Array, "TEXT", "[\"\xff\"]", "text|'[\"\uFFFD\"]' reads [\"\uFFFD\"] by sqlite_invalid_utf8"},
		{schema.Array, "TEXT", `12.50`, `text|'12.50'`},

		// Columns of other tools with affinity TEXT.
		{schema.Integer, "VARCHAR(20)", `123456789012345678901234567890`, `text|'123456789012345678901234567890'`},
		{schema.Integer, "TEXT", `1e2`, `text|'100' reads 100`},
		{schema.Number, "TEXT", `12.50`, `text|'12.50'`},
		{schema.Boolean, "TEXT", `true`, `text|'true'`},
		{schema.Boolean, "TEXT", `0`, `text|'false' reads false`},
		// Columns without an affinity.
		{schema.Integer, "", `9223372036854775807`, `integer|9223372036854775807`},
		{schema.Integer, "BLOB", `9223372036854775808`, `text|'9223372036854775808'`},
		{schema.Number, "", `1.5`, `real|1.5`},
		{schema.Number, "", `9007199254740993`, `integer|9007199254740993`},
		{schema.Number, "", `0.1234567890123456789`, `text|'0.1234567890123456789'`},
		{schema.String, "", `"007"`, `text|'007'`},
		// Columns that convert text to numbers.
		{schema.Number, "DECIMAL(10,2)", `12.50`, `real|12.5 reads 12.5`},
		{schema.Number, "DECIMAL(30,0)", `9007199254740993`, `integer|9007199254740993`},
		{schema.Number, "INT", `1.5`, `real|1.5`},
		{
			schema.Number, "NUMERIC", `123456789012345678901`,
			`real|1.2345678901234568e+20 reads 123456789012345680000 by sqlite_float_precision`,
		},
		{schema.Integer, "NUMERIC", `123456789012345678901`, `error: it is out of the type's range`},
		{schema.Integer, "REAL", `9007199254740992`, `real|9007199254740992.0`},
		{schema.Integer, "DOUBLE", `9007199254740993`, `error: it is out of the type's range`},
		{schema.Integer, "FLOAT", `9223372036854775807`, `error: it is out of the type's range`},
		{schema.String, "INTEGER", `"text"`, `text|'text'`},
		{schema.String, "INTEGER", `"42"`, `integer|42`},
		{schema.String, "NUMERIC", `"1.5"`, `real|1.5`},
		{schema.String, "REAL", `"5"`, `real|5.0`},
		{schema.String, "INTEGER", `"007"`, `error: the column would convert the text to a number, and change it`},
		{schema.String, "NUMERIC", `" 5"`, `error: the column would convert the text to a number, and change it`},
		{schema.String, "NUMERIC", `"+5"`, `error: the column would convert the text to a number, and change it`},
		{schema.String, "NUMERIC", `"5."`, `error: the column would convert the text to a number, and change it`},
		{schema.String, "NUMERIC", `"123456789012345678901"`, `error: the column would convert the text to a number, and change it`},
		{schema.String, "DATE", `"2026-01-02"`, `text|'2026-01-02'`},
		{schema.String, "NUMERIC", `"0x1F"`, `text|'0x1F'`},
		{schema.String, "NUMERIC", `"NaN"`, `text|'NaN'`},
		{schema.DateTime, "DATETIME", `"2026-01-02"`, `text|'2026-01-02T00:00:00.000000Z' reads "2026-01-02T00:00:00.000000Z"`},
		{schema.DateTime, "INTEGER", `"2026-01-02"`, `text|'2026-01-02T00:00:00.000000Z' reads "2026-01-02T00:00:00.000000Z"`},
		{schema.Object, "JSON", `{"a":1}`, `text|'{"a":1}'`},
		{schema.Object, "JSON", `12.50`, `real|12.5 reads 12.5`},
		{schema.Object, "JSON", `12345678901234567890`, `error: it is out of the type's range`},
		{schema.Boolean, "BOOLEAN", `true`, `integer|1`},
	} {
		if got := stored(t, c.kind, c.declaration, c.raw); got != c.want {
			t.Errorf("%v %s in a column %q:\n got %s\nwant %s", c.kind, c.raw, c.declaration, got, c.want)
		}
	}
}

func TestColumn_KeepsNUL(t *testing.T) {
	db := memory(t)
	mustExec(t, db, "CREATE TABLE t (c TEXT PRIMARY KEY)")
	var args capi.Args
	if rule, err := encode(&args, schema.String, asText, []byte(`"a\u0000b"`)); rule != "" || err != nil {
		t.Fatal(rule, err)
	}
	st, err := db.Prepare("INSERT INTO t VALUES (?)")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Finalize()
	if _, err := st.Exec(&args); err != nil {
		t.Fatal(err)
	}
	got := lines(t, db, "SELECT hex(c), typeof(c), c = char(97, 0, 98), c = 'a' FROM t")
	if diff := cmp.Diff([]string{"610062|text|1|0"}, got); diff != "" {
		t.Error(diff)
	}
}

// SQLite converts a text that looks like a number, and an integer.
func TestAffinity_MatchesSQLite(t *testing.T) {
	db := memory(t)
	for _, declaration := range []string{
		"", "TEXT", "INTEGER", "REAL", "NUMERIC", "BLOB", "INT", "TINYINT(3)", "UNSIGNED BIG INT", "VARCHAR(10)", "NCHAR", "CLOB",
		"DOUBLE PRECISION", "FLOAT", "DECIMAL(10,5)", "BOOLEAN", "DATE", "DATETIME", "STRING", "JSON", "CHARINT",
		"FLOATING POINT", "text", "FLOATBLOB", "POINT", "XBLOBTEXT",
	} {
		mustExec(t, db, fmt.Sprintf("CREATE TABLE t (c %s); INSERT INTO t VALUES ('5'), (5)", declaration))
		want := map[affinity]string{
			asText: "text|text", asIs: "text|integer", asInteger: "integer|integer", asNumeric: "integer|integer", asReal: "real|real",
		}[affinityOf(declaration)]
		if got := strings.Join(lines(t, db, "SELECT typeof(c) FROM t"), "|"); got != want {
			t.Errorf("%q: %s, want %s", declaration, got, want)
		}
		mustExec(t, db, "DROP TABLE t")
	}
}

// FuzzLooksNumeric compares looksNumeric with SQLite.
func FuzzLooksNumeric(f *testing.F) {
	for _, s := range []string{
		"5", "-5.25", " 1e5\t", "1e", ".5", "5.", ".", "+", "1e+5", "1e999", "0x10", "NaN", "Inf", "1_000", "12a", "", " ", "1 2",
		"--1", "1.5.2", "٣", "1\v", "\x001", "1\x00",
	} {
		f.Add([]byte(s))
	}
	db := memory(f)
	mustExec(f, db, "CREATE TABLE t (c NUMERIC)")
	insert, err := db.Prepare("INSERT INTO t VALUES (?)")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(insert.Finalize)
	f.Fuzz(func(t *testing.T, text []byte) {
		mustExec(t, db, "DELETE FROM t")
		var args capi.Args
		args.Text(text)
		if _, err := insert.Exec(&args); err != nil {
			t.Fatal(err)
		}
		number := lines(t, db, "SELECT typeof(c) FROM t")[0] != "text"
		// If only looksNumeric treated a text as a number, eds would refuse the text without need.
		if got := looksNumeric(text); got != number && (number || bytes.IndexByte(text, 0) < 0) {
			t.Fatalf("looksNumeric(%q) = %v, SQLite says %v", text, got, number)
		}
	})
}

// FuzzValues checks that Read returns an equal value, if a column stores a value without adjusting
// it.
func FuzzValues(f *testing.F) {
	declarations := []string{"TEXT", "INTEGER", "REAL", "NUMERIC", "", "DATETIME"}
	for _, raw := range []string{
		`"text"`, `"007"`, `12.50`, `-1e3`, `9007199254740993`, `true`, `{"a":[1.0,"\ud83d"]}`, `"2026-01-02T03:04:05.123+01:00"`,
		"\"\xff\\u0000\"", `1e400`, `"0"`, `-0.0`, `"-0"`, `"1e22"`,
	} {
		for kind := schema.String; kind <= schema.Array; kind++ {
			for i := range declarations {
				f.Add(byte(kind), byte(i), []byte(raw))
			}
		}
	}
	db := memory(f)
	var inserts, reads []*capi.Stmt
	for i, declaration := range declarations {
		mustExec(f, db, fmt.Sprintf("CREATE TABLE t%d (c %s)", i, declaration))
		for sql, list := range map[string]*[]*capi.Stmt{"INSERT INTO t%d VALUES (?)": &inserts, "SELECT c FROM t%d": &reads} {
			st, err := db.Prepare(fmt.Sprintf(sql, i))
			if err != nil {
				f.Fatal(err)
			}
			f.Cleanup(st.Finalize)
			*list = append(*list, st)
		}
	}
	f.Fuzz(func(t *testing.T, k, d byte, raw []byte) {
		kind, i := schema.String+schema.Type(k)%schema.Array, int(d)%len(declarations)
		raw = bytes.TrimSpace(raw)
		if rawjson.Valid(raw) != nil || rawjson.IsNull(raw) {
			return
		}
		var args capi.Args
		rule, err := encode(&args, kind, affinityOf(declarations[i]), raw)
		if err != nil {
			if strings.Contains(err.Error(), string(raw)) && len(raw) > 3 {
				t.Fatalf("the error has the value: %v", err)
			}
			return
		}
		mustExec(t, db, fmt.Sprintf("DELETE FROM t%d", i))
		if _, err := inserts[i].Exec(&args); err != nil {
			t.Fatal(err)
		}
		defer reads[i].Reset()
		if _, err := reads[i].Step(); err != nil {
			t.Fatal(err)
		}
		back := appendStored(nil, kind, reads[i], 0)
		column := schema.Column{Name: "c", Type: kind}
		want, _ := verify.Canonical(column, raw)
		got, null := verify.Canonical(column, back)
		if null || got != want && rule == "" {
			t.Fatalf("%v %q in a column %q reads %q, by rule %q", kind, raw, declarations[i], back, rule)
		}
	})
}

func TestRules_AreDocumented(t *testing.T) { sinktest.DocumentedRules(t, "sqlite", rules) }
