package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// sizes are numbers of rows that take the two paths of narrow tables.
var sizes = []int{1, 100}

// each runs a test for few rows and for many.
func each(t *testing.T, test func(t *testing.T, rows int)) {
	for _, rows := range sizes {
		t.Run(fmt.Sprintf("rows=%d", rows), func(t *testing.T) { test(t, rows) })
	}
}

// repeat writes n lines, of which %[1]d is the number.
func repeat(n int, format string) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = strings.ReplaceAll(format, "#", fmt.Sprintf("%03d", i))
	}
	return lines
}

func (d *destination) migrate(tables ...*schema.Table) []string {
	d.t.Helper()
	lines, err := d.Migrate(d.t.Context(), tables)
	if err != nil {
		d.t.Fatal(err)
	}
	return lines
}

// columnsOf lists the real columns of a table.
func (d *destination) columnsOf(name string) []string {
	d.t.Helper()
	return d.query(`SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END ||
		CASE WHEN a.attcollation = '"C"'::regcollation THEN ' COLLATE C' ELSE '' END
		FROM pg_attribute a WHERE attrelid = '` + strings.ReplaceAll(`"`+strings.ReplaceAll(name, `"`, `""`)+`"`, `'`, `''`) + `'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`)
}

func TestATableIsCreatedWithTheTypesOfTheSource(t *testing.T) {
	d := open(t)
	every := table(t, "every", 2, "company string", "id integer", "a string", "b enum", "c date-time", "d integer", "e number", "f boolean", "g object", "h array")
	equal(t, []string{`created table "every" with 10 columns`}, d.migrate(every))
	equal(t, []string{
		"company text NOT NULL COLLATE C", "id bigint NOT NULL", "a text", "b text", "c timestamp with time zone", "d bigint",
		"e double precision", "f boolean", "g jsonb", "h jsonb",
	}, d.columnsOf("every"))
	equal(t, nil, d.migrate(every))
}

func TestCompositeKeys(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t)
		part := table(t, "part", 2, "order string", "line integer", "what string")
		d.apply((&history{t: t}).put(part, repeat(rows, `{"order":"o#","line":1,"what":"first"}`)...).put(part, repeat(rows, `{"order":"o#","line":2,"what":"x"}`)...).batch())
		d.apply((&history{t: t}).put(part, repeat(rows, `{"order":"o#","line":1,"what":"second"}`)...).del(part, repeat(rows, `{"order":"o#","line":2}`)...).batch())
		equal(t, repeat(rows, "o#|1|second"), d.query(`SELECT "order", line, what FROM part ORDER BY 1, 2`))
	})
}

func TestColumnsAreAddedAndTypesWidened(t *testing.T) {
	d := open(t)
	one := table(t, "order", 1, "id string", "n integer", "w integer", "b boolean", "at date-time", "f number", "j object")
	d.apply((&history{t: t}).put(one, `{"id":"1","n":9007199254740993,"w":3,"b":true,"at":"2024-01-02T03:04:05.5Z","f":0.1,"j":{"a":1}}`).batch())
	two := table(t, "order", 1, "id string", "n number", "w string", "b string", "at string", "f string", "j string", "new date-time")
	equal(t, []string{
		`widened column "at" of table "order" from timestamp with time zone to hold any string`,
		`widened column "b" of table "order" from boolean to hold any string`,
		`widened column "f" of table "order" from double precision to hold any string`,
		`widened column "n" of table "order" from bigint to hold any number`,
		`added column "new" to table "order"`,
		`widened column "w" of table "order" from bigint to hold any string`,
	}, d.migrate(two))
	equal(t, []string{`at="2024-01-02T03:04:05.500000Z"`, `b="true"`, `f="0.1"`, `id="1"`, `j={"a": 1}`, `n=9007199254740993`, `w="3"`}, fields(d.rows(two)[0]))
	d.apply((&history{t: t}).put(two, `{"id":"1","n":1.25,"w":"x","b":"y","at":"z","f":"q","j":"r","new":"2024-01-02T00:00:00Z"}`).batch())
	equal(t, []string{`at="z"`, `b="y"`, `f="q"`, `id="1"`, `j="r"`, `n=1.25`, `new="2024-01-02T00:00:00.000000Z"`, `w="x"`}, fields(d.rows(two)[0]))
}

// fields splits a row without spaces in its strings, sorted by name.
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

func TestAColumnThatLeftTheSchemaStaysAndMayBeNull(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t)
		d.exec(`CREATE TABLE "order" (id text PRIMARY KEY, gone text NOT NULL, required_before text NOT NULL, mine text NOT NULL DEFAULT 'kept')`)
		d.exec(`INSERT INTO "order" SELECT to_char(i, 'FM000'), 'old', 'x', 'mine' FROM generate_series(0, 0) i`)
		order := table(t, "order", 1, "id string", "required_before string")
		equal(t, []string{`allowed NULL in column "required_before" of table "order"`, `allowed NULL in column "gone" of table "order"`}, d.migrate(order))
		d.apply((&history{t: t}).put(order, repeat(rows, `{"id":"#","required_before":null}`)...).batch())
		want := repeat(rows, "#|NULL|NULL|kept")
		want[0] = "000|old|NULL|mine"
		equal(t, want, d.query(`SELECT id, gone, required_before, mine FROM "order" ORDER BY id`))
	})
}

func TestAViewKeepsItsColumnsFromBeingWidened(t *testing.T) {
	d := open(t)
	d.apply((&history{t: t}).put(table(t, "order", 1, "id string", "n integer"), `{"id":"1","n":1}`).batch())
	d.exec(`CREATE VIEW seen AS SELECT n FROM "order"`)
	two := table(t, "order", 1, "id string", "n string", "extra string")
	equal(t, []string{`added column "extra" to table "order"`}, d.migrate(two))
	equal(t, nil, d.migrate(two))
	d.apply((&history{t: t}).put(two, `{"id":"2","n":"2","extra":"x"}`).batch())
	err := d.Apply(t.Context(), (&history{t: t}).put(two, `{"id":"3","n":"three"}`).batch())
	if fault.Of(err) != fault.Poison {
		t.Errorf("error %v is %v, want poison", err, fault.Of(err))
	}
	equal(t, []string{"1|1|NULL", "2|2|x"}, d.query(`SELECT * FROM "order" ORDER BY id`))
}

func TestTablesOfOthersAreUsedAsTheyAre(t *testing.T) {
	for name, ddl := range map[string]string{
		"other types, order, defaults": `CREATE TABLE "order" (mine text DEFAULT 'd', n smallint, name varchar(20), id uuid PRIMARY KEY)`,
		"no key":                       `CREATE TABLE "order" (id uuid, name text, n int)`,
		"unique index":                 `CREATE TABLE "order" (id uuid, name text, n int); CREATE UNIQUE INDEX ON "order" (id) INCLUDE (name)`,
		"partial unique index":         `CREATE TABLE "order" (id uuid, name text, n int); CREATE UNIQUE INDEX ON "order" (id) WHERE n > 0`,
		"another key":                  `CREATE TABLE "order" (serial bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid, name text, n int)`,
		"identity":                     `CREATE TABLE "order" (serial bigint GENERATED BY DEFAULT AS IDENTITY, id uuid PRIMARY KEY, name text, n int)`,
		"generated column":             `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)`,
		"trigger": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int);
			CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'saw a row that is quite long %', repeat('x', 200); RETURN NEW; END $$;
			CREATE TRIGGER t BEFORE INSERT OR UPDATE ON "order" FOR EACH ROW EXECUTE FUNCTION note()`,
		"foreign key to it": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int); CREATE TABLE line (o uuid REFERENCES "order")`,
		"partitioned": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int) PARTITION BY HASH (id);
			CREATE TABLE p0 PARTITION OF "order" FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE p1 PARTITION OF "order" FOR VALUES WITH (MODULUS 2, REMAINDER 1)`,
		"view":         `CREATE TABLE base (id uuid PRIMARY KEY, name text, n int); CREATE VIEW "order" AS SELECT * FROM base`,
		"rule":         `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int); CREATE TABLE log (id uuid); CREATE RULE r AS ON DELETE TO "order" DO ALSO INSERT INTO log VALUES (old.id)`,
		"row security": `CREATE TABLE "order" (id uuid PRIMARY KEY, name text, n int); ALTER TABLE "order" ENABLE ROW LEVEL SECURITY`,
		"domains":      `CREATE DOMAIN key AS uuid; CREATE DOMAIN small AS int CHECK (VALUE >= 0); CREATE TABLE "order" (id key PRIMARY KEY, name text, n small)`,
		"odd types":    `CREATE TABLE "order" (id uuid PRIMARY KEY, name char(12), n money)`,
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, rows int) {
				d := open(t)
				d.exec(ddl)
				order := table(t, "order", 1, "id string", "name string", "n integer", "more string")
				if name == "view" || name == "generated column" {
					order = table(t, "order", 1, "id string", "name string", "n integer")
				}
				const id = `{"id":"00000000-0000-0000-0000-000000000#",`
				d.apply((&history{t: t}).put(order, repeat(rows, id+`"name":"first","n":1}`)...).put(order, repeat(2, `{"id":"10000000-0000-0000-0000-000000000#","name":"gone","n":1}`)...).batch())
				d.apply((&history{t: t}).put(order, repeat(rows, id+`"name":"second","n":2}`)...).del(order, repeat(2, `{"id":"10000000-0000-0000-0000-000000000#"}`)...).batch())
				equal(t, repeat(rows, "00000000-0000-0000-0000-000000000#|second|2"), d.query(`SELECT id, rtrim(name), n::numeric::int FROM "order" ORDER BY id`))
			})
		})
	}
}

func TestHostileNames(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t)
		for _, name := range []string{`select`, `or"der`, `a.b/c\d`, `Mixed Case`, `'; DROP TABLE x; --`, `é😀`, `$1`, strings.Repeat("long", 20), strings.Repeat("é", 40), `_eds`, ` `, `%s`} {
			tb := table(t, name, 1, name+" string", `user integer`, `x"y'z string`, strings.Repeat("long", 20)+"1 string", strings.Repeat("long", 20)+"2 string")
			long := strings.Repeat("long", 20)
			image := `{` + quoted(name) + `:"#","user":1,"x\"y'z":"v","` + long + `1":"one","` + long + `2":"two"}`
			d.apply((&history{t: t}).put(tb, repeat(rows, image)...).put(tb, strings.ReplaceAll(image, "#", "gone")).batch())
			d.apply((&history{t: t}).del(tb, strings.ReplaceAll(image, "#", "gone")).batch())
			want := repeat(rows, `"#"`)
			var got []string
			for row, err := range d.Read(t.Context(), tb) {
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				got = append(got, string(row.Value(0)))
				if one, two := string(row.Value(tb.Slot([]byte(long+"1")))), string(row.Value(tb.Slot([]byte(long+"2")))); one != `"one"` || two != `"two"` {
					t.Errorf("%s: long names hold %s and %s", name, one, two)
				}
			}
			equal(t, want, sorted(got))
		}
	})
}

func TestMetadataAndTheVersionGuard(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t, "metadata=true")
		order := table(t, "order", 1, "id string", "v string")
		at := func(wall int64, op cdc.Op, image string) {
			t.Helper()
			h := &history{t: t, clock: wall}
			for _, line := range repeat(rows, image) {
				h.eventAt(cdc.Timestamp{Wall: wall, Logical: 7}, op, order, line)
			}
			d.apply(h.batch())
		}
		at(1000, cdc.Insert, `{"id":"#","v":"first"}`)
		at(3000, cdc.Update, `{"id":"#","v":"third"}`)
		at(2000, cdc.Update, `{"id":"#","v":"second, late"}`)
		at(2500, cdc.Delete, `{"id":"#"}`)
		equal(t, repeat(rows, "#|third|UPDATE|0000000000000003000.0000000007|t"), d.query(`SELECT id, v, _eds_op, _eds_version, _eds_synced_at BETWEEN now() - interval '1 hour' AND now() FROM "order" ORDER BY id`))
		at(3000, cdc.Update, `{"id":"#","v":"third again"}`)
		equal(t, repeat(rows, "#|third again"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		at(4000, cdc.Delete, `{"id":"#"}`)
		equal(t, nil, d.query(`SELECT id FROM "order"`))
	})
}

func TestTheGuardHoldsWithoutAUniqueIndexAndForRowsOfUnknownVersion(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := openURL(t, open(t).url, sink.Env{After: true})
		d.exec(`CREATE TABLE "order" (id text, v text)`)
		d.exec(fmt.Sprintf(`INSERT INTO "order" SELECT to_char(i, 'FM000'), 'unknown' FROM generate_series(0, %d) i`, rows-1))
		order := table(t, "order", 1, "id string", "v string")
		d.apply((&history{t: t, clock: 1000}).put(order, repeat(rows, `{"id":"#","v":"new"}`)...).batch())
		d.apply((&history{t: t, clock: 100}).put(order, repeat(rows, `{"id":"#","v":"old"}`)...).batch())
		equal(t, repeat(rows, "#|new"), d.query(`SELECT id, v FROM "order" ORDER BY id`))
		equal(t, []string{"id text", "v text", "_eds_version text COLLATE C"}, d.columnsOf("order"))
	})
}

func TestSoftDeletes(t *testing.T) {
	each(t, func(t *testing.T, rows int) {
		d := open(t, "delete=soft")
		order := table(t, "order", 1, "id string", "v string")
		h := &history{t: t}
		d.apply(h.put(order, repeat(rows, `{"id":"#","v":"here"}`)...).batch())
		d.apply(h.del(order, repeat(rows, `{"id":"#"}`)...).batch())
		equal(t, repeat(rows, "#|here|DELETE|t"), d.query(`SELECT id, v, _eds_op, _eds_deleted FROM "order" ORDER BY id`))
		equal(t, nil, d.rows(order))
		d.apply(h.put(order, repeat(rows, `{"id":"#","v":"back"}`)...).batch())
		equal(t, repeat(rows, "#|back|UPDATE|f"), d.query(`SELECT id, v, _eds_op, _eds_deleted FROM "order" ORDER BY id`))
	})
}

func TestRowsReadBack(t *testing.T) {
	d := open(t, "metadata=true")
	every := table(t, "every", 1, "id string", "at date-time", "n integer", "f number", "b boolean", "j object", "l array", "e enum", "none string")
	images := []string{
		`{"id":"1","at":"0001-01-01T00:00:00Z","n":9223372036854775807,"f":0.30000000000000004,"b":true,"j":"scalar","l":[1,"a"],"e":"X"}`,
		`{"id":"2","at":"+010000-01-01T00:00:00.000001Z","n":-1,"f":-0.5,"b":false,"j":{},"l":[],"e":""}`,
		`{"id":"3","at":"-000001-06-01T00:00:00Z","n":0,"f":"NaN","b":false,"j":null,"l":[],"e":"\"\\\n"}`,
	}
	d.apply((&history{t: t}).put(every, images...).batch())
	equal(t, []string{
		`id="1" at="0001-01-01T00:00:00.000000Z" b=true e="X" f=0.30000000000000004 j="scalar" l=[1, "a"] n=9223372036854775807`,
		`id="2" at="+010000-01-01T00:00:00.000001Z" b=false e="" f=-0.5 j={} l=[] n=-1`,
		`id="3" at="-000001-06-01T00:00:00.000000Z" b=false e="\"\\\n" f="NaN" l=[] n=0`,
	}, d.rows(every))
	equal(t, nil, d.rows(table(t, "absent", 1, "id string")))
	for range d.Read(t.Context(), every) { // a reader may stop early
		break
	}
	equal(t, []string{`id="1" n=9223372036854775807`, `id="2" n=-1`, `id="3" n=0`}, d.rows(table(t, "every", 1, "id string", "n integer", "lacking string")))
}

func TestASchemaIsMadeAndUsed(t *testing.T) {
	d := open(t, "schema=My+Shop")
	order := table(t, "order", 1, "id string")
	d.apply((&history{t: t}).put(order, repeat(100, `{"id":"#"}`)...).batch())
	equal(t, []string{"100"}, d.query(`SELECT count(*) FROM "My Shop"."order"`))
	equal(t, []string{"f"}, d.query(`SELECT to_regclass('public.order') IS NOT NULL`))
}

func TestLargeValues(t *testing.T) {
	d := open(t)
	order := table(t, "order", 1, "id string", "big string", "deep object")
	big := strings.Repeat("0123456789", 1<<20)
	deep := strings.Repeat(`[`, 2000) + strings.Repeat(`]`, 2000)
	h := &history{t: t}
	d.apply(h.put(order, `{"id":"one","big":"`+big+`","deep":`+deep+`}`).batch())
	d.apply(h.put(order, repeat(100, `{"id":"#","big":"small"}`)...).put(order, `{"id":"two","big":"`+big+`"}`).batch())
	equal(t, []string{"one|10485760|4000", "two|10485760|NULL"}, d.query(`SELECT id, length(big), length(deep::text) FROM "order" WHERE length(big) > 10 ORDER BY id`))
	tooDeep := strings.Repeat(`[`, 9999) + strings.Repeat(`]`, 9999)
	if err := d.Apply(t.Context(), h.put(order, `{"id":"three","deep":`+tooDeep+`}`).batch()); err != nil && fault.Of(err) != fault.Poison {
		t.Errorf("too deep: %v is %v", err, fault.Of(err))
	}
}
