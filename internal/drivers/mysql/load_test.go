package mysql_test

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// load loads files, each a string of lines, and finishes the load.
func (d *destination) load(job string, t *schema.Table, mode sink.LoadMode, files ...[]string) {
	d.T.Helper()
	d.LoadFiles(job, t, mode, files...)
	sinktest.Equal(d.T, nil, d.query(`SELECT * FROM _eds_load`))
	sinktest.Equal(d.T, nil, d.query(`SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() `+
		`AND table_name LIKE '\_eds\_load\_%'`))
}

var loadable = []string{"id string", "v string", "n integer"}

func TestLoad_ReplacesTheTableAtItsEnd(t *testing.T) {
	for name, prepare := range map[string]string{
		"a table of ours": "DO 1",
		"a view on it":    "CREATE VIEW seen AS SELECT * FROM `order`",
		"grants":          "CREATE USER IF NOT EXISTS analyst; GRANT SELECT ON `order` TO analyst; GRANT UPDATE (v) ON `order` TO analyst",
		"a trigger":       "CREATE TRIGGER tr BEFORE INSERT ON `order` FOR EACH ROW SET NEW.n = NEW.n",
		"foreign key to it": "DELETE FROM `order` WHERE id <> '000'; CREATE TABLE line (o varchar(255) " +
			"CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin, FOREIGN KEY (o) REFERENCES `order` (id)); INSERT INTO line VALUES ('000')",
		"foreign key of it": "CREATE TABLE kind (n bigint PRIMARY KEY); INSERT INTO kind VALUES (1), (7), (8); " +
			"ALTER TABLE `order` ADD FOREIGN KEY (n) REFERENCES kind (n)",
		"extra column": "ALTER TABLE `order` ADD COLUMN mine varchar(9) DEFAULT 'x'",
		"index and comment": "CREATE INDEX by_v ON `order` (v(20)); ALTER TABLE `order` COMMENT 'orders', " +
			"MODIFY COLUMN n BIGINT COMMENT 'n'",
		"another unique":   "CREATE UNIQUE INDEX by_v ON `order` (id, n)",
		"check":            "ALTER TABLE `order` ADD CONSTRAINT small CHECK (n < 100)",
		"generated":        "ALTER TABLE `order` ADD COLUMN twice bigint AS (n * 2) STORED",
		"partitioned":      "ALTER TABLE `order` PARTITION BY KEY (id) PARTITIONS 2",
		"system versioned": "ALTER TABLE `order` ADD SYSTEM VERSIONING",
	} {
		t.Run(name, func(t *testing.T) {
			for _, option := range []string{"local_infile=auto", "local_infile=false"} {
				d := open(t, option)
				order := sinktest.Table(t, "order", 1, loadable...)
				d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"000","v":"old","n":1}`, `{"id":"old","v":"old","n":1}`).Batch())
				d.exec(prepare)
				before := d.dependents()
				l := d.StartLoad("job", order, sink.Replace)
				rows := sinktest.Repeat(500, `{"id":"#","v":"new","n":7}`)
				if _, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, rows[250:]...)); err != nil {
					t.Fatal(err)
				}
				if _, err := l.LoadFile(t.Context(), "two", sqltest.Images(order, rows[:250]...)); err != nil {
					t.Fatal(err)
				}
				sinktest.Equal(t, nil, d.query("SELECT id FROM `order` WHERE v = 'new'"))
				if _, err := l.Finish(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := l.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				sinktest.Equal(t, sinktest.Repeat(500, "#|new|7"), d.query("SELECT id, v, n FROM `order` ORDER BY id"))
				sinktest.Equal(t, before, d.dependents())
				d.MustApply(sinktest.NewChanges(t, 9000).Put(order, sinktest.Repeat(500, `{"id":"#","v":"after","n":8}`)...).Batch())
				sinktest.Equal(t, sinktest.Repeat(500, "#|after"), d.query("SELECT id, v FROM `order` ORDER BY id"))
				d.load("next job", order, sink.Replace, []string{`{"id":"000","v":"again"}`})
				sinktest.Equal(t, []string{"000|again"}, d.query("SELECT id, v FROM `order` ORDER BY id"))
			}
		})
	}
}

// dependents describes the table and the objects that depend on it.
func (d *destination) dependents() []string {
	lines := d.query("SHOW CREATE TABLE `order`")
	lines = append(lines, d.query("SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = DATABASE()")...)
	lines = append(lines, d.query("SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = DATABASE()")...)
	lines = append(lines, d.query("SELECT table_name, constraint_name, referenced_table_name "+
		"FROM information_schema.key_column_usage WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL")...)
	lines = append(lines, d.query("SELECT privilege_type FROM information_schema.table_privileges WHERE table_schema = DATABASE() "+
		"AND table_name = 'order'")...)
	return append(lines, d.query("SELECT column_name, privilege_type FROM information_schema.column_privileges "+
		"WHERE table_schema = DATABASE() AND table_name = 'order'")...)
}

// created selects an id that distinguishes a table from an earlier or later one with the same name.
const created = "SELECT table_id FROM information_schema.innodb_sys_tables WHERE name = CONCAT(DATABASE(), '/order')"

func TestLoad_SwapsATableWithoutDependents(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.migrate(order)
	d.exec("CREATE INDEX by_v ON `order` (v(20))")
	before := d.query(created)
	d.load("job", order, sink.Replace, sinktest.Repeat(10, `{"id":"#"}`))
	if after := d.query(created); after[0] == before[0] {
		t.Error("the rows were copied once more")
	}
}

// TestLoadFile_FailedFileLeavesNothingBesideANonTransactionalTable: the staging table is
// transactional.
func TestLoadFile_FailedFileLeavesNothingBesideANonTransactionalTable(t *testing.T) {
	for _, engine := range []string{"Aria", "MyISAM"} {
		d := open(t)
		order := sinktest.Table(t, "order", 1, loadable...)
		d.migrate(order)
		d.exec("ALTER TABLE `order` MODIFY id varchar(40), ENGINE=" + engine)
		l := d.StartLoad("job", order, sink.Replace)
		_, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, `{"id":"a"}`, `{"id":"b","n":"x"}`))
		if fault.Of(err) != fault.Poison {
			t.Fatalf("error %v", err)
		}
		if _, err := l.LoadFile(t.Context(), "two", sqltest.Images(order, `{"id":"a","v":"two"}`, `{"id":"c","v":"two"}`)); err != nil {
			t.Fatal(err)
		}
		if rows, err := l.Finish(t.Context()); err != nil || rows != 2 {
			t.Fatal(rows, err)
		}
		sinktest.Equal(t, []string{"a|two", "c|two"}, d.query("SELECT id, v FROM `order` ORDER BY id"))
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoad_KeepsTheLiveTableWithoutTriggerPrivilege(t *testing.T) {
	server := open(t)
	name := server.query("SELECT DATABASE()")[0]
	server.exec("CREATE USER IF NOT EXISTS blind; GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON " + name +
		".* TO blind")
	t.Cleanup(func() { server.exec("DROP USER blind") })
	d := openURL(t, asUser(t, server.url, "blind", ""), sink.Env{})
	order := sinktest.Table(t, "order", 1, loadable...)
	d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(100, `{"id":"#","v":"old"}`)...).Batch()) // without temporary tables
	before := server.query(created)
	server.exec("CREATE TABLE note (id text); CREATE TRIGGER tr AFTER INSERT ON `order` FOR EACH ROW INSERT INTO note VALUES (NEW.id)")
	d.T = t
	d.load("job", order, sink.Replace, []string{`{"id":"000","v":"new"}`, `{"id":"new","v":"new"}`})
	sinktest.Equal(t, before, server.query(created))
	sinktest.Equal(t, []string{"000|new", "new|new"}, server.query("SELECT id, v FROM `order` ORDER BY id"))
	sinktest.Equal(t, []string{"new"}, server.query("SELECT id FROM note WHERE id = 'new'"))
}

func TestLoad_KeepsValuesOfAnExtraColumn(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"kept"}`, `{"id":"gone"}`).Batch())
	d.exec("ALTER TABLE `order` ADD COLUMN mine text; UPDATE `order` SET mine = CONCAT('note on ', id)")
	d.load("job", order, sink.Replace, []string{`{"id":"kept","v":"new"}`, `{"id":"other","v":"new"}`})
	sinktest.Equal(t, []string{"kept|new|note on kept", "other|new|NULL"}, d.query("SELECT id, v, mine FROM `order` ORDER BY id"))
}

func TestLoad_KeepsConcurrentChangesOfTheTable(t *testing.T) {
	for name, change := range map[string]string{
		"column":  "ALTER TABLE `order` ADD COLUMN mine int DEFAULT 7",
		"index":   "CREATE INDEX by_n ON `order` (n)",
		"trigger": "CREATE TRIGGER tr BEFORE INSERT ON `order` FOR EACH ROW SET NEW.n = NEW.n",
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			order := sinktest.Table(t, "order", 1, loadable...)
			d.MustApply(sinktest.NewChanges(t, 0).Put(order, `{"id":"000"}`).Batch())
			l := d.StartLoad("job", order, sink.Replace)
			if _, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, sinktest.Repeat(5, `{"id":"#","v":"new"}`)...)); err != nil {
				t.Fatal(err)
			}
			d.exec(change)
			before := d.dependents()
			if _, err := l.Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			sinktest.Equal(t, before, d.dependents())
			sinktest.Equal(t, sinktest.Repeat(5, "#|new"), d.query("SELECT id, v FROM `order` ORDER BY id"))
		})
	}
}

func TestLoad_CleansUpAfterAnInterruptedSwap(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, loadable...)
	d.migrate(order)
	d.exec("CREATE TABLE _eds_old_order (id int)")
	d.load("job", order, sink.Replace, sinktest.Repeat(5, `{"id":"#"}`))
	sinktest.Equal(t, []string{"5"}, d.query("SELECT COUNT(*) FROM `order`"))
}
