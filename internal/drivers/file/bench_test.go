package file

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
)

// wideEvent makes an event of the given number of columns, about 70 bytes each.
func wideEvent(t testing.TB, n, columns int) *cdc.Event {
	t.Helper()
	var row strings.Builder
	for c := range columns {
		fmt.Fprintf(&row, `,"column%02d":"a value of this column, %08d %s"`, c, n+c, "0123456789abcdef")
	}
	payload := fmt.Sprintf(`{"operation":"UPDATE","id":"%024d","table":"order","key":["%036d"],"companyId":"c","after":{"id":"%036d"%s},"timestamp":1700000000000,"mvccTimestamp":"1700000000000000000"}`, n, n, n, row.String())
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: int64(n)}}
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// BenchmarkApply writes batches of events of 20 columns to a real disk.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct {
		query string
		rows  int
	}{
		{"", 1000}, {"?format=ndjson", 1}, {"?format=ndjson", 10_000}, {"?format=ndjson&compress=gzip", 10_000}, {"?format=ndjson&compress=zstd", 10_000},
	} {
		b.Run(fmt.Sprintf("%s, %d a batch", strings.TrimPrefix(c.query, "?"), c.rows), func(b *testing.B) {
			s := openIn(b, b.TempDir(), c.query)
			events := make([]*cdc.Event, c.rows)
			for i := range events {
				events[i] = wideEvent(b, i+1, 20)
			}
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
