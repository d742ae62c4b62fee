package file

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// BenchmarkApply writes batches of events with 20 columns to a real disk.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct {
		query string
		rows  int
	}{
		{"", 1000},
		{"?format=ndjson", 1},
		{"?format=ndjson", 10_000},
		{"?format=ndjson&compress=gzip", 10_000},
		{"?format=ndjson&compress=zstd", 10_000},
	} {
		b.Run(fmt.Sprintf("%s, %d a batch", strings.TrimPrefix(c.query, "?"), c.rows), func(b *testing.B) {
			s := openIn(b, b.TempDir(), c.query)
			events := sinktest.WideEvents(b, c.rows, c.rows, 20)
			size, round := 0, 0
			for b.Loop() {
				var batch change.Builder
				size = 0
				for i, e := range events {
					again := *e
					again.Position.Sequence = uint64(round*c.rows + i + 1)
					again.Position.Stored = int64(again.Position.Sequence)
					batch.Add(&again, change.Effect{})
					size += len(e.Payload)
				}
				if err := s.Apply(b.Context(), batch.Batch()); err != nil {
					b.Fatal(err)
				}
				round++
			}
			b.SetBytes(int64(size))
			b.ReportMetric(float64(c.rows*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
