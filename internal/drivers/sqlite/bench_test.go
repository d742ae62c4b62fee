package sqlite

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// benchTable has the given number of columns, of all types.
func benchTable(b *testing.B, columns int) *schema.Table {
	list := []schema.Column{{Name: "id", Type: schema.String}}
	types := [...]schema.Type{
		schema.String, schema.String, schema.Integer, schema.DateTime, schema.String, schema.Boolean, schema.Number, schema.Object,
	}
	for i := 1; i < columns; i++ {
		list = append(list, schema.Column{Name: fmt.Sprintf("column%02d", i), Type: types[i%len(types)]})
	}
	t, err := schema.New("bench", "1", []string{"id"}, list)
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// benchImage returns a row of about 70 bytes per column.
func benchImage(t *schema.Table, id uint64, r *rand.Rand) []byte {
	image := fmt.Appendf(nil, `{"id":"%016x-4000-8000-%012x"`, id*0x9e3779b97f4a7c15, id)
	for _, c := range t.Columns[1:] {
		image = fmt.Appendf(image, `,%q:`, c.Name)
		switch c.Type {
		case schema.Integer:
			image = fmt.Appendf(image, "%d", r.Int64())
		case schema.DateTime:
			image = fmt.Appendf(image, `"2026-%02d-%02dT%02d:04:05.%06dZ"`, 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(1_000_000))
		case schema.Boolean:
			image = fmt.Appendf(image, "%t", r.IntN(2) == 0)
		case schema.Number:
			image = fmt.Appendf(image, "%d.%02d", r.IntN(100000), r.IntN(100))
		case schema.Object:
			image = fmt.Appendf(image, `{"a":%d,"b":["%x","%x"]}`, r.IntN(1000), r.Uint64(), r.Uint64())
		default:
			image = fmt.Appendf(image, `"%x %x lorem ipsum dolor %x"`, r.Uint64(), r.Uint64(), r.Uint64())
		}
	}
	return append(image, '}')
}

// benchBatches returns a history of batches. One row in five is new. One in four of the remaining
// rows is among the first 100.
func benchBatches(b *testing.B, t *schema.Table, batches, size int) []*change.Batch {
	r := rand.New(rand.NewPCG(1, 2))
	splitter := change.NewSplitter(t)
	var all []*change.Batch
	rows, sequence := uint64(1), uint64(0)
	for range batches {
		var builder change.Builder
		for range size {
			id := r.Uint64N(rows)
			switch {
			case r.IntN(5) == 0:
				id = rows
				rows++
			case r.IntN(4) == 0:
				id = r.Uint64N(min(rows, 100))
			}
			image := benchImage(t, id, r)
			spans, err := splitter.Split(image)
			if err != nil {
				b.Fatal(err)
			}
			sequence++
			at := cdc.Position{Sequence: sequence, Stored: int64(sequence)}
			e := &cdc.Event{Position: at, Op: cdc.Update, Table: t.Name, Payload: image}
			builder.Add(e, change.Effect{Table: t, Upsert: &change.Row{Image: image, Spans: spans, Op: cdc.Update}})
		}
		all = append(all, builder.Batch())
	}
	return all
}

func benchSink(b *testing.B, options string) sink.Sink {
	target, err := url.Parse("sqlite://" + filepath.Join(b.TempDir(), "bench.db") + options)
	if err != nil {
		b.Fatal(err)
	}
	s, err := open(b.Context(), target, sink.Env{Stream: "s", Consumer: "c"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(b.Context()); err != nil {
			b.Error(err)
		}
	})
	return s
}

func BenchmarkApply(b *testing.B) {
	for _, columns := range []int{20, 60} {
		for _, size := range []int{5000, 20000} {
			b.Run(fmt.Sprintf("columns=%d/batch=%d", columns, size), func(b *testing.B) {
				t := benchTable(b, columns)
				batches := benchBatches(b, t, 2_000_000/columns/size, size)
				events := 0
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					s := benchSink(b, "")
					b.StartTimer()
					for _, batch := range batches {
						if err := s.Apply(b.Context(), batch); err != nil {
							b.Fatal(err)
						}
						events += len(batch.Events)
					}
				}
				b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// BenchmarkApplyOne measures the time until a batch of one event is on disk.
func BenchmarkApplyOne(b *testing.B) {
	for _, options := range []string{"", "?synchronous=normal"} {
		b.Run("20 columns"+options, func(b *testing.B) {
			t := benchTable(b, 20)
			batches := benchBatches(b, t, 2000, 1)
			s := benchSink(b, options)
			for i := 0; b.Loop(); i++ {
				batch := *batches[i%len(batches)]
				batch.Last = cdc.Position{Sequence: uint64(i + 1), Stored: int64(i + 1)}
				if err := s.Apply(b.Context(), &batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, columns := range []int{20, 60} {
		b.Run(fmt.Sprintf("columns=%d", columns), func(b *testing.B) {
			t := benchTable(b, columns)
			r := rand.New(rand.NewPCG(1, 2))
			splitter := change.NewSplitter(t)
			rows := make([]*change.Row, 2_000_000/columns)
			for i := range rows {
				image := benchImage(t, uint64(i), r)
				spans, err := splitter.Split(image)
				if err != nil {
					b.Fatal(err)
				}
				rows[i] = &change.Row{Image: image, Spans: spans}
			}
			const files = 4
			loaded := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				s := benchSink(b, "")
				b.StartTimer()
				l, err := s.BeginLoad(b.Context(), "job", t, sink.Replace, sink.Scope{})
				if err != nil {
					b.Fatal(err)
				}
				for i := range files {
					n, err := l.LoadFile(b.Context(), fmt.Sprint(i), all(rows[len(rows)*i/files:len(rows)*(i+1)/files]))
					if err != nil {
						b.Fatal(err)
					}
					loaded += int(n)
				}
				if _, err := l.Finish(b.Context()); err != nil {
					b.Fatal(err)
				}
				if err := l.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(loaded)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func all(rows []*change.Row) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}
