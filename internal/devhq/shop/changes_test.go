package shop_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/schema"
)

func TestChangeGenerator_ChangesDescribeItsRows(t *testing.T) {
	for _, columns := range []int{20, 60} {
		begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		g, again := shop.NewChangeGenerator(5, "wide", columns, 300, begin), shop.NewChangeGenerator(5, "wide", columns, 300, begin)
		var w wireSchema
		must(t, json.Unmarshal(g.Schema(), &w))
		table, err := schema.Decode(g.Schema())
		must(t, err)
		if len(table.Columns) != columns {
			t.Errorf("%d columns, want %d", len(table.Columns), columns)
		}
		rows := func() map[string]string {
			all := map[string]string{}
			for row := range g.Rows() {
				all[rowKey(t, w.PrimaryKeys, row)] = string(row)
			}
			return all
		}
		model := contents{"wide": rows()}
		keys := map[string][]string{"wide": w.PrimaryKeys}
		ops, updates := map[cdc.Op]int{}, map[string]int{}
		ids := map[string]bool{}
		clock := cdc.At(begin)
		const n = 5000
		for range n {
			c := g.Next()
			if diff := cmp.Diff(string(c.AppendJSON(nil)), string(again.Next().AppendJSON(nil))); diff != "" {
				t.Fatalf("the same seed: %s", diff)
			}
			w.check(t, c.After)
			model.apply(t, keys, c)
			checkDiff(t, c)
			if c.Clock.Compare(clock) <= 0 || ids[c.ID] || c.ModelVersion != w.ModelVersion {
				t.Fatalf("change %d: clock %v after %v, id %s, version %s", c.Seq, c.Clock, clock, c.ID, c.ModelVersion)
			}
			clock, ids[c.ID] = c.Clock, true
			ops[c.Op]++
			if c.Op == cdc.Update {
				updates[string(c.Key)]++
			}
		}
		if diff := cmp.Diff(model["wide"], rows()); diff != "" {
			t.Error(diff)
		}
		if g.Len() != len(model["wide"]) || g.Len() != 300+ops[cdc.Insert] {
			t.Errorf("%d rows, %d different keys, %d inserted", g.Len(), len(model["wide"]), ops[cdc.Insert])
		}
		if got := ops[cdc.Insert] * 100 / n; got < 17 || got > 23 {
			t.Errorf("%d %% are inserts", got)
		}
		hot := 0
		for _, times := range updates {
			if times >= 8 {
				hot += times
			}
		}
		if got := hot * 100 / n; got < 17 || got > 60 {
			t.Errorf("%d %% are updates of hot rows", got)
		}
	}
}

func BenchmarkChangeGenerator(b *testing.B) {
	for _, columns := range []int{20, 60} {
		b.Run(fmt.Sprint(columns, " columns"), func(b *testing.B) {
			g := shop.NewChangeGenerator(1, "order", columns, 100_000, time.Unix(1_700_000_000, 0))
			var text []byte
			total := 0
			for b.Loop() {
				text = g.Next().AppendJSON(text[:0])
				total += len(text)
			}
			b.ReportMetric(float64(total)/float64(b.N), "B/event")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
