package shop

import (
	"testing"
	"time"
)

func BenchmarkGenerate(b *testing.B) {
	for name, columns := range map[string]int{"20": 20, "60": 60} {
		b.Run(name, func(b *testing.B) {
			g := Generate(1, "order", columns, 100_000, time.Unix(0, 0))
			var buf []byte
			total := 0
			for b.Loop() {
				buf = g.Next().AppendJSON(buf[:0])
				total += len(buf)
			}
			b.ReportMetric(float64(total)/float64(b.N), "B/event")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
