package sqlite

import (
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// LoadRows finds the invalid row while it stages the file, and the load finishes without that row.
func TestLoadRows_FindsRowsThatConstraintsRefuse(t *testing.T) {
	for name, definition := range map[string]string{
		"check":    "CREATE TABLE thing (id TEXT PRIMARY KEY, n INT CHECK (n < 10))",
		"not null": "CREATE TABLE thing (id TEXT PRIMARY KEY, n INT, own TEXT NOT NULL DEFAULT 'x', CHECK (n < 10 AND own = 'x'))",
		"unique":   "CREATE TABLE thing (id TEXT PRIMARY KEY, n INT UNIQUE)",
		"no key":   "CREATE TABLE thing (id TEXT, n INT CHECK (n < 10))",
	} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t, definition)
			thing := table(t, "thing", 1, "id", schema.String, "n", schema.Integer)
			var images []string
			for i := range 3000 {
				images = append(images, fmt.Sprintf(`{"id":"%04d","n":%d}`, i, -i))
			}
			images = slices.Insert(images, 2500, `{"id":"bad","n":11}`)
			if name == "unique" {
				images[2500] = `{"id":"bad","n":-7}`
			}
			rows := func() iter.Seq2[*change.Row, error] {
				return func(yield func(*change.Row, error) bool) {
					splitter := change.NewSplitter(thing)
					for _, image := range images {
						spans, err := splitter.Split([]byte(image))
						if !yield(&change.Row{Image: []byte(image), Spans: spans}, err) {
							return
						}
					}
				}
			}
			l, err := w.sink.BeginLoad(t.Context(), "job", thing, sink.Replace, sink.Scope{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.LoadFile(t.Context(), "one", rows()); fault.Of(err) != fault.Poison {
				t.Fatalf("a row that is refused: %v is %v", err, fault.Of(err))
			}
			var refused []string
			n, err := l.(sink.RowLoad).LoadRows(t.Context(), "one", rows(), func(row *change.Row, number int64, _ error) error {
				refused = append(refused, fmt.Sprint(number, " ", string(row.Image)))
				return nil
			})
			if err != nil || n != 3000 || !slices.Equal(refused, []string{"2501 " + images[2500]}) {
				t.Fatalf("%d rows, refused %q, %v", n, refused, err)
			}
			if placed, err := l.Finish(t.Context()); placed != 3000 || err != nil {
				t.Fatalf("%d rows in place, %v", placed, err)
			}
			if err := l.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.want("SELECT count(*) FROM thing", "3000")
			w.sound()
		})
	}
}
