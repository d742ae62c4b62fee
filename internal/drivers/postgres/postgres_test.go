package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/postgres"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestMain(m *testing.M) { sinktest.Main(m) }

// destination is a sink on its own database.
type destination struct {
	*sqlsink.Sink
	t        testing.TB
	url      string
	conn     *pgx.Conn
	adjusted map[string]int // rule -> times
}

// open opens a sink on a new database; options go to its URL.
func open(t testing.TB, options ...string) *destination {
	t.Helper()
	return openURL(t, peers.Postgres(t), sink.Env{}, options...)
}

func openURL(t testing.TB, raw string, env sink.Env, options ...string) *destination {
	t.Helper()
	d := &destination{t: t, url: raw, adjusted: make(map[string]int)}
	env.Logger = slog.New(slog.DiscardHandler)
	env.Adjusted = func(table, column, rule string) { d.adjusted[rule]++ }
	target, err := url.Parse(strings.Join(append([]string{raw}, options...), "&"))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := postgres.Driver().Open(t.Context(), target, env)
	if err != nil {
		t.Fatal(err)
	}
	d.Sink = opened.(*sqlsink.Sink)
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
		if d.conn != nil {
			d.conn.Close(context.Background())
		}
	})
	return d
}

// connection is another session than the sink's, and kept.
func (d *destination) connection() *pgx.Conn {
	d.t.Helper()
	if d.conn == nil {
		conn, err := pgx.Connect(context.Background(), d.url)
		if err != nil {
			d.t.Fatal(err)
		}
		d.conn = conn
	}
	return d.conn
}

func (d *destination) exec(sql string) {
	d.t.Helper()
	if _, err := d.connection().Exec(context.Background(), sql); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// query returns the rows of a result, values joined by |.
func (d *destination) query(sql string) []string {
	d.t.Helper()
	rows, err := d.connection().Query(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		d.t.Fatal(err)
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
		d.t.Fatal(rows.Err())
	}
	return lines
}

func (d *destination) apply(b *change.Batch) {
	d.t.Helper()
	if err := d.Apply(d.t.Context(), b); err != nil {
		d.t.Fatal(err)
	}
}

func (d *destination) adjustments(want map[string]int) {
	d.t.Helper()
	if diff := cmp.Diff(want, maps.Clone(d.adjusted)); diff != "" {
		d.t.Errorf("adjusted (-want +got)\n%s", diff)
	}
}

func TestApply_WritesBatchesOfAnySize(t *testing.T) {
	for _, width := range []int{2, 40} {
		for _, size := range []int{1, 10, 63, 64, 500, 5000} {
			t.Run(fmt.Sprintf("columns=%d,rows=%d", width, size), func(t *testing.T) {
				d := open(t)
				columns := []string{"id string"}
				for i := range width - 1 {
					columns = append(columns, fmt.Sprintf("c%02d string", i))
				}
				order := sinktest.Table(t, "order", 1, columns...)
				h := sinktest.NewChanges(t, 0)
				row := func(i int, value string) string {
					var b strings.Builder
					fmt.Fprintf(&b, `{"id":"row%05d"`, i)
					for c := range width - 1 {
						fmt.Fprintf(&b, `,"c%02d":"%s %d"`, c, value, c)
					}
					return b.String() + "}"
				}
				for i := range size {
					h.Put(order, row(i, "first"))
				}
				d.apply(h.Batch())
				var want []string
				for i := range size {
					switch i % 5 {
					case 0:
						h.Delete(order, row(i, "first"))
						continue
					case 1:
						h.Delete(order, row(i, "first")).Put(order, row(i, "again"))
						want = append(want, fmt.Sprintf("row%05d|again 0", i))
					case 2:
						want = append(want, fmt.Sprintf("row%05d|first 0", i))
					default:
						h.Put(order, row(i, "second"))
						want = append(want, fmt.Sprintf("row%05d|second 0", i))
					}
				}
				d.apply(h.Batch())
				sinktest.Equal(t, want, d.query(`SELECT id, c00 FROM "order" ORDER BY id`))
			})
		}
	}
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

func quoted(name string) string { return string(rawjson.AppendQuoted(nil, name)) }
