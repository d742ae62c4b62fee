package mysql_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	driver "github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// benchBatch is a batch and the same rows encoded for LOAD DATA, sorted by key.
type benchBatch struct {
	*change.Batch
	raw []byte
}

// rawRows returns rows by key, with BenchRow's values, encoded for LOAD DATA.
func rawRows(columns int, rows map[string]int) []byte {
	var b bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		n := rows[key]
		b.WriteString(key)
		for i := range columns - 1 {
			b.WriteByte('\t')
			switch i % 10 {
			case 2:
				fmt.Fprintf(&b, "2024-03-%02d 10:%02d:03.%06d", n%28+1, n%60, n%1000000)
			case 3:
				fmt.Fprintf(&b, "%d", n*7919)
			case 4:
				fmt.Fprintf(&b, "%d.%02d", n%10000, n%100)
			case 5:
				fmt.Fprintf(&b, "%d", 1-n%2)
			case 6:
				b.WriteString("INVOICED")
			case 9:
				fmt.Fprintf(&b, `{"note":"n%d","tags":["a","b"],"amount":%d}`, n, n)
			default:
				fmt.Fprintf(&b, "some text of a usual length, number %d in column %d", n, i)
			}
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// BenchmarkApply compares batches with plain LOAD DATA ... REPLACE of the same rows into the same
// table. The result is the ratio of the two.
func BenchmarkApply(b *testing.B) {
	for _, columns := range []int{20, 60} {
		for _, size := range []int{5_000, 20_000} {
			b.Run(fmt.Sprintf("columns=%d/batch=%d", columns, size), func(b *testing.B) {
				t := sqltest.BenchTable(b, columns)
				var batches []benchBatch
				for _, batch := range sqltest.BenchBatches(b, t, 8, size) {
					batches = append(batches, benchBatch{batch.Batch, rawRows(columns, batch.Latest)})
				}
				for name, open := range map[string]func(*testing.B) func(benchBatch){
					"eds": func(b *testing.B) func(benchBatch) {
						d := openMigrated(b, t)
						return func(x benchBatch) { d.MustApply(x.Batch) }
					},
					"insert": func(b *testing.B) func(benchBatch) {
						d := openMigrated(b, t, "local_infile=false")
						return func(x benchBatch) { d.MustApply(x.Batch) }
					},
					"raw": func(b *testing.B) func(benchBatch) {
						d := openMigrated(b, t)
						return func(x benchBatch) { d.loadRaw(b, "order", x.raw) }
					},
				} {
					b.Run(name, func(b *testing.B) {
						apply := open(b)
						for _, x := range batches[:2] {
							apply(x)
						}
						b.ReportAllocs()
						n := 0
						for b.Loop() {
							apply(batches[2+n%(len(batches)-2)])
							n++
						}
						b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "events/s")
					})
				}
			})
		}
	}
}

func openMigrated(b *testing.B, t *schema.Table, options ...string) *destination {
	b.Helper()
	d := open(b, options...)
	if _, err := d.Migrate(b.Context(), []*schema.Table{t}); err != nil {
		b.Fatal(err)
	}
	return d
}

// loadRaw loads encoded rows in a session other than the sink's.
func (d *destination) loadRaw(b *testing.B, table string, rows []byte) {
	b.Helper()
	driver.RegisterReaderHandler("raw", func() io.Reader { return bytes.NewReader(rows) })
	defer driver.DeregisterReaderHandler("raw")
	d.exec("LOAD DATA LOCAL INFILE 'Reader::raw' REPLACE INTO TABLE `" + table + "` CHARACTER SET utf8mb4")
}

// BenchmarkLoad compares an import with plain LOAD DATA of the same rows, in random order and in
// key order.
func BenchmarkLoad(b *testing.B) {
	const rows = 100_000
	for _, columns := range []int{20, 60} {
		t := sqltest.BenchTable(b, columns)
		for _, order := range []string{"sorted", "shuffled"} {
			b.Run(fmt.Sprintf("columns=%d/%s", columns, order), func(b *testing.B) {
				keys := make(map[string]int)
				var lines []string
				for i := range rows {
					n := i
					if order == "shuffled" {
						n = i * 7919 % rows
					}
					key := fmt.Sprintf("5f3c%08d-0000-4000-8000-000000000000", n)
					keys[key] = n
					lines = append(lines, sqltest.BenchRow(columns, key, n))
				}
				b.Run("eds", func(b *testing.B) {
					d := openMigrated(b, t)
					for b.Loop() {
						d.importRows(b, t, lines)
					}
					b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
				})
				b.Run("raw", func(b *testing.B) {
					raw := rawRows(columns, keys)
					d := openMigrated(b, t)
					for b.Loop() {
						d.exec("CREATE TABLE fresh LIKE `order`")
						d.loadRaw(b, "fresh", raw)
						d.exec("DROP TABLE `order`; RENAME TABLE fresh TO `order`")
					}
					b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
				})
			})
		}
	}
}

// importRows imports rows.
func (d *destination) importRows(b *testing.B, t *schema.Table, lines []string) {
	b.Helper()
	l, err := d.BeginLoad(b.Context(), "job", t, sink.Replace, sink.Scope{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := l.LoadFile(b.Context(), "file", sqltest.Images(t, lines...)); err != nil {
		b.Fatal(err)
	}
	if _, err := l.Finish(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := l.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}
