// Package lake_test reads files of batches with DuckDB, an independent implementation. It is a
// module of its own because DuckDB needs cgo.
package lake_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/duckdb/duckdb-go/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/file"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec("SET TimeZone = 'UTC'"); err != nil {
		t.Fatal(err)
	}
	return db
}

// query returns the rows of a query as text, columns joined by |.
func query(t *testing.T, db *sql.DB, text string) []string {
	t.Helper()
	rows, err := db.Query(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var row []string
		for _, v := range values {
			if !v.Valid {
				v.String = "NULL"
			}
			row = append(row, v.String)
		}
		all = append(all, strings.Join(row, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return all
}

var v1 = []schema.Column{
	{Name: "id", Type: schema.String},
	{Name: "at", Type: schema.DateTime},
	{Name: "count", Type: schema.Integer},
	{Name: "price", Type: schema.Number},
	{Name: "done", Type: schema.Boolean},
	{Name: "tags", Type: schema.Array},
	{Name: "more", Type: schema.Object},
	{Name: "name", Type: schema.String},
}

func tables(_ context.Context, table, version string) (*schema.Table, error) {
	columns := v1
	if version == "2" { // one column is added, another removed
		columns = append([]schema.Column{{Name: "extra", Type: schema.Integer}}, v1[:4]...)
	}
	return schema.New(table, version, []string{"id"}, columns)
}

// write writes each event as a batch, with the file driver.
func write(t *testing.T, options string, members ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	target, err := sink.ParseURL("file://"+dir+"?"+options, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s, err := file.Driver().Open(t.Context(), target, sink.Env{Stream: "s", Consumer: "c", Tables: tables})
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range members {
		n := i + 1
		e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: int64(n)}}
		payload := fmt.Sprintf(`{"id":"ev%d","table":"job","key":["j1"],"timestamp":%d,"mvccTimestamp":"%d",%s}`, n,
			1_700_000_000_123+i*86_400_000, 1_700_000_000_123_456_789+i, text)
		if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
			t.Fatal(err)
		}
		var b change.Builder
		b.Add(e, change.Effect{})
		if err := s.Apply(t.Context(), b.Batch()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func compare(t *testing.T, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParquet_ReadByDuckDB(t *testing.T) {
	for _, compression := range []string{"zstd", "gzip", "none"} {
		dir := write(t, "format=parquet&compress="+compression,
			`"operation":"INSERT","modelVersion":"1","after":{"id":"j1","at":"2023-11-14T22:13:20.123456+02:00",`+
				`"count":9223372036854775807,"price":12.34,"done":true,"tags":["a",1],"more":{"n":12345678901234567890},"name":"it's 😀 ü"}`,
			`"operation":"UPDATE","modelVersion":"1","after":{"id":"j1","count":9223372036854775808,"done":null,"name":"a\u0000b"}`)
		db := open(t)
		from := " FROM read_parquet('" + filepath.Join(dir, "job", "*.parquet") + "') ORDER BY _eds_sequence"
		compare(t, []string{
			"j1|2023-11-14 20:13:20.123456+00|9223372036854775807|12.34|true|1|12345678901234567890|it's 😀 ü|NULL",
			`j1|NULL|NULL|NULL|NULL|NULL|NULL|a` + "\x00" + `b|{"count":9223372036854775808}`,
		}, query(t, db, `SELECT id, "at"::VARCHAR, "count"::VARCHAR, price::VARCHAR, done::VARCHAR, tags->>1, more->>'n', name, `+
			`_eds_rest::VARCHAR`+from))
		compare(t, []string{"TIMESTAMP WITH TIME ZONE|BIGINT|DOUBLE|BOOLEAN|JSON|JSON|VARCHAR|BIGINT|TIMESTAMP WITH TIME ZONE|JSON"},
			query(t, db, `SELECT DISTINCT typeof("at"), typeof("count"), typeof(price), typeof(done), typeof(tags), `+
				`typeof(more), typeof(name), typeof(_eds_sequence), typeof(_eds_time), typeof(_eds_key) FROM read_parquet('`+
				filepath.Join(dir, "job", "*.parquet")+`')`))
		compare(t, []string{`INSERT|ev1|1|1700000000123456789.0000000000|2023-11-14 22:13:20.123+00|["j1"]|false`},
			query(t, db, `SELECT _eds_operation, _eds_id, _eds_version, _eds_clock, _eds_time::VARCHAR, _eds_key::VARCHAR, `+
				`_eds_imported::VARCHAR`+from+" LIMIT 1"))
	}
}

// TestParquet_ReadsGrowingSchema reads files of several versions and days as one table.
func TestParquet_ReadsGrowingSchema(t *testing.T) {
	dir := write(t, "format=parquet&layout=%7Btable%7D/dt=YYYY-MM-DD",
		`"operation":"INSERT","modelVersion":"1","after":{"id":"j1","count":1,"name":"one"}`,
		`"operation":"UPDATE","modelVersion":"2","after":{"id":"j1","count":2,"extra":7}`,
		`"operation":"INSERT","modelVersion":"2","after":{"id":"j2","count":3,"extra":8}`,
		`"operation":"DELETE","modelVersion":"2","before":{"id":"j2","count":3,"extra":8}`)
	db := open(t)
	all := "read_parquet('" + filepath.Join(dir, "job", "*", "*.parquet") + "', union_by_name = true, hive_partitioning = true)"
	compare(t, []string{"j1|1|NULL|one|2023-11-14", "j1|2|7|NULL|2023-11-15", "j2|3|8|NULL|2023-11-16", "j2|3|8|NULL|2023-11-17"},
		query(t, db, `SELECT id, "count"::VARCHAR, extra::VARCHAR, name, dt::VARCHAR FROM `+all+` ORDER BY _eds_sequence`))
	compare(t, []string{"j1|2"}, query(t, db, `SELECT id, "count"::VARCHAR FROM (SELECT *, row_number() OVER (PARTITION BY id `+
		`ORDER BY _eds_clock DESC, _eds_sequence DESC) AS n FROM `+all+`) WHERE n = 1 AND _eds_operation <> 'DELETE'`))
}

func TestNDJSON_ReadByDuckDB(t *testing.T) {
	for _, compression := range []string{"zstd", "gzip", "none"} {
		dir := write(t, "format=ndjson&compress="+compression, `"operation":"INSERT","after":{"id":"j1","count":1}`,
			`"operation":"UPDATE","after":{"id":"j1","count":2}`)
		files, err := filepath.Glob(filepath.Join(dir, "job", "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("files: %v, %v", files, err)
		}
		if _, err := os.Stat(files[0]); err != nil {
			t.Fatal(err)
		}
		compare(t, []string{"ev1|1", "ev2|2"}, query(t, open(t), `SELECT id, after.count::VARCHAR FROM read_json('`+files[0]+
			`', format = 'newline_delimited') ORDER BY id`))
	}
}
