package change_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// BenchmarkDecode measures the processing of an event, from the wire to a compacted batch.
func BenchmarkDecode(b *testing.B) {
	for _, columns := range []int{20, 60} {
		b.Run(fmt.Sprintf("columns=%d", columns), func(b *testing.B) {
			cs := []schema.Column{{Name: "id", Type: schema.String}}
			var row strings.Builder
			for i := range columns - 1 {
				cs = append(cs, schema.Column{Name: fmt.Sprintf("column%02d", i), Type: schema.String})
				fmt.Fprintf(&row, `,"column%02d":"a value of some length, number %d"`, i, i)
			}
			table, err := schema.New("order", "1", []string{"id"}, cs)
			if err != nil {
				b.Fatal(err)
			}
			payloads := make([][]byte, 10_000)
			for i := range payloads {
				payloads[i] = fmt.Appendf(nil, `{"operation":"UPDATE","id":"event%d","table":"order","key":["row%d"],"modelVersion":"v1",`+
					`"companyId":"c","locationId":"l","after":{"id":"row%d"%s},"diff":["column01"],"timestamp":1712345678901,`+
					`"mvccTimestamp":"1712345678901234567.0000000003"}`, i, i%8000, i%8000, row.String())
			}
			b.SetBytes(int64(len(payloads[0])))
			b.ReportAllocs()
			decoder, splitter := cdc.NewDecoder(), change.NewSplitter(table)
			decoder.Members = true
			var builder change.Builder
			for n := 0; b.Loop(); n++ {
				e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n) + 1}}
				if err := decoder.Decode(e, payloads[n%len(payloads)], ""); err != nil {
					b.Fatal(err)
				}
				effect, err := splitter.Effect(e)
				if err != nil {
					b.Fatal(err)
				}
				builder.Add(e, effect)
				if builder.Len() == len(payloads) {
					builder.Batch()
				}
			}
		})
	}
}
