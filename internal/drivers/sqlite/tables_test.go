package sqlite

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite/capi"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// fixture is a database file with a sink and a connection of another program.
type fixture struct {
	*testing.T
	path     string
	sink     *sqlsink.Sink
	user     *capi.DB
	sequence uint64
}

// newFixture creates a database file, runs the given statements, and opens the sink.
func newFixture(t *testing.T, statements string, options ...string) *fixture {
	t.Helper()
	w := &fixture{T: t, path: filepath.Join(t.TempDir(), "shop.db")}
	w.user = openAt(t, w.path)
	mustExec(t, w.user, statements)
	w.sink = w.open(strings.Join(options, "&"))
	return w
}

func (w *fixture) open(query string) *sqlsink.Sink {
	w.Helper()
	env := sink.Env{Stream: "s", Consumer: "c", Filter: "f"}
	s, err := open(w.Context(), &url.URL{Scheme: "sqlite", Path: w.path, RawQuery: query}, env)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(w.Context())); err != nil {
			w.Error(err)
		}
	})
	return s.(*sqlsink.Sink)
}

// table returns a table of the source. The parameter columns alternates names and types. The first
// columns, as many as keys says, are the key.
func table(t testing.TB, name string, keys int, columns ...any) *schema.Table {
	t.Helper()
	var list []schema.Column
	var key []string
	for i := 0; i < len(columns); i += 2 {
		list = append(list, schema.Column{Name: columns[i].(string), Type: columns[i+1].(schema.Type)})
		if i/2 < keys {
			key = append(key, columns[i].(string))
		}
	}
	table, err := schema.New(name, "1", key, list)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// batch returns a batch of changes. Each image is a whole row to upsert, or starts with - and is a
// row to delete.
func (w *fixture) batch(t *schema.Table, images ...string) *change.Batch {
	w.Helper()
	var b change.Builder
	splitter := change.NewSplitter(t)
	for _, image := range images {
		w.sequence++
		op, image, effect := cdc.Update, image, change.Effect{Table: t}
		row := &effect.Upsert
		if strings.HasPrefix(image, "-") {
			op, image, row = cdc.Delete, image[1:], &effect.Delete
		}
		spans, err := splitter.Split([]byte(image))
		if err != nil {
			w.Fatal(err)
		}
		if op == cdc.Delete {
			spans = spans[:t.Keys]
		}
		*row = &change.Row{Image: []byte(image), Spans: spans, Op: op, Clock: cdc.Timestamp{Wall: int64(w.sequence)}}
		at := cdc.Position{Sequence: w.sequence, Stored: int64(w.sequence)}
		b.Add(&cdc.Event{Position: at, Op: op, Table: t.Name, Payload: []byte(image)}, effect)
	}
	return b.Batch()
}

func (w *fixture) apply(t *schema.Table, images ...string) {
	w.Helper()
	if err := w.sink.Apply(w.Context(), w.batch(t, images...)); err != nil {
		w.Fatalf("apply: %v", err)
	}
}

// load imports rows that replace the table's rows or, depending on the mode, are merged into them.
func (w *fixture) load(t *schema.Table, mode sink.LoadMode, images ...string) {
	w.Helper()
	l, err := w.sink.BeginLoad(w.Context(), "job", t, mode, sink.Scope{})
	if err != nil {
		w.Fatalf("begin to load: %v", err)
	}
	splitter := change.NewSplitter(t)
	if _, err := l.LoadFile(w.Context(), "file", func(yield func(*change.Row, error) bool) {
		for _, image := range images {
			spans, err := splitter.Split([]byte(image))
			if !yield(&change.Row{Image: []byte(image), Spans: spans}, err) {
				return
			}
		}
	}); err != nil {
		w.Fatalf("load: %v", err)
	}
	if _, err := l.Finish(w.Context()); err != nil {
		w.Fatalf("finish: %v", err)
	}
	if err := l.Close(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// want compares the rows of a query, whose columns are joined by "|", with the expected rows.
func (w *fixture) want(sql string, want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, lines(w.T, w.user, sql)); diff != "" {
		w.Errorf("%s: %s", sql, diff)
	}
}

// sound checks the integrity of the file, and that eds has left no temporary objects in it.
func (w *fixture) sound() {
	w.Helper()
	w.want("PRAGMA integrity_check", "ok")
	w.want("SELECT name FROM sqlite_schema WHERE name LIKE '\\_eds\\_load\\_%' ESCAPE '\\' OR name = '_eds_widen'")
}

// reopen opens the other program's connection again, so that it reads the schema again.
func (w *fixture) reopen() { w.user = openAt(w.T, w.path) }

const usersTable = `CREATE TABLE Customer (
  id VARCHAR(40) PRIMARY KEY, -- the source's
  name TEXT NOT NULL DEFAULT 'unknown' CHECK (length(name) < 100),
  visits INT,
  note TEXT,
  shout AS (upper(name))
);
CREATE INDEX customer_name ON Customer (name) WHERE visits > 0;
CREATE UNIQUE INDEX customer_shout ON Customer (shout);
CREATE VIEW regulars AS SELECT c.id, c.shout FROM Customer c WHERE c.visits > 1;
CREATE VIEW all_of_it AS SELECT * FROM customer JOIN regulars USING (id);
CREATE TABLE visit (customer TEXT REFERENCES Customer (id) ON DELETE CASCADE, at TEXT);
CREATE TRIGGER on_visit AFTER INSERT ON visit BEGIN UPDATE Customer SET note = 'seen' WHERE id = NEW.customer; END;
CREATE TRIGGER on_view INSTEAD OF DELETE ON regulars BEGIN DELETE FROM Customer WHERE id = OLD.id; END;
INSERT INTO Customer (id, name, visits) VALUES ('old', 'Old', 5)`

func TestLoad_KeepsIndexesViewsAndTriggers(t *testing.T) {
	w := newFixture(t, usersTable)
	customer := table(t, "customer", 1, "id", schema.String, "name", schema.String, "note", schema.String, "visits", schema.Integer)
	if _, err := w.sink.Migrate(t.Context(), []*schema.Table{customer}); err != nil {
		t.Fatal(err)
	}
	objects := "SELECT type, name, tbl_name, replace(sql, '\"Customer\"', 'Customer') FROM sqlite_schema" +
		" WHERE tbl_name NOT LIKE '\\_eds%' ESCAPE '\\' ORDER BY name"
	before := lines(t, w.user, objects)
	root := lines(t, w.user, "SELECT rootpage FROM sqlite_schema WHERE name = 'Customer'")
	w.load(customer, sink.Replace,
		`{"id":"a","name":"Ann","visits":1}`, `{"id":"b","name":"Bob","visits":2}`, `{"id":"a","name":"Anna","visits":3}`)
	if diff := cmp.Diff(root, lines(t, w.user, "SELECT rootpage FROM sqlite_schema WHERE name = 'Customer'")); diff == "" {
		t.Error("the rows were copied, although the stage could have replaced the table")
	}
	for range 2 {
		w.want("SELECT id, name, visits, note, shout FROM customer ORDER BY id", "a|Anna|3||ANNA", "b|Bob|2||BOB")
		w.want("SELECT * FROM all_of_it ORDER BY id", "a|Anna|3||ANNA|ANNA", "b|Bob|2||BOB|BOB")
		w.sound()
		w.reopen()
	}
	if diff := cmp.Diff(before, lines(t, w.user, objects)); diff != "" {
		t.Error(diff)
	}
	mustExec(t, w.user, "INSERT INTO visit VALUES ('a', 'now'); DELETE FROM regulars WHERE id = 'b'")
	w.want("SELECT id, note FROM customer", "a|seen")
	w.want("SELECT \"table\", \"to\" FROM pragma_foreign_key_list('visit')", "Customer|id")
	w.apply(customer, `{"id":"c","name":"Cid","visits":1}`)
	w.want("SELECT id FROM customer ORDER BY id", "a", "c")
}

func TestLoad_KeepsTheUsersColumns(t *testing.T) {
	w := newFixture(t, "CREATE TABLE customer (id TEXT PRIMARY KEY, own TEXT DEFAULT 'new', name TEXT, _eds_version TEXT);"+
		" INSERT INTO customer VALUES ('a', 'mine', 'A', '9'), ('b', 'mine', 'B', '9')")
	customer := table(t, "customer", 1, "id", schema.String, "name", schema.String)
	w.load(customer, sink.Replace, `{"id":"a","name":"Ann"}`, `{"id":"c","name":"Cid"}`)
	w.want("SELECT id, own, name FROM customer ORDER BY id", "a|mine|Ann", "c|new|Cid")
	w.sound()
}

func TestLoad_FiresTheUsersTriggers(t *testing.T) {
	w := newFixture(t, `CREATE TABLE customer (id TEXT PRIMARY KEY, name TEXT);
INSERT INTO customer VALUES ('old', 'Old'), ('stays', 'S');
CREATE TABLE seen (what TEXT);
CREATE TRIGGER came AFTER INSERT ON customer BEGIN INSERT INTO seen VALUES ('+' || NEW.id); END;
CREATE TRIGGER changed AFTER UPDATE ON customer BEGIN INSERT INTO seen VALUES (OLD.name || '>' || NEW.name); END;
CREATE TRIGGER went AFTER DELETE ON customer BEGIN INSERT INTO seen VALUES ('-' || OLD.id); END`)
	customer := table(t, "customer", 1, "id", schema.String, "name", schema.String)
	w.load(customer, sink.Replace, `{"id":"a","name":"Ann"}`, `{"id":"stays","name":"T"}`, `{"id":"a","name":"Anna"}`)
	w.want("SELECT * FROM customer ORDER BY id", "a|Anna", "stays|T")
	w.want("SELECT what FROM seen ORDER BY what", "+a", "-old", "S>T")
	w.want("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY 1", "came", "changed", "went")
	w.sound()
}

// The tables are as other tools would create them.
func TestSink_WritesTablesOfEveryKind(t *testing.T) {
	for name, definition := range map[string]string{
		"without rowid":    "CREATE TABLE thing (id TEXT PRIMARY KEY, n INT) WITHOUT ROWID",
		"strict":           "CREATE TABLE thing (id TEXT PRIMARY KEY, n INTEGER) STRICT",
		"no key":           "CREATE TABLE thing (id TEXT, n INT)",
		"no key, no types": "CREATE TABLE thing (id, n)",
		"a unique index":   "CREATE TABLE thing (id TEXT NOT NULL, n INT); CREATE UNIQUE INDEX thing_id ON thing (id)",
		"a unique index of part": "CREATE TABLE thing (id TEXT NOT NULL, n INT);" +
			" CREATE UNIQUE INDEX thing_id ON thing (id) WHERE n > 5",
		"a unique index of more":     "CREATE TABLE thing (id TEXT NOT NULL, n INT, UNIQUE (id, n))",
		"another key":                "CREATE TABLE thing (own INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, n INT)",
		"another key only":           "CREATE TABLE thing (own INTEGER PRIMARY KEY, id TEXT, n INT)",
		"descending":                 "CREATE TABLE thing (id TEXT, n INT, PRIMARY KEY (id DESC))",
		"a check that says its name": "CREATE TABLE thing (id TEXT PRIMARY KEY, n INT, CHECK (thing.n < 100))",
		"a check":                    "CREATE TABLE thing (id TEXT PRIMARY KEY CONSTRAINT short CHECK (length(id) < 10), n INT)",
		"in quotes":                  "CREATE TABLE \"THING\"(\"Id\" TEXT PRIMARY KEY, [N] INT)",
		"a generated column":         "CREATE TABLE thing (id TEXT PRIMARY KEY, n INT, twice INT AS (n * 2) STORED)",
		"columns in another order":   "CREATE TABLE thing (n INT, x TEXT DEFAULT 'y', id TEXT PRIMARY KEY)",
		"utf-16":                     "PRAGMA encoding = 'UTF-16'; CREATE TABLE thing (id TEXT PRIMARY KEY, n INT)",
	} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t, definition)
			thing := table(t, "thing", 1, "id", schema.String, "n", schema.Integer)
			rows := "SELECT id, n FROM thing ORDER BY id"
			w.apply(thing, `{"id":"a","n":1}`, `{"id":"ä","n":2}`, `{"id":"A","n":3}`)
			w.apply(thing, `{"id":"a","n":4}`, `-{"id":"A"}`, `{"id":"c"}`)
			w.want(rows, "a|4", "c|", "ä|2")
			w.load(thing, sink.Replace, `{"id":"x","n":1}`, `{"id":"y","n":2}`, `{"id":"x","n":3}`)
			w.want(rows, "x|3", "y|2")
			w.load(thing, sink.Merge, `{"id":"x","n":5}`, `{"id":"z","n":6}`, `{"id":"z","n":7}`)
			w.want(rows, "x|5", "y|2", "z|7")
			w.load(thing, sink.ReplaceOrEmpty)
			w.want(rows)
			w.apply(thing, `{"id":"a","n":1}`)
			w.want(rows, "a|1")
			w.sound()
		})
	}
}

func TestApply_RefusesKeysThatTheTableCannotTellApart(t *testing.T) {
	w := newFixture(t, "CREATE TABLE thing (id TEXT PRIMARY KEY COLLATE NOCASE, n INT)")
	thing := table(t, "thing", 1, "id", schema.String, "n", schema.Integer)
	w.apply(thing, `{"id":"a","n":1}`)
	err := w.sink.Apply(t.Context(), w.batch(thing, `{"id":"A","n":2}`))
	if fault.Of(err) != fault.Poison {
		t.Errorf("got %v", err)
	}
	w.apply(thing, `-{"id":"A"}`)
	w.want("SELECT id, n FROM thing", "a|1")
	w.apply(thing, `-{"id":"a"}`)
	w.want("SELECT id, n FROM thing")
}

func TestApply_CallsRefusedRowsPoison(t *testing.T) {
	w := newFixture(t, `CREATE TABLE thing (id TEXT PRIMARY KEY, n INT CHECK (n > 0), u TEXT UNIQUE, must TEXT NOT NULL DEFAULT 'x');
CREATE TABLE counted (id INTEGER PRIMARY KEY, n INT);
CREATE TABLE strict (id TEXT PRIMARY KEY, n BLOB) STRICT;
CREATE TABLE watched (id TEXT PRIMARY KEY, n INT);
CREATE TRIGGER watch BEFORE INSERT ON watched WHEN NEW.n > 5 BEGIN SELECT RAISE(ABORT, 'too much'); END`)
	thing := table(t, "thing", 1, "id", schema.String, "n", schema.Integer, "u", schema.String)
	counted := table(t, "counted", 1, "id", schema.String, "n", schema.Integer)
	strict := table(t, "strict", 1, "id", schema.String, "n", schema.String)
	watched := table(t, "watched", 1, "id", schema.String, "n", schema.Integer)
	w.apply(thing, `{"id":"a","n":1,"u":"one"}`)
	for _, c := range []struct {
		table *schema.Table
		image string
		want  string
	}{
		{thing, `{"id":"b","n":0}`, "CHECK constraint failed: n > 0 (code 275)"},
		{thing, `{"id":"b","n":1,"u":"one"}`, "UNIQUE constraint failed: thing.u (code 2067)"},
		{counted, `{"id":"secret","n":1}`, "datatype mismatch (code 20)"},
		{strict, `{"id":"a","n":"secret"}`, "cannot store TEXT value in BLOB column strict.n (code 3091)"},
		{watched, `{"id":"a","n":6}`, "a trigger raised an error (code 1811)"},
	} {
		err := w.sink.Apply(t.Context(), w.batch(c.table, c.image))
		if want := fmt.Sprintf("apply the batch: write into table %q: %s", c.table.Name, c.want); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if fault.Of(err) != fault.Poison {
			t.Errorf("%v is %v", err, fault.Of(err))
		}
	}
	w.want("SELECT id FROM thing", "a")
}

func TestMigrate_WidensColumnsToText(t *testing.T) {
	w := newFixture(t, `CREATE TABLE thing (id TEXT PRIMARY KEY, n INT NOT NULL UNIQUE, r REAL, d DECIMAL(10,2), "when" DATETIME);
CREATE INDEX thing_n ON thing (n DESC, r);
CREATE VIEW big AS SELECT n FROM thing WHERE n > 1;
CREATE TABLE seen (n);
CREATE TRIGGER see AFTER UPDATE OF n ON thing BEGIN INSERT INTO seen VALUES (NEW.n); END;
INSERT INTO thing VALUES ('a', 9223372036854775807, 0.1, 12.5, '2026-01-02'), ('b', 2, 1e300, 3, 5),
  ('c', -1, NULL, 0.30000000000000004, NULL)`)
	thing := table(t, "thing", 1, "id", schema.String, "n", schema.String, "r", schema.String, "d", schema.String, "when", schema.String)
	steps, err := w.sink.Migrate(t.Context(), []*schema.Table{thing})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`widened column "d" of table "thing" from DECIMAL(10,2) to hold any string`,
		`allowed NULL in column "n" of table "thing"`,
		`widened column "n" of table "thing" from INT to hold any string`,
		`widened column "r" of table "thing" from REAL to hold any string`,
		`widened column "when" of table "thing" from DATETIME to hold any string`,
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
	w.apply(thing, `{"id":"d","n":"007","r":"1e5","d":"12.50","when":"5"}`)
	for range 2 {
		w.want("SELECT id, n, typeof(n), r, d, \"when\", typeof(\"when\") FROM thing ORDER BY id",
			"a|9223372036854775807|text|0.1|12.5|2026-01-02|text", "b|2|text|1e+300|3|5|text",
			"c|-1|text||0.30000000000000004||null", "d|007|text|1e5|12.50|5|text")
		w.want("SELECT id FROM thing INDEXED BY thing_n WHERE n = '2'", "b")
		w.want("SELECT n FROM big ORDER BY n", "2", "9223372036854775807")
		w.want("SELECT name, type FROM pragma_table_info('thing')", "id|TEXT", "n|TEXT", "r|TEXT", "d|TEXT", "when|TEXT")
		w.sound()
		w.reopen()
	}
	w.want("SELECT count(*) FROM seen", "3")
}

func TestApply_StoresValuesThatFitIfAColumnCannotBeWidened(t *testing.T) {
	w := newFixture(t, `CREATE TABLE thing (id INTEGER PRIMARY KEY, n INT CHECK (typeof(n) = 'integer'));
INSERT INTO thing VALUES (1, 5)`)
	thing := table(t, "thing", 1, "id", schema.String, "n", schema.String)
	w.apply(thing, `{"id":"2","n":"7"}`)
	for _, image := range []string{`{"id":"x","n":"1"}`, `{"id":"03","n":"1"}`, `{"id":"3","n":"x"}`, `{"id":"3","n":"007"}`} {
		if err := w.sink.Apply(t.Context(), w.batch(thing, image)); fault.Of(err) != fault.Poison {
			t.Errorf("%s: got %v", image, err)
		}
	}
	w.apply(thing, `-{"id":"1"}`)
	w.want("SELECT id, n, typeof(n) FROM thing", "2|7|integer")
	w.want("SELECT type FROM pragma_table_info('thing')", "INTEGER", "INT")
	w.sound()
}

func TestApply_RestoresDroppedTablesAndColumns(t *testing.T) {
	w := newFixture(t, "")
	thing := table(t, "thing", 1, "id", schema.String, "n", schema.Integer, "s", schema.String)
	w.apply(thing, `{"id":"a","n":1,"s":"x"}`)
	mustExec(t, w.user, "ALTER TABLE thing DROP COLUMN s")
	w.apply(thing, `{"id":"b","n":2,"s":"y"}`)
	w.want("SELECT id, n, s FROM thing ORDER BY id", "a|1|", "b|2|y")
	mustExec(t, w.user, "DROP TABLE thing")
	w.apply(thing, `{"id":"c","n":3,"s":"z"}`)
	w.want("SELECT id, n, s FROM thing", "c|3|z")
	mustExec(t, w.user, "DROP TABLE thing; CREATE TABLE thing (s TEXT, id TEXT)")
	w.apply(thing, `-{"id":"c"}`, `{"id":"d","n":4,"s":"z"}`)
	w.want("SELECT s, id, n FROM thing", "z|d|4")
	mustExec(t, w.user, "ALTER TABLE thing RENAME COLUMN id TO ident")
	err := w.sink.Apply(t.Context(), w.batch(thing, `-{"id":"d"}`))
	if !errors.As(err, new(*sink.TableError)) || fault.Of(err) != fault.Fatal {
		t.Errorf("got %v", err)
	}
	w.want("SELECT ident FROM thing", "d")
}

// Migrate refuses only the table with such columns.
func TestMigrate_RefusesColumnsThatDifferOnlyInCase(t *testing.T) {
	w := newFixture(t, "")
	twice := table(t, "twice", 1, "id", schema.String, "userId", schema.String, "userID", schema.String)
	thing := table(t, "thing", 1, "id", schema.String)
	_, err := w.sink.Migrate(t.Context(), []*schema.Table{twice, thing})
	refused := new(sink.TableError)
	if !errors.As(err, &refused) || refused.Table != "twice" || fault.Of(err) != fault.Fatal || errors.Is(err, sink.ErrMissing) {
		t.Errorf("want a fatal *sink.TableError, got %v", err)
	}
	w.want("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_eds%' ESCAPE '\\'", "thing")
}
