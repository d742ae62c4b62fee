package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/drivers/postgres"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

func TestMain(m *testing.M) { sinktest.Main(m) }

// destination is a sink with a separate database.
type destination struct {
	*sqltest.Destination
	url  string
	conn *pgx.Conn
}

// open opens a sink on a new database; options go to its URL.
func open(t testing.TB, options ...string) *destination {
	t.Helper()
	return openURL(t, peers.Postgres(t), sink.Env{}, options...)
}

func openURL(t testing.TB, raw string, env sink.Env, options ...string) *destination {
	t.Helper()
	all := strings.Join(append([]string{raw}, options...), "&")
	d := &destination{Destination: sqltest.Open(t, postgres.Driver(), all, env), url: raw}
	t.Cleanup(func() {
		if d.conn != nil {
			d.conn.Close(context.Background())
		}
	})
	return d
}

// connection returns a session other than the sink's. It opens the session on first use.
func (d *destination) connection() *pgx.Conn {
	d.T.Helper()
	if d.conn == nil {
		conn, err := pgx.Connect(context.Background(), d.url)
		if err != nil {
			d.T.Fatal(err)
		}
		d.conn = conn
	}
	return d.conn
}

func (d *destination) exec(sql string) {
	d.T.Helper()
	if _, err := d.connection().Exec(context.Background(), sql); err != nil {
		d.T.Fatalf("%s: %v", sql, err)
	}
}

// query returns the rows of a result. The values of a row are joined by |.
func (d *destination) query(sql string) []string {
	d.T.Helper()
	rows, err := d.connection().Query(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		d.T.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var values []string
		for _, v := range rows.RawValues() {
			if v == nil {
				values = append(values, "NULL")
			} else {
				values = append(values, string(v))
			}
		}
		lines = append(lines, strings.Join(values, "|"))
	}
	if rows.Err() != nil {
		d.T.Fatal(rows.Err())
	}
	return lines
}

func TestApply_WritesBatchesOfAnySize(t *testing.T) {
	for _, width := range []int{2, 40} {
		for _, size := range []int{1, 10, 63, 64, 500, 5000} {
			t.Run(fmt.Sprintf("columns=%d,rows=%d", width, size), func(t *testing.T) {
				d := open(t)
				d.ApplySizes(width, size, func() []string { return d.query(`SELECT id, c00 FROM "order" ORDER BY id`) })
			})
		}
	}
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

func quoted(name string) string { return string(rawjson.AppendQuoted(nil, name)) }
