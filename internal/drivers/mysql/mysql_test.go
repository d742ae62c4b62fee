package mysql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/mysql"
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
	url string
	db  *peers.MySQL
}

// open opens a sink on a new database; options go to its URL.
func open(t testing.TB, options ...string) *destination {
	t.Helper()
	return openURL(t, peers.MariaDB(t), sink.Env{}, options...)
}

func openURL(t testing.TB, raw string, env sink.Env, options ...string) *destination {
	t.Helper()
	all := raw
	if len(options) > 0 {
		all += "?" + strings.Join(options, "&")
	}
	return &destination{Destination: sqltest.Open(t, mysql.Driver(), all, env), url: raw}
}

// beside returns a session other than the sink's. It opens the session on first use.
func (d *destination) beside() *peers.MySQL {
	d.T.Helper()
	if d.db == nil {
		d.db = beside(d.T, d.url)
	}
	return d.db
}

func (d *destination) exec(sql string) {
	d.T.Helper()
	d.beside().Run(d.T, sql)
}

// query returns the rows of a result. The values of a row are joined by |.
func (d *destination) query(sql string) []string {
	d.T.Helper()
	return d.beside().Lines(d.T, sql)
}

func TestApply_WritesBatchesOfAnySize(t *testing.T) {
	for _, width := range []int{2, 40} {
		for _, infile := range []string{"auto", "false"} {
			for _, size := range []int{1, 10, 63, 64, 500, 3000} {
				t.Run(fmt.Sprintf("columns=%d,rows=%d,infile=%s", width, size, infile), func(t *testing.T) {
					d := open(t, "local_infile="+infile)
					d.ApplySizes(width, size, func() []string { return d.query("SELECT id, c00 FROM `order` ORDER BY id") })
				})
			}
		}
	}
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

func quoted(name string) string { return string(rawjson.AppendQuoted(nil, name)) }
