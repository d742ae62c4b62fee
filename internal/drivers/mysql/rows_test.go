package mysql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// TestLoadRows_FindsRowsThatConstraintsRefuse: the load names the rows that the user's constraints
// refuse, and finishes without them.
func TestLoadRows_FindsRowsThatConstraintsRefuse(t *testing.T) {
	for name, ddl := range map[string]string{
		"check":                           "ALTER TABLE `order` ADD CONSTRAINT small CHECK (n < 10)",
		"check beside a column of others": "ALTER TABLE `order` ADD CONSTRAINT small CHECK (n < 10), ADD COLUMN mine int DEFAULT 7",
	} {
		for _, option := range []string{"local_infile=auto", "local_infile=false"} {
			t.Run(name+", "+option, func(t *testing.T) {
				d := open(t, option)
				order := sinktest.Table(t, "order", 1, loadable...)
				d.migrate(order)
				d.exec(ddl)
				l := d.StartLoad("job", order, sink.Replace)
				const bad = `{"id":"bad","v":"new","n":11}`
				rows := slices.Insert(sinktest.Repeat(5000, `{"id":"#","v":"new","n":1}`), 4321, bad)
				if _, err := l.LoadFile(t.Context(), "one", sqltest.Images(order, rows...)); fault.Of(err) != fault.Poison {
					t.Fatalf("a row that is refused: %v is %v", err, fault.Of(err))
				}
				var refused []string
				n, err := l.(sink.RowLoad).LoadRows(t.Context(), "one", sqltest.Images(order, rows...),
					func(row *change.Row, number int64, reason error) error {
						refused = append(refused, fmt.Sprint(number, " ", string(row.Image), " ", fault.Of(reason)))
						if strings.Contains(reason.Error(), "_eds_") {
							t.Errorf("the reason names the staging table: %v", reason)
						}
						return nil
					})
				if err != nil || n != 5000 {
					t.Fatalf("%d rows, %v", n, err)
				}
				sinktest.Equal(t, []string{"4322 " + bad + " poison"}, refused)
				if placed, err := l.Finish(t.Context()); placed != 5000 || err != nil {
					t.Fatalf("%d rows in place, %v", placed, err)
				}
				if err := l.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				sinktest.Equal(t, []string{"5000"}, d.query("SELECT COUNT(*) FROM `order`"))
			})
		}
	}
}
