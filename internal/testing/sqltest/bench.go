package sqltest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// BenchTable returns a table with the given number of columns, which have all kinds of types.
func BenchTable(b testing.TB, columns int) *schema.Table {
	names := []string{"id string"}
	kinds := []string{"string", "string", "date-time", "integer", "number", "boolean", "enum", "string", "string", "object"}
	for i := range columns - 1 {
		names = append(names, fmt.Sprintf("c%02d %s", i, kinds[i%len(kinds)]))
	}
	return sinktest.Table(b, "order", 1, names...)
}

// BenchRow returns a row for BenchTable as JSON, with the given key. The other values depend on n.
// Like a typical row of a shop, the row has about 1.4 KB with 20 columns.
func BenchRow(columns int, key string, n int) string {
	var s strings.Builder
	fmt.Fprintf(&s, `{"id":"%s"`, key)
	for i := range columns - 1 {
		fmt.Fprintf(&s, `,"c%02d":`, i)
		switch i % 10 {
		case 2:
			fmt.Fprintf(&s, `"2024-03-%02dT10:%02d:03.%06dZ"`, n%28+1, n%60, n%1000000)
		case 3:
			fmt.Fprintf(&s, "%d", n*7919)
		case 4:
			fmt.Fprintf(&s, "%d.%02d", n%10000, n%100)
		case 5:
			fmt.Fprintf(&s, "%t", n%2 == 0)
		case 6:
			s.WriteString(`"INVOICED"`)
		case 9:
			fmt.Fprintf(&s, `{"note":"n%d","tags":["a","b"],"amount":%d}`, n, n)
		default:
			fmt.Fprintf(&s, `"some text of a usual length, number %d in column %d"`, n, i)
		}
	}
	return s.String() + "}"
}

// BenchBatch is a batch of changes to rows of BenchRow. Latest maps each key to the number of its
// latest row.
type BenchBatch struct {
	*change.Batch
	Latest map[string]int
}

// BenchBatches returns batches of size changes each: 60% update existing rows, 20% insert rows, and
// 20% update 100 hot keys. The table grows from batch to batch.
func BenchBatches(b testing.TB, t *schema.Table, batches, size int) []BenchBatch {
	columns := len(t.Columns)
	splitter := change.NewSplitter(t)
	var out []BenchBatch
	n := 0
	next := 100_000
	for range batches {
		var builder change.Builder
		latest := make(map[string]int)
		for i := range size {
			n++
			var key string
			switch {
			case i%10 < 6:
				key = fmt.Sprintf("5f3c%08d-0000-4000-8000-000000000000", (n*7919)%next)
			case i%10 < 8:
				next++
				key = fmt.Sprintf("5f3c%08d-0000-4000-8000-000000000000", next)
			default:
				key = fmt.Sprintf("5f3c%08d-0000-4000-8000-000000000000", n%100)
			}
			e := &cdc.Event{
				Position: cdc.Position{Sequence: uint64(n), Stored: int64(n)}, Op: cdc.Update, Table: t.Name,
				After: []byte(BenchRow(columns, key, n)),
			}
			e.Payload = e.After
			latest[key] = n
			effect, err := splitter.Effect(e)
			if err != nil {
				b.Fatal(err)
			}
			builder.Add(e, effect)
		}
		out = append(out, BenchBatch{builder.Batch(), latest})
	}
	return out
}
