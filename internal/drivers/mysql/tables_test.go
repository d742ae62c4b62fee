package mysql_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// ways are the write paths: for few rows, for many rows, and for many rows without LOAD DATA.
var ways = []struct {
	rows   int
	option string
}{{1, "local_infile=auto"}, {100, "local_infile=auto"}, {100, "local_infile=false"}}

// each runs a test for every write path, with the option that selects it.
func each(t *testing.T, test func(t *testing.T, rows int, option string)) {
	for _, w := range ways {
		t.Run(fmt.Sprintf("rows=%d,%s", w.rows, w.option), func(t *testing.T) { test(t, w.rows, w.option) })
	}
}

func (d *destination) migrate(tables ...*schema.Table) []string {
	d.T.Helper()
	lines, err := d.Migrate(d.T.Context(), tables)
	if err != nil {
		d.T.Fatal(err)
	}
	return lines
}

// columnsOf lists the real columns of a table.
func (d *destination) columnsOf(name string) []string {
	d.T.Helper()
	return d.query("SELECT CONCAT(column_name, ' ', column_type, IF(is_nullable = 'NO', ' NOT NULL', ''), IFNULL(CONCAT(' ', " +
		"collation_name), '')) " +
		"FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = '" + name + "' ORDER BY ordinal_position")
}

func TestMigrate_CreatesTypesOfTheSource(t *testing.T) {
	d := open(t)
	every := sinktest.Table(t, "every", 2, "company string", "id integer", "a string", "b enum", "c date-time", "d integer", "e number",
		"f boolean", "g object", "h array")
	sinktest.Equal(t, []string{`created table "every" with 10 columns`}, d.migrate(every))
	sinktest.Equal(t, []string{
		"company varchar(255) NOT NULL utf8mb4_nopad_bin", "id bigint(20) NOT NULL", "a longtext utf8mb4_general_ci",
		"b varchar(255) utf8mb4_general_ci",
		"c datetime(6)", "d bigint(20)", "e double", "f tinyint(1)", "g longtext utf8mb4_bin", "h longtext utf8mb4_bin",
	}, d.columnsOf("every"))
	sinktest.Equal(t, nil, d.migrate(every))
}

func TestMigrate_FitsManyEnumerationsAndLongKeysIntoARow(t *testing.T) {
	columns := []string{"a string", "b string", "c string", "d string", "e string"}
	for i := range 90 {
		columns = append(columns, fmt.Sprintf("e%02d enum", i))
	}
	d := open(t)
	wide := sinktest.Table(t, "wide", 5, columns...)
	d.MustApply(sinktest.NewChanges(t, 0).Put(wide, `{"a":"1","b":"2","c":"3","d":"4","e":"5","e89":"word"}`).Batch())
	sinktest.Equal(t, []string{"1|word"}, d.query("SELECT a, e89 FROM wide"))
	for i := range 20 { // columns are added one by one
		columns = append(columns, fmt.Sprintf("f%02d enum", i))
	}
	wider := sinktest.Table(t, "wide", 5, columns...)
	d.MustApply(sinktest.NewChanges(t, 5).Put(wider, `{"a":"1","b":"2","c":"3","d":"4","e":"5","e89":"x","f19":"y"}`).Batch())
	sinktest.Equal(t, []string{"x|y"}, d.query("SELECT e89, f19 FROM wide"))
}

func TestMigrate_AddsColumnsAndWidensTypes(t *testing.T) {
	d := open(t)
	one := sinktest.Table(t, "order", 1, "id string", "n integer", "w integer", "b boolean", "at date-time", "f number", "j object",
		"e enum")
	d.MustApply(sinktest.NewChanges(t, 0).Put(one, `{"id":"1","n":9007199254740993,"w":3,"b":true,"at":"2024-01-02T03:04:05.5Z","f":0.1,`+
		`"j":{"a":1},"e":"word"}`).Batch())
	two := sinktest.Table(t, "order", 1, "id string", "n number", "w string", "b string", "at string", "f string", "j string",
		"new date-time", "e string")
	sinktest.Equal(t, []string{
		`widened column "at" of table "order" from datetime(6) to hold any string`,
		`widened column "b" of table "order" from tinyint(1) to hold any string`,
		`widened column "e" of table "order" from varchar(255) to hold any string`,
		`widened column "f" of table "order" from double to hold any string`,
		`widened column "n" of table "order" from bigint(20) to hold any number`,
		`added column "new" to table "order"`,
		`widened column "w" of table "order" from bigint(20) to hold any string`,
	}, d.migrate(two))
	sinktest.Equal(t, []string{`id="1" at="2024-01-02T03:04:05.500000Z" b="1" e="word" f="0.1" j="{\"a\":1}" n=9007199254740993 w="3"`},
		sinktest.Rows(t, d, two))
	d.MustApply(sinktest.NewChanges(t, 5).Put(two, `{"id":"1","n":1.25,"w":"x","b":"y","at":"z","f":"q","j":"r",`+
		`"new":"2024-01-02T00:00:00Z","e":"`+strings.Repeat("long", 100)+`"}`).Batch())
	sinktest.Equal(t, []string{`id="1" at="z" b="y" e="` + strings.Repeat("long", 100) +
		`" f="q" j="r" n=1.25 new="2024-01-02T00:00:00.000000Z" w="x"`}, sinktest.Rows(t, d, two))
	three := sinktest.Table(t, "order", 1, "id string", "n string")
	d.migrate(three)
	sinktest.Equal(t, []string{"1.25"}, d.query("SELECT n FROM `order`"))
}

func TestMigrate_KeepsTheRestOfADefinition(t *testing.T) {
	d := open(t)
	d.exec("CREATE TABLE `order` (id varchar(36) PRIMARY KEY COMMENT 'the key', n int NOT NULL DEFAULT 5 COMMENT 'n, NOT NULL', " +
		"s varchar(9) NOT NULL COMMENT 'it''s s', w varchar(20) NOT NULL DEFAULT 'NOT NULL' COMMENT 'w')")
	sinktest.Equal(t, []string{
		`widened column "id" of table "order" from varchar(36) to hold any string`,
		`allowed NULL in column "n" of table "order"`,
		`widened column "n" of table "order" from int(11) to hold any integer`,
		`allowed NULL in column "s" of table "order"`,
		`allowed NULL in column "w" of table "order"`,
		`widened column "w" of table "order" from varchar(20) to hold any string`,
	}, sortedBy(d.migrate(sinktest.Table(t, "order", 1, "id string", "n integer", "w string"))))
	sinktest.Equal(t, []string{
		"id|varchar(255)|NO|NULL|the key", "n|bigint(20)|YES|5|n, NOT NULL", "s|varchar(9)|YES|NULL|it's s", "w|longtext|YES|NULL|w",
	}, d.query("SELECT column_name, column_type, is_nullable, NULLIF(column_default, 'NULL'), column_comment "+
		"FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'order'"))
}

// sortedBy sorts lines by the value of the named column. Lines with the same value are sorted by
// their text.
func sortedBy(lines []string) []string {
	column := func(line string) string { return strings.Split(line, `"`)[1] }
	for i := range lines {
		for k := i; k > 0 && column(lines[k]) < column(lines[k-1]); k-- {
			lines[k], lines[k-1] = lines[k-1], lines[k]
		}
	}
	return lines
}

func TestMigrate_KeepsRemovedColumnsAsNullable(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, option)
		d.exec("CREATE TABLE `order` (id varchar(255) PRIMARY KEY, gone text NOT NULL, required_before longtext NOT NULL, " +
			"mine varchar(10) NOT NULL DEFAULT 'kept')")
		d.exec("INSERT INTO `order` VALUES ('000', 'old', 'x', 'mine')")
		order := sinktest.Table(t, "order", 1, "id string", "required_before string")
		sinktest.Equal(t, []string{
			`allowed NULL in column "required_before" of table "order"`,
			`allowed NULL in column "gone" of table "order"`,
		}, d.migrate(order))
		d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"#","required_before":null}`)...).Batch())
		want := sinktest.Repeat(rows, "#|NULL|NULL|kept")
		want[0] = "000|old|NULL|mine"
		sinktest.Equal(t, want, d.query("SELECT id, gone, required_before, mine FROM `order` ORDER BY id"))
	})
}

func TestApply_UsesForeignTablesAsTheyAre(t *testing.T) {
	for name, ddl := range map[string]string{
		"other types, order, defaults": "CREATE TABLE `order` (mine varchar(9) DEFAULT 'd', n smallint, name varchar(20), " +
			"id char(36) PRIMARY KEY)",
		"other character set":   "CREATE TABLE `order` (id varchar(100) PRIMARY KEY, name varchar(20), n int) CHARACTER SET latin1",
		"a key that folds case": "CREATE TABLE `order` (id varchar(255) PRIMARY KEY, name text, n int) CHARACTER SET utf8mb4",
		"no key":                "CREATE TABLE `order` (id varchar(255), name text, n int)",
		"a key of a part":       "CREATE TABLE `order` (id text, name text, n int, PRIMARY KEY (id(50)))",
		"unique index":          "CREATE TABLE `order` (id varchar(255), name text, n int, UNIQUE (id))",
		"another unique index": "CREATE TABLE `order` (id varchar(255) " +
			"CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, name text, n int, mine int UNIQUE)",
		"another key":     "CREATE TABLE `order` (serial bigint AUTO_INCREMENT PRIMARY KEY, id varchar(255), name text, n int)",
		"bytes for a key": "CREATE TABLE `order` (id varbinary(200) PRIMARY KEY, name text, n int)",
		"generated column": "CREATE TABLE `order` (id varchar(255) PRIMARY KEY, name text, n int, " +
			"twice int AS (n * 2) STORED, more int AS (n * 3) VIRTUAL)",
		"trigger": "CREATE TABLE `order` (id varchar(255) PRIMARY KEY, name text, n int); " +
			"CREATE TABLE seen (x int); CREATE TRIGGER tr AFTER DELETE ON `order` FOR EACH ROW INSERT INTO seen VALUES (1)",
		"foreign key to it": "CREATE TABLE `order` (id varchar(255) PRIMARY KEY, name text, n int); " +
			"CREATE TABLE line (o varchar(255) REFERENCES `order` (id) ON DELETE CASCADE)",
		"partitioned": "CREATE TABLE `order` (id varchar(255) PRIMARY KEY, name text, " +
			"n int) PARTITION BY KEY (id) PARTITIONS 3",
		"odd types":     "CREATE TABLE `order` (id uuid PRIMARY KEY, name char(12), n decimal(20,4))",
		"not in InnoDB": "CREATE TABLE `order` (id varchar(200) PRIMARY KEY, name text, n int) ENGINE=Aria",
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, rows int, option string) {
				d := open(t, option)
				d.exec(ddl)
				order := sinktest.Table(t, "order", 1, "id string", "name string", "n integer", "fresh string")
				const id = `{"id":"00000000-0000-0000-0000-000000000#",`
				d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, id+`"name":"first","n":1}`)...).
					Put(order, sinktest.Repeat(2, `{"id":"10000000-0000-0000-0000-000000000#","name":"gone","n":1}`)...).Batch())
				d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, id+`"name":"second","n":2}`)...).
					Delete(order, sinktest.Repeat(2, `{"id":"10000000-0000-0000-0000-000000000#"}`)...).Batch())
				want := sinktest.Repeat(rows, "00000000-0000-0000-0000-000000000#|second|2")
				sinktest.Equal(t, want, d.query("SELECT id, name, CAST(n AS SIGNED) FROM `order` ORDER BY id"))
				d.load("job", order, sink.Replace, sinktest.Repeat(rows, id+`"name":"loaded","n":3}`))
				want = sinktest.Repeat(rows, "00000000-0000-0000-0000-000000000#|loaded|3")
				sinktest.Equal(t, want, d.query("SELECT id, name, CAST(n AS SIGNED) FROM `order` ORDER BY id"))
			})
		})
	}
}

// TestApply_KeepsKeysApartThatACollationEquates: if the key of a table ignores case, a row is
// refused if it would replace a row whose key differs in case.
func TestApply_KeepsKeysApartThatACollationEquates(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, option)
		d.exec("CREATE TABLE `order` (id varchar(255) PRIMARY KEY, v int) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"key#","v":1}`)...).Batch())
		for _, key := range []string{"KEY000", "Key000", "key000 ", "këy000"} {
			err := d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(order, fmt.Sprintf(`{"id":%q,"v":2}`, key)).
				Put(order, sinktest.Repeat(rows, `{"id":"more#","v":1}`)...).Batch())
			if fault.Of(err) != fault.Poison {
				t.Errorf("%q: %v of class %v, want poison", key, err, fault.Of(err))
			}
			d.MustApply(sinktest.NewChanges(t, 0).Delete(order, fmt.Sprintf(`{"id":%q}`, key)).
				Delete(order, sinktest.Repeat(rows, `{"id":"none#"}`)...).Batch())
		}
		err := d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(order, `{"id":"new","v":1}`, `{"id":"NEW","v":2}`).
			Put(order, sinktest.Repeat(rows, `{"id":"more#","v":1}`)...).Batch())
		if fault.Of(err) != fault.Poison {
			t.Errorf("both in one batch: %v of class %v, want poison", err, fault.Of(err))
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "key#|1"), d.query("SELECT id, v FROM `order` ORDER BY id"))
	})
}

// TestApply_NeverReplacesAnotherRow: a row is refused if another row has its value in a unique
// index.
func TestApply_NeverReplacesAnotherRow(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, option)
		d.exec("CREATE TABLE `order` (id varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, u bigint UNIQUE)")
		order := sinktest.Table(t, "order", 1, "id string", "u integer")
		d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"#","u":1#}`)...).Batch())
		err := d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(order, `{"id":"other","u":1000}`).
			Put(order, sinktest.Repeat(rows, `{"id":"x#","u":2#}`)...).Batch())
		if fault.Of(err) != fault.Poison || strings.Contains(err.Error(), "1000") {
			t.Errorf("error %v of class %v, want poison without the value", err, fault.Of(err))
		}
		sinktest.Equal(t, sinktest.Repeat(rows, "#|1#"), d.query("SELECT id, u FROM `order` ORDER BY id"))
	})
}

func TestApply_TriggersAndForeignKeysSeeOnlyRealChanges(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, option)
		order := sinktest.Table(t, "order", 1, "id string", "v integer")
		d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"#","v":1}`)...).Batch())
		d.exec("CREATE TABLE line (o varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin, FOREIGN KEY (o) " +
			"REFERENCES `order` (id) ON DELETE CASCADE); INSERT INTO line VALUES ('000'); " +
			"CREATE TABLE deleted (id text); CREATE TRIGGER tr AFTER DELETE ON `order` FOR EACH ROW INSERT INTO deleted VALUES (OLD.id)")
		d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"#","v":2}`)...).Batch())
		d.load("job", order, sink.Replace, sinktest.Repeat(rows, `{"id":"#","v":3}`))
		d.load("next", order, sink.Merge, sinktest.Repeat(rows, `{"id":"#","v":4}`))
		sinktest.Equal(t, sinktest.Repeat(rows, "#|4"), d.query("SELECT id, v FROM `order` ORDER BY id"))
		sinktest.Equal(t, []string{"000"}, d.query("SELECT o FROM line"))
		sinktest.Equal(t, nil, d.query("SELECT id FROM deleted"))
	})
}

func TestApply_HostileNames(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, option)
		for _, name := range []string{
			"select", "or`der", `or"der`, `a.b/c\d`, `Mixed Case`, `'; DROP TABLE x; --`, `é😀`, `?`,
			strings.Repeat("long", 20), strings.Repeat("é", 70), `_eds`, ` `, `%s`, "trailing ", "7", "a\x00b",
		} {
			long := strings.Repeat("long", 20)
			tb := sinktest.Table(t, name, 1, name+" string", `user integer`, "x`y'z string", long+"1 string", long+"2 string")
			image := `{` + quoted(name) + `:"#","user":1,"x` + "`" + `y'z":"v","` + long + `1":"one","` + long + `2":"two"}`
			d.MustApply(sinktest.NewChanges(t, 0).Put(tb, sinktest.Repeat(rows, image)...).Put(tb, strings.ReplaceAll(image, "#", "gone")).
				Batch())
			d.MustApply(sinktest.NewChanges(t, 0).Delete(tb, strings.ReplaceAll(image, "#", "gone")).Batch())
			want := sinktest.Repeat(rows, `"#"`)
			var got []string
			for row, err := range d.Read(t.Context(), tb) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got = append(got, string(row.Value(0)))
				if one, two := string(row.Value(tb.Slot([]byte(long+"1")))),
					string(row.Value(tb.Slot([]byte(long+"2")))); one != `"one"` || two != `"two"` {
					t.Errorf("%s: long names have %s and %s", name, one, two)
				}
			}
			sinktest.Equal(t, want, sorted(got))
		}
	})
}

func TestApply_MetadataAndVersionGuard(t *testing.T) {
	for name, ddl := range map[string]string{"ours": "DO 1", "of others": "CREATE TABLE `order` (id varchar(255), v text)"} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, rows int, option string) {
				d := open(t, "metadata=true", option)
				d.exec(ddl)
				order := sinktest.Table(t, "order", 1, "id string", "v string")
				at := func(wall int64, op cdc.Op, image string) {
					t.Helper()
					h := sinktest.NewChanges(t, wall)
					for _, line := range sinktest.Repeat(rows, image) {
						h.EventAt(cdc.Timestamp{Wall: wall, Logical: 7}, op, order, line)
					}
					d.MustApply(h.Batch())
				}
				at(1000, cdc.Insert, `{"id":"#","v":"first"}`)
				at(3000, cdc.Update, `{"id":"#","v":"third"}`)
				at(2000, cdc.Update, `{"id":"#","v":"second, late"}`)
				at(2500, cdc.Delete, `{"id":"#"}`)
				sinktest.Equal(t, sinktest.Repeat(rows, "#|third|UPDATE|0000000000000003000.0000000007|1"),
					d.query("SELECT id, v, _eds_op, _eds_version, _eds_synced_at BETWEEN UTC_TIMESTAMP() - INTERVAL 1 HOUR "+
						"AND UTC_TIMESTAMP() + INTERVAL 1 SECOND FROM `order` ORDER BY id"))
				at(3000, cdc.Update, `{"id":"#","v":"third again"}`)
				sinktest.Equal(t, sinktest.Repeat(rows, "#|third again"), d.query("SELECT id, v FROM `order` ORDER BY id"))
				d.exec("UPDATE `order` SET _eds_version = NULL")
				at(100, cdc.Update, `{"id":"#","v":"of unknown version before"}`)
				sinktest.Equal(t, sinktest.Repeat(rows, "#|of unknown version before"), d.query("SELECT id, v FROM `order` ORDER BY id"))
				at(4000, cdc.Delete, `{"id":"#"}`)
				sinktest.Equal(t, nil, d.query("SELECT id FROM `order`"))
			})
		})
	}
}

func TestApply_SoftDeletes(t *testing.T) {
	each(t, func(t *testing.T, rows int, option string) {
		d := open(t, "delete=soft", option)
		order := sinktest.Table(t, "order", 1, "id string", "v string")
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":"here"}`)...).Batch())
		d.MustApply(h.Delete(order, sinktest.Repeat(rows, `{"id":"#"}`)...).Batch())
		sinktest.Equal(t, sinktest.Repeat(rows, "#|here|DELETE|1"), d.query("SELECT id, v, _eds_op, _eds_deleted FROM `order` ORDER BY id"))
		sinktest.Equal(t, nil, sinktest.Rows(t, d, order))
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":"back"}`)...).Batch())
		sinktest.Equal(t, sinktest.Repeat(rows, "#|back|UPDATE|0"), d.query("SELECT id, v, _eds_op, _eds_deleted FROM `order` ORDER BY id"))
	})
}

// TestMigrate_WidensKeysAsFarAsTheyFit: eds does not try to widen a key beyond the index limit,
// even at the next start.
func TestMigrate_WidensKeysAsFarAsTheyFit(t *testing.T) {
	for name, c := range map[string]struct {
		types []string
		want  []string
	}{
		"three": {[]string{"varchar(36)", "varchar(36)", "varchar(36)"}, []string{"varchar(248)", "varchar(248)", "varchar(248)"}},
		"four": {
			[]string{"varchar(36)", "varchar(36)", "varchar(36)", "varchar(36)"},
			[]string{"varchar(186)", "varchar(186)", "varchar(186)", "varchar(186)"},
		},
		"as before": {[]string{"varchar(255)", "varchar(255)", "varchar(255)"}, []string{"varchar(255)", "varchar(255)", "varchar(255)"}},
		"no room": {
			[]string{"varchar(255)", "varchar(255)", "varchar(255)", "varchar(2)"},
			[]string{"varchar(255)", "varchar(255)", "varchar(255)", "varchar(3)"},
		},
		"shared": {
			[]string{"varchar(36)", "varchar(255)", "varchar(180)", "varchar(36)"},
			[]string{"varchar(163)", "varchar(255)", "varchar(186)", "varchar(164)"},
		},
		"numbers": {[]string{"varchar(36)", "bigint", "datetime(6)"}, []string{"varchar(255)", "bigint(20)", "datetime(6)"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			var definitions, names, columns []string
			for i, kind := range c.types {
				column := fmt.Sprintf("k%d", i)
				names = append(names, column)
				definitions = append(definitions, column+" "+kind+" NOT NULL")
				columns = append(columns, column+map[bool]string{true: " string", false: " integer"}[strings.HasPrefix(kind, "varchar")])
			}
			if name == "numbers" {
				columns[2] = "k2 date-time"
			}
			d.exec(fmt.Sprintf("CREATE TABLE `order` (%s, PRIMARY KEY (%s)) CHARACTER SET utf8mb4", strings.Join(definitions, ", "),
				strings.Join(names, ", ")))
			order := sinktest.Table(t, "order", len(names), columns...)
			d.migrate(order)
			sinktest.Equal(t, c.want, d.query("SELECT column_type FROM information_schema.columns WHERE table_schema = DATABASE() "+
				"AND table_name = 'order' ORDER BY ordinal_position"))
			if again := openURL(t, d.url, sink.Env{}).migrate(order); len(again) > 0 || strings.Contains(d.Log.String(), "refused") {
				t.Errorf("the second time: %q\n%s", again, d.Log)
			}
		})
	}
}

// TestMigrate_RefusesColumnsThatDifferOnlyInCase: only the table with such columns is refused.
func TestMigrate_RefusesColumnsThatDifferOnlyInCase(t *testing.T) {
	d := open(t)
	twice, thing := sinktest.Table(t, "twice", 1, "id string", "userId string", "userID string"), sinktest.Table(t, "thing", 1, "id string")
	lines, err := d.Migrate(t.Context(), []*schema.Table{twice, thing})
	refused := new(sink.TableError)
	if !errors.As(err, &refused) || refused.Table != "twice" || fault.Of(err) != fault.Fatal || errors.Is(err, sink.ErrMissing) {
		t.Errorf("want a fatal *sink.TableError, got %v", err)
	}
	sinktest.Equal(t, []string{`created table "thing" with 1 columns`}, lines)
	sinktest.Equal(t, []string{"thing"}, d.query("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"))
}
