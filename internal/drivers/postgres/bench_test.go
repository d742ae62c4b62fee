package postgres_test

import (
	"fmt"
	"testing"

	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

func BenchmarkApply(b *testing.B) {
	for _, columns := range []int{20, 28, 36, 44, 60} {
		for _, size := range []int{10_000} {
			b.Run(fmt.Sprintf("columns=%d/batch=%d", columns, size), func(b *testing.B) {
				t := sqltest.BenchTable(b, columns)
				batches := sqltest.BenchBatches(b, t, 12, size)
				d := open(b)
				for _, batch := range batches[:2] {
					d.MustApply(batch.Batch)
				}
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					d.MustApply(batches[2+n%10].Batch)
					n++
				}
				b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}
