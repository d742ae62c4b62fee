package shop_test

import (
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

func TestShop_WorksBesideReaders(t *testing.T) {
	s := open(t, t.TempDir(), 41, newClock())
	defer closed(t, s)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				sn := s.Snapshot()
				for _, table := range s.Tables() {
					rows := 0
					for range sn.Rows(table, nil, nil) {
						rows++
					}
					if rows != sn.Len(table) {
						t.Errorf("table %s: %d rows, want %d", table, rows, sn.Len(table))
					}
				}
				_, _ = s.LatestSchemas(), s.Companies()
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	s.SaveAfter(50)
	do(t, s, 200)
	_, err := s.Evolve(t.Context(), func(shop.Change) error { return nil })
	must(t, err)
	close(done)
	readers.Wait()
}

// shopOf creates a shop with n customers.
func shopOf(b *testing.B, n int) *shop.Shop {
	b.Helper()
	s, err := shop.Open(b.TempDir(), shop.Options{Seed: 1, Customers: n})
	must(b, err)
	b.Cleanup(func() { closed(b, s) })
	return s
}

func BenchmarkWork(b *testing.B) {
	s := shopOf(b, 500)
	var text []byte
	total, made := 0, 0
	for made < b.N {
		must(b, s.Work(b.Context(), min(1000, b.N-made), func(changes []shop.Change) (int, error) {
			for i := range changes {
				text = changes[i].AppendJSON(text[:0])
				total += len(text)
			}
			made += len(changes)
			return len(changes), nil
		}))
	}
	b.ReportMetric(float64(total)/float64(made), "B/event")
	b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "changes/s")
}

func BenchmarkDo(b *testing.B) {
	s := shopOf(b, 500)
	for b.Loop() {
		must(b, s.Do(b.Context(), func(shop.Change) error { return nil }))
	}
}

func BenchmarkSnapshot(b *testing.B) {
	s := shopOf(b, 2000)
	rows := 0
	for b.Loop() {
		sn := s.Snapshot()
		rows = 0
		for _, table := range s.Tables() {
			rows += sn.Len(table)
		}
	}
	b.ReportMetric(float64(rows), "rows")
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		s, err := shop.Open(b.TempDir(), shop.Options{Seed: 1, Customers: 500})
		must(b, err)
		closed(b, s)
	}
}
