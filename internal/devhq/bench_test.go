package devhq

import "testing"

// BenchmarkShop measures the changes per second that the shop can publish.
func BenchmarkShop(b *testing.B) {
	o := options(b)
	o.Customers = 500
	h := begin(b, o)
	for b.Loop() {
		h.SetRate(1e6)
		before := messages(b, h)
		eventually(b, "50,000 changes", func() bool { return messages(b, h) >= before+50_000 })
		h.SetRate(0)
	}
	b.ReportMetric(float64(messages(b, h))/b.Elapsed().Seconds(), "changes/s")
}

// BenchmarkExport measures the rows per second of an export.
func BenchmarkExport(b *testing.B) {
	o := options(b)
	o.Customers = 2000
	h := begin(b, o)
	snapshot, rows, bytes := h.Shop().Snapshot(), 0, 0
	for _, table := range h.Shop().Tables() {
		for row := range snapshot.Rows(table, nil, nil) {
			rows++
			bytes += len(row)
		}
	}
	c := h.client(b)
	b.SetBytes(int64(bytes))
	for b.Loop() {
		c.export(`{}`)
	}
	b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
}
