package sqlsink

import (
	"context"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// layoutOfOwn returns the layout of one of the engine's tables, made where it
// does not exist.
func (s *Sink) layoutOfOwn(ctx context.Context, conn Conn, name string, define func() *schema.Table) (*Layout, error) {
	t := s.ownTables[name]
	if t == nil {
		t = define()
		s.ownTables[name] = t
	}
	if l := s.layouts[t]; l != nil {
		return l, nil
	}
	if _, err := s.migrate(ctx, conn, []*schema.Table{t}); err != nil {
		return nil, err
	}
	return s.layout(ctx, conn, t)
}

// recordRow returns a row of one of the engine's tables: its key columns' texts,
// in the key's order, and its other columns' integers, by name. Without
// integers it is a row of key columns only.
func recordRow(t *schema.Table, key []string, integers ...int64) (change.Row, error) {
	image := []byte{'{'}
	for i, c := range t.Columns {
		if i >= len(key)+len(integers) {
			break
		}
		if i > 0 {
			image = append(image, ',')
		}
		image = append(rawjson.AppendQuoted(image, c.Name), ':')
		if i < t.Keys {
			image = rawjson.AppendQuoted(image, key[i])
		} else {
			image = strconv.AppendInt(image, integers[i-t.Keys], 10)
		}
	}
	image = append(image, '}')
	spans, err := change.NewSplitter(t).Split(image)
	return change.Row{Image: image, Spans: spans, Op: cdc.Insert}, err
}

// keysOf returns the rows as rows of key columns only.
func keysOf(t *schema.Table, rows ...change.Row) []change.Row {
	keys := make([]change.Row, len(rows))
	for i, r := range rows {
		r.Spans = r.Spans[:t.Keys:t.Keys]
		r.Op = cdc.Delete
		keys[i] = r
	}
	return keys
}
