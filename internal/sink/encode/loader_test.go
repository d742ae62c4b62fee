package encode_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// TestLoader_LeavesOutRefusedRows loads ten rows in batches of three. Two rows are refused.
// Loading the file again must give the batches the same numbers.
func TestLoader_LeavesOutRefusedRows(t *testing.T) {
	table, err := schema.New("order", "v1", []string{"id"}, []schema.Column{{Name: "id", Type: schema.Integer}})
	if err != nil {
		t.Fatal(err)
	}
	rows := func() iter.Seq2[*change.Row, error] {
		return func(yield func(*change.Row, error) bool) {
			splitter := change.NewSplitter(table)
			for i := 1; i <= 10; i++ {
				image := fmt.Appendf(nil, `{"id":%d}`, i)
				spans, err := splitter.Split(image)
				if !yield(&change.Row{Image: image, Spans: spans}, err) {
					return
				}
			}
		}
	}
	stored := make(map[int]string)
	apply := func(_ context.Context, b *change.Batch, from encode.SnapshotPart) error {
		var ids []string
		for _, e := range b.Events {
			ids = append(ids, string(e.RowID()))
		}
		if slices.Contains(ids, "5") || slices.Contains(ids, "10") {
			return fault.Mark(fault.Poison, errors.New("too large"))
		}
		stored[from.Batch] = strings.Join(ids, " ")
		return nil
	}
	loader := &encode.Loader{ApplyFrom: apply, Limits: sink.Limits{Rows: 3, Bytes: 1 << 20}}
	want := map[int]string{1: "1 2 3", 3: "4", 6: "6", 7: "7 8 9"} // 2, 4, 5 and 8 are refused
	for range 2 {
		l, err := loader.BeginLoad(t.Context(), "job", table, sink.Replace, sink.Scope{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.LoadFile(t.Context(), "file", rows()); fault.Of(err) != fault.Poison || l.Loaded("file") {
			t.Errorf("loaded: %v, %v", l.Loaded("file"), err)
		}
		var refused []string
		n, err := l.(sink.RowLoad).LoadRows(t.Context(), "file", rows(), func(row *change.Row, number int64, reason error) error {
			refused = append(refused, fmt.Sprintf("%d %s %v", number, row.Value(0), reason))
			return nil
		})
		if err != nil || n != 8 || !l.Loaded("file") {
			t.Errorf("%d rows, loaded: %v, %v", n, l.Loaded("file"), err)
		}
		if diff := cmp.Diff([]string{"5 5 too large", "10 10 too large"}, refused); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, stored); diff != "" {
			t.Errorf("batches: %s", diff)
		}
	}
}
