package pipeline_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// floodSource is a Source that has total messages at once. Each payload is new memory, as from a
// connection.
type floodSource struct {
	payloads     [][]byte
	total        int
	sent         int
	acknowledged chan uint64
}

func (f *floodSource) Receive(ctx context.Context) ([]pipeline.Message, error) {
	n := min(256, f.total-f.sent)
	if n == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	run := make([]pipeline.Message, n)
	for i := range run {
		f.sent++
		data := append([]byte(nil), f.payloads[f.sent%len(f.payloads)]...)
		run[i] = pipeline.Message{
			Position: cdc.Position{Sequence: uint64(f.sent), Stored: int64(f.sent)}, Data: data, Pending: uint64(f.total - f.sent),
		}
	}
	return run, nil
}

func (f *floodSource) Acknowledge(_ context.Context, upTo cdc.Position) error {
	if upTo.Sequence == uint64(f.total) {
		close(f.acknowledged)
	}
	return nil
}

// discardSink is a sink that accepts all changes and keeps none.
type discardSink struct{ rows int }

func (v *discardSink) Apply(_ context.Context, b *change.Batch) error {
	v.rows += b.Rows()
	return nil
}

func (v *discardSink) Close(context.Context) error { return nil }

// oneTable is a catalogue of one table.
type oneTable struct{ table *schema.Table }

func (o oneTable) Version(context.Context, string, string) (*schema.Table, error) {
	return o.table, nil
}

func wide(tb testing.TB, columns int) (oneTable, [][]byte) {
	tb.Helper()
	cs := []schema.Column{{Name: "id", Type: schema.String}}
	var row strings.Builder
	for i := range columns - 1 {
		cs = append(cs, schema.Column{Name: fmt.Sprintf("column%02d", i), Type: schema.String})
		fmt.Fprintf(&row, `,"column%02d":"a value of some length, number %d"`, i, i)
	}
	table, err := schema.New("order", "1", []string{"id"}, cs)
	if err != nil {
		tb.Fatal(err)
	}
	payloads := make([][]byte, 10_000)
	for i := range payloads {
		payloads[i] = fmt.Appendf(nil, `{"operation":"UPDATE","id":"event%d","table":"order","key":["row%d"],"modelVersion":"v1",`+
			`"companyId":"c","locationId":"l","after":{"id":"row%d"%s},"diff":["column01"],"timestamp":1712345678901,`+
			`"mvccTimestamp":"1712345678901234567.0000000003"}`, i, i%8000, i%8000, row.String())
	}
	return oneTable{table}, payloads
}

// BenchmarkPipeline carries events from the wire to a sink that does nothing, on one processor.
func BenchmarkPipeline(b *testing.B) {
	for _, columns := range []int{20, 60} {
		b.Run(fmt.Sprintf("columns=%d", columns), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			tables, payloads := wide(b, columns)
			dead, err := dlq.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			f := &floodSource{payloads: payloads, total: b.N, acknowledged: make(chan uint64)}
			p, err := pipeline.New(pipeline.Config{
				Source: f, Sink: &discardSink{}, KeepsRows: true, Tables: tables, Dead: dead,
				Metrics: pipeline.NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(payloads[0])))
			b.ResetTimer()
			began := time.Now()
			soft, stop := context.WithCancel(b.Context())
			ended := make(chan error)
			go func() { ended <- p.Run(soft, b.Context()) }()
			<-f.acknowledged
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "events/s")
			stop()
			if err := <-ended; err != nil {
				b.Fatal(err)
			}
		})
	}
}
