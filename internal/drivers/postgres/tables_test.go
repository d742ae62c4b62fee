package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// sizes are the numbers of rows that select the two write paths of narrow tables.
var sizes = []int{1, 100}

// each runs a test once for each of the sizes.
func each(t *testing.T, test func(t *testing.T, rows int)) {
	for _, rows := range sizes {
		t.Run(fmt.Sprintf("rows=%d", rows), func(t *testing.T) { test(t, rows) })
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
	return d.query(`SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || 
		CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END ||
		CASE WHEN a.attcollation = '"C"'::regcollation THEN ' COLLATE C' ELSE '' END
		FROM pg_attribute a WHERE attrelid = '` + strings.ReplaceAll(`"`+strings.ReplaceAll(name, `"`, `""`)+`"`, `'`, `''`) +
		`'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`)
}

func TestMigrate_CreatesTypesOfTheSource(t *testing.T) {
	d := open(t)
	every := sinktest.Table(t, "every", 2, "company string", "id integer", "a string", "b enum", "c date-time", "d integer", "e number",
		"f boolean", "g object", "h array")
	sinktest.Equal(t, []string{`created table "every" with 10 columns`}, d.migrate(every))
	sinktest.Equal(t, []string{
		"company text NOT NULL COLLATE C", "id bigint NOT NULL", "a text", "b text", "c timestamp with time zone", "d bigint",
		"e double precision", "f boolean", "g jsonb", "h jsonb",
	}, d.columnsOf("every"))
	sinktest.Equal(t, nil, d.migrate(every))
}

func TestApply_CompositeKeys(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t)
		part := sinktest.Table(t, "part", 2, "order string", "line integer", "what string")
		d.MustApply(sinktest.NewChanges(t, 0).Put(part, sinktest.Repeat(rows, `{"order":"o#","line":1,"what":"first"}`)...).
			Put(part, sinktest.Repeat(rows, `{"order":"o#","line":2,"what":"x"}`)...).Batch())
		d.MustApply(sinktest.NewChanges(t, 0).Put(part, sinktest.Repeat(rows, `{"order":"o#","line":1,"what":"second"}`)...).
			Delete(part, sinktest.Repeat(rows, `{"order":"o#","line":2}`)...).Batch())
		sinktest.Equal(t, sinktest.Repeat(rows, "o#|1|second"), d.query(`SELECT "order", line, what FROM part ORDER BY 1, 2`))
	})
}

func TestMigrate_AddsColumnsAndWidensTypes(t *testing.T) {
	d := open(t)
	one := sinktest.Table(t, "order", 1, "id string", "n integer", "w integer", "b boolean", "at date-time", "f number", "j object")
	d.MustApply(sinktest.NewChanges(t, 0).Put(one, `{"id":"1","n":9007199254740993,"w":3,"b":true,"at":"2024-01-02T03:04:05.5Z","f":0.1,`+
		`"j":{"a":1}}`).Batch())
	two := sinktest.Table(t, "order", 1, "id string", "n number", "w string", "b string", "at string", "f string", "j string",
		"new date-time")
	sinktest.Equal(t, []string{
		`widened column "at" of table "order" from timestamp with time zone to hold any string`,
		`widened column "b" of table "order" from boolean to hold any string`,
		`widened column "f" of table "order" from double precision to hold any string`,
		`widened column "n" of table "order" from bigint to hold any number`,
		`added column "new" to table "order"`,
		`widened column "w" of table "order" from bigint to hold any string`,
	}, d.migrate(two))
	sinktest.Equal(t, []string{
		`at="2024-01-02T03:04:05.500000Z"`, `b="true"`, `f="0.1"`, `id="1"`, `j={"a": 1}`, `n=9007199254740993`,
		`w="3"`,
	}, fields(sinktest.Rows(t, d, two)[0]))
	d.MustApply(sinktest.NewChanges(t, 0).
		Put(two, `{"id":"1","n":1.25,"w":"x","b":"y","at":"z","f":"q","j":"r","new":"2024-01-02T00:00:00Z"}`).Batch())
	sinktest.Equal(t, []string{`at="z"`, `b="y"`, `f="q"`, `id="1"`, `j="r"`, `n=1.25`, `new="2024-01-02T00:00:00.000000Z"`, `w="x"`},
		fields(sinktest.Rows(t, d, two)[0]))
}

// fields returns the fields of a row, sorted by name. The strings of the row must not contain
// spaces.
func fields(row string) []string {
	var out []string
	for _, f := range strings.Split(row, " ") {
		if !strings.Contains(f, "=") {
			out[len(out)-1] += " " + f
			continue
		}
		out = append(out, f)
	}
	return sorted(out)
}

func TestMigrate_KeepsRemovedColumnsAsNullable(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t)
		d.exec(`CREATE TABLE "order" (id text PRIMARY KEY, gone text NOT NULL, required_before text NOT NULL, ` +
			`mine text NOT NULL DEFAULT 'kept')`)
		d.exec(`INSERT INTO "order" SELECT to_char(i, 'FM000'), 'old', 'x', 'mine' FROM generate_series(0, 0) i`)
		order := sinktest.Table(t, "order", 1, "id string", "required_before string")
		sinktest.Equal(t, []string{
			`allowed NULL in column "required_before" of table "order"`,
			`allowed NULL in column "gone" of table "order"`,
		}, d.migrate(order))
		d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, `{"id":"#","required_before":null}`)...).Batch())
		want := sinktest.Repeat(rows, "#|NULL|NULL|kept")
		want[0] = "000|old|NULL|mine"
		sinktest.Equal(t, want, d.query(`SELECT id, gone, required_before, mine FROM "order" ORDER BY id`))
	})
}

func TestMigrate_DoesNotWidenColumnsOfAView(t *testing.T) {
	d := open(t)
	d.MustApply(sinktest.NewChanges(t, 0).Put(sinktest.Table(t, "order", 1, "id string", "n integer"), `{"id":"1","n":1}`).Batch())
	d.exec(`CREATE VIEW seen AS SELECT n FROM "order"`)
	two := sinktest.Table(t, "order", 1, "id string", "n string", "extra string")
	sinktest.Equal(t, []string{`added column "extra" to table "order"`}, d.migrate(two))
	sinktest.Equal(t, nil, d.migrate(two))
	d.MustApply(sinktest.NewChanges(t, 0).Put(two, `{"id":"2","n":"2","extra":"x"}`).Batch())
	err := d.Apply(t.Context(), sinktest.NewChanges(t, 0).Put(two, `{"id":"3","n":"three"}`).Batch())
	if fault.Of(err) != fault.Poison {
		t.Errorf("error %v is %v, want poison", err, fault.Of(err))
	}
	sinktest.Equal(t, []string{"1|1|NULL", "2|2|x"}, d.query(`SELECT * FROM "order" ORDER BY id`))
}

func TestApply_UsesForeignTablesAsTheyAre(t *testing.T) {
	for name, ddl := range map[string]string{
		"other types, order, defaults": `CREATE TABLE "order" (mine text DEFAULT 'd', n smallint, name varchar(20), id uuid PRIMARY KEY)`,
		"no key":                       `CREATE TABLE "order" (id uuid, name text, n int)`,
		"unique index": `CREATE TABLE "order" (id uuid, name text, n int); ` +
			`CREATE UNIQUE INDEX ON "order" (id) INCLUDE (name)`,
		"partial unique index": `CREATE TABLE "order" (id uuid, name text, n int); CREATE UNIQUE INDEX ON "order" (id) WHERE n > 0`,
		"another key": `CREATE TABLE "order" (serial bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid, ` +
			`name text, n int)`,
		"identity": `CREATE TABLE "order" (serial bigint GENERATED BY DEFAULT AS IDENTITY, id uuid PRIMARY KEY, ` +
			`name text, n int)`,
		"generated column": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int, ` +
			`twice int GENERATED ALWAYS AS (n * 2) STORED)`,
		"trigger": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int);
			CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'saw a row that is quite long %',
			  repeat('x', 200); RETURN NEW; END $$;
			CREATE TRIGGER t BEFORE INSERT OR UPDATE ON "order" FOR EACH ROW EXECUTE FUNCTION note()`,
		"foreign key to it": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int); CREATE TABLE line (o uuid REFERENCES "order")`,
		"partitioned": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int) PARTITION BY HASH (id);
			CREATE TABLE p0 PARTITION OF "order" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			  CREATE TABLE p1 PARTITION OF "order" FOR VALUES WITH (MODULUS 2, REMAINDER 1)`,
		"rule": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int); CREATE TABLE log (id uuid); ` +
			`CREATE RULE r AS ON DELETE TO "order" DO ALSO INSERT INTO log VALUES (old.id)`,
		"row security": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int); ALTER TABLE "order" ENABLE ROW LEVEL SECURITY`,
		"domains": `CREATE DOMAIN key AS uuid; CREATE DOMAIN small AS int CHECK (VALUE >= 0); ` +
			`CREATE TABLE "order" (id key PRIMARY KEY, name text, n small)`,
		"odd types": `CREATE TABLE "order" (id uuid PRIMARY KEY, name char(12), n money)`,
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, rows int) {
				d := open(t)
				d.exec(ddl)
				order := sinktest.Table(t, "order", 1, "id string", "name string", "n integer", "more string")
				if name == "generated column" {
					order = sinktest.Table(t, "order", 1, "id string", "name string", "n integer")
				}
				const id = `{"id":"00000000-0000-0000-0000-000000000#",`
				d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, id+`"name":"first","n":1}`)...).
					Put(order, sinktest.Repeat(2, `{"id":"10000000-0000-0000-0000-000000000#","name":"gone","n":1}`)...).Batch())
				d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(rows, id+`"name":"second","n":2}`)...).
					Delete(order, sinktest.Repeat(2, `{"id":"10000000-0000-0000-0000-000000000#"}`)...).Batch())
				sinktest.Equal(t, sinktest.Repeat(rows, "00000000-0000-0000-0000-000000000#|second|2"),
					d.query(`SELECT id, rtrim(name), n::numeric::int FROM "order" ORDER BY id`))
			})
		})
	}
}

func TestApply_HostileNames(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t)
		for _, name := range []string{
			`select`, `or"der`, `a.b/c\d`, `Mixed Case`, `'; DROP TABLE x; --`, `é😀`, `$1`,
			strings.Repeat("long", 20), strings.Repeat("é", 40), `_eds`, ` `, `%s`,
		} {
			tb := sinktest.Table(t, name, 1, name+" string", `user integer`, `x"y'z string`, strings.Repeat("long", 20)+"1 string",
				strings.Repeat("long", 20)+"2 string")
			long := strings.Repeat("long", 20)
			image := `{` + quoted(name) + `:"#","user":1,"x\"y'z":"v","` + long + `1":"one","` + long + `2":"two"}`
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
	each(t, func(t *testing.T, rows int) {
		d := open(t, "metadata=true")
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
		sinktest.Equal(t, sinktest.Repeat(rows, "#|third|UPDATE|0000000000000003000.0000000007|t"), d.query(`SELECT id, v, _eds_op, `+
			`_eds_version, _eds_synced_at BETWEEN now() - interval '1 hour' AND now() FROM "order" ORDER BY id`))
		at(3000, cdc.Update, `{"id":"#","v":"third again"}`)
		sinktest.Equal(t, sinktest.Repeat(rows, "#|third again"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		at(4000, cdc.Delete, `{"id":"#"}`)
		sinktest.Equal(t, nil, d.query(`SELECT id FROM "order"`))
	})
}

func TestApply_GuardsWithoutUniqueIndexAndForUnknownVersions(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := openURL(t, open(t).url, sink.Env{After: true})
		d.exec(`CREATE TABLE "order" (id text, v text)`)
		d.exec(fmt.Sprintf(`INSERT INTO "order" SELECT to_char(i, 'FM000'), 'unknown' FROM generate_series(0, %d) i`, rows-1))
		order := sinktest.Table(t, "order", 1, "id string", "v string")
		d.MustApply(sinktest.NewChanges(t, 1000).Put(order, sinktest.Repeat(rows, `{"id":"#","v":"new"}`)...).Batch())
		d.MustApply(sinktest.NewChanges(t, 100).Put(order, sinktest.Repeat(rows, `{"id":"#","v":"old"}`)...).Batch())
		sinktest.Equal(t, sinktest.Repeat(rows, "#|new"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		sinktest.Equal(t, []string{"id text", "v text", "_eds_version text COLLATE C"}, d.columnsOf("order"))
	})
}

func TestApply_SoftDeletes(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t, "delete=soft")
		order := sinktest.Table(t, "order", 1, "id string", "v string")
		h := sinktest.NewChanges(t, 0)
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":"here"}`)...).Batch())
		d.MustApply(h.Delete(order, sinktest.Repeat(rows, `{"id":"#"}`)...).Batch())
		sinktest.Equal(t, sinktest.Repeat(rows, "#|here|DELETE|t"), d.query(`SELECT id, v, _eds_op, _eds_deleted FROM "order" ORDER BY id`))
		sinktest.Equal(t, nil, sinktest.Rows(t, d, order))
		d.MustApply(h.Put(order, sinktest.Repeat(rows, `{"id":"#","v":"back"}`)...).Batch())
		sinktest.Equal(t, sinktest.Repeat(rows, "#|back|UPDATE|f"), d.query(`SELECT id, v, _eds_op, _eds_deleted FROM "order" ORDER BY id`))
	})
}

func TestRead_ReturnsWrittenRows(t *testing.T) {
	d := open(t, "metadata=true")
	every := sinktest.Table(t, "every", 1, "id string", "at date-time", "n integer", "f number", "b boolean", "j object", "l array",
		"e enum", "none string")
	images := []string{
		`{"id":"1","at":"0001-01-01T00:00:00Z","n":9223372036854775807,"f":0.30000000000000004,"b":true,"j":"scalar","l":[1,"a"],"e":"X"}`,
		`{"id":"2","at":"+010000-01-01T00:00:00.000001Z","n":-1,"f":-0.5,"b":false,"j":{},"l":[],"e":""}`,
		`{"id":"3","at":"-000001-06-01T00:00:00Z","n":0,"f":"NaN","b":false,"j":null,"l":[],"e":"\"\\\n"}`,
	}
	d.MustApply(sinktest.NewChanges(t, 0).Put(every, images...).Batch())
	sinktest.Equal(t, []string{
		`id="1" at="0001-01-01T00:00:00.000000Z" b=true e="X" f=0.30000000000000004 j="scalar" l=[1, "a"] n=9223372036854775807`,
		`id="2" at="+010000-01-01T00:00:00.000001Z" b=false e="" f=-0.5 j={} l=[] n=-1`,
		`id="3" at="-000001-06-01T00:00:00.000000Z" b=false e="\"\\\n" f="NaN" l=[] n=0`,
	}, sinktest.Rows(t, d, every))
	sinktest.Equal(t, nil, sinktest.Rows(t, d, sinktest.Table(t, "absent", 1, "id string")))
	for range d.Read(t.Context(), every) { // a reader may stop early
		break
	}
	sinktest.Equal(t, []string{`id="1" n=9223372036854775807`, `id="2" n=-1`, `id="3" n=0`},
		sinktest.Rows(t, d, sinktest.Table(t, "every", 1, "id string", "n integer", "lacking string")))
}

func TestOpen_CreatesAndUsesTheSchema(t *testing.T) {
	d := open(t, "schema=My+Shop")
	order := sinktest.Table(t, "order", 1, "id string")
	d.MustApply(sinktest.NewChanges(t, 0).Put(order, sinktest.Repeat(100, `{"id":"#"}`)...).Batch())
	sinktest.Equal(t, []string{"100"}, d.query(`SELECT count(*) FROM "My Shop"."order"`))
	sinktest.Equal(t, []string{"f"}, d.query(`SELECT to_regclass('public.order') IS NOT NULL`))
}

func TestApply_LargeValues(t *testing.T) {
	d := open(t)
	order := sinktest.Table(t, "order", 1, "id string", "big string", "deep object")
	big := strings.Repeat("0123456789", 1<<20)
	deep := strings.Repeat(`[`, 2000) + strings.Repeat(`]`, 2000)
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"one","big":"`+big+`","deep":`+deep+`}`).Batch())
	d.MustApply(h.Put(order, sinktest.Repeat(100, `{"id":"#","big":"small"}`)...).Put(order, `{"id":"two","big":"`+big+`"}`).Batch())
	sinktest.Equal(t, []string{"one|10485760|4000", "two|10485760|NULL"},
		d.query(`SELECT id, length(big), length(deep::text) FROM "order" WHERE length(big) > 10 ORDER BY id`))
	tooDeep := strings.Repeat(`[`, 9999) + strings.Repeat(`]`, 9999)
	if err := d.Apply(t.Context(), h.Put(order, `{"id":"three","deep":`+tooDeep+`}`).Batch()); err != nil && fault.Of(err) != fault.Poison {
		t.Errorf("too deep: %v is %v", err, fault.Of(err))
	}
}
