package change_test

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// A batch holds the last state of each row, and all events for sinks that keep history.
func ExampleBuilder() {
	table, err := schema.New("order", "v1", []string{"id"}, []schema.Column{
		{Name: "id", Type: schema.String}, {Name: "total", Type: schema.Number},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	splitter := change.NewSplitter(table)
	var b change.Builder
	for _, total := range []string{"1.50", "2.75"} {
		e := &cdc.Event{Op: cdc.Update, Table: "order", After: []byte(`{"id":"o-1","total":` + total + `}`)}
		effect, err := splitter.Effect(e)
		if err != nil {
			fmt.Println(err)
			return
		}
		b.Add(e, effect)
	}
	batch := b.Batch()
	row := batch.Sets[0].Upserts[0]
	fmt.Printf("%d events, %d row: %s\n", len(batch.Events), batch.Rows(), row.Value(1))
	// Output: 2 events, 1 row: 2.75
}
