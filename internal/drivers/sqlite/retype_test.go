package sqlite

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRetype_ChangesOneDeclaration(t *testing.T) {
	for _, c := range []struct{ sql, column, want string }{
		{`CREATE TABLE t (a INTEGER, b TEXT)`, "a", `CREATE TABLE t (a TEXT, b TEXT)`},
		{`CREATE TABLE t (a INTEGER)`, "A", `CREATE TABLE t (a TEXT)`},
		{`CREATE TABLE t (a, b)`, "a", `CREATE TABLE t (a TEXT, b)`},
		{`CREATE TABLE t (id, a)`, "a", `CREATE TABLE t (id, a TEXT)`},
		{`CREATE TABLE t (a DECIMAL(10, 2) NOT NULL DEFAULT (1+(2)))`, "a", `CREATE TABLE t (a TEXT NOT NULL DEFAULT (1+(2)))`},
		{`CREATE TABLE t (a UNSIGNED BIG INT CHECK (a > 0), "a b" INT)`, "a", `CREATE TABLE t (a TEXT CHECK (a > 0), "a b" INT)`},
		{`CREATE TABLE t (a INT, "a b" INT DEFAULT ',)')`, "a b", `CREATE TABLE t (a INT, "a b" TEXT DEFAULT ',)')`},
		{"CREATE TABLE \"t(\" ([x]]INT, `q``q` INT)", "x", ""},
		{"CREATE TABLE \"t(\" ([x] INT, `q``q` INT)", "q`q", "CREATE TABLE \"t(\" ([x] INT, `q``q` TEXT)"},
		{"CREATE TABLE \"t(\" ([x,] INT, 'y' INT)", "x,", "CREATE TABLE \"t(\" ([x,] TEXT, 'y' INT)"},
		{`CREATE TABLE t ("q""q" INT)`, `q"q`, `CREATE TABLE t ("q""q" TEXT)`},
		{
			"CREATE TABLE t (-- a INT,\n  a /* b, */ INT -- the end\n, b INT)", "a",
			"CREATE TABLE t (-- a INT,\n  a TEXT -- the end\n, b INT)",
		},
		{`CREATE TABLE t (a INT COLLATE NOCASE REFERENCES u(a), b AS (a || 'x'), PRIMARY KEY (b1), b1 INT)`, "b1", ""},
		{
			`CREATE TABLE t (b1 INT, a INT UNIQUE, PRIMARY KEY (b1), CHECK (a <> b1)) WITHOUT ROWID`, "a",
			`CREATE TABLE t (b1 INT, a TEXT UNIQUE, PRIMARY KEY (b1), CHECK (a <> b1)) WITHOUT ROWID`,
		},
		{`CREATE TABLE t (a INT, "primary" INT, PRIMARY KEY (a))`, "primary", `CREATE TABLE t (a INT, "primary" TEXT, PRIMARY KEY (a))`},
		{`CREATE TABLE t (größe INT, a INT)`, "größe", `CREATE TABLE t (größe TEXT, a INT)`},
		{`CREATE TABLE t (a INTEGER GENERATED ALWAYS AS (1), b)`, "a", `CREATE TABLE t (a TEXT GENERATED ALWAYS AS (1), b)`},
		{`CREATE TABLE t (a INT) STRICT`, "a", `CREATE TABLE t (a TEXT) STRICT`},
		// Definitions that retype does not understand.
		{`CREATE TABLE t (a INT)`, "b", ""},
		{`CREATE TABLE t (a INT, CHECK (unknown_function(a)))`, "a", ""},
		{`CREATE TABLE t (a INT`, "a", ""},
		{`CREATE VIRTUAL TABLE t USING fts5(a)`, "a", ""},
		{``, "a", ""},
	} {
		got, err := retype(c.sql, c.column, "TEXT")
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s, %s:\n got %s, %v\nwant %s", c.sql, c.column, got, err, c.want)
		}
	}
}

func TestShortest_KeepsEveryFloat(t *testing.T) {
	db := memory(t)
	if err := db.Function("eds_shortest", 1, shortest); err != nil {
		t.Fatal(err)
	}
	got := lines(t, db, `WITH f(x) AS (VALUES (0.1), (1.5), (-2.5e-7), (1e15), (5e-324), (1.7976931348623157e308),
  (3.0000000000000004), (0.1 + 0.2), (2.2250738585072014e-308), (1.0))
SELECT eds_shortest(printf('%!.17g', x)), CAST(eds_shortest(printf('%!.17g', x)) AS REAL) = x FROM f`)
	want := []string{
		"0.1|1", "1.5|1", "-2.5e-7|1", "1000000000000000|1", "5e-324|1", "1.7976931348623157e+308|1", "3.0000000000000004|1",
		"0.30000000000000004|1", "2.2250738585072014e-308|1", "1|1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzRetype checks that only the type of one column changes.
func FuzzRetype(f *testing.F) {
	for _, s := range []string{
		`CREATE TABLE t (a INT, "b c" DEFAULT 'x,', PRIMARY KEY (a))`, "CREATE TABLE [t] (`a` INT CHECK(a>(1)))--",
		`CREATE TABLE t(a/**/INT,b)`,
	} {
		f.Add(s, "a")
	}
	f.Fuzz(func(t *testing.T, sql, column string) {
		before, err := columnsOf(sql)
		if err != nil {
			return
		}
		changed, err := retype(sql, column, "TEXT")
		if err != nil {
			return
		}
		after, err := columnsOf(changed)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range before {
			if sameName(name, column) {
				c.declared = "TEXT"
			}
			if after[name] != c {
				t.Fatalf("%q: column %q became %v", sql, name, after[name])
			}
		}
	})
}
