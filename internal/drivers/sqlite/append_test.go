package sqlite

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Each chunk that is filled ahead can contain a row of any size.
func TestAppender_HoldsOneLargeChunk(t *testing.T) {
	const large, count = largeChunk + 1, 3
	image := []byte(`"` + strings.Repeat("v", large) + `"`)
	row := &change.Row{Image: image, Spans: []rawjson.Span{{Start: 0, End: uint32(len(image))}}}
	rows := func(yield func(*change.Row, error) bool) {
		for range count {
			if !yield(row, nil) {
				return
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		real := &sqlsink.RealColumn{Name: "v", Native: &attribute{affinity: asText}}
		l := &sqlsink.Layout{
			Table:   &schema.Table{Columns: []schema.Column{{Name: "v"}}},
			Columns: []sqlsink.Target{{Type: schema.String, Real: real}},
		}
		a := appender{
			upsert: &boundStatement{columns: l.All()}, encoder: newRowEncoder(l, nil),
			free: make(chan *chunk, chunksAhead), full: make(chan *chunk, chunksAhead),
		}
		for range chunksAhead {
			a.free <- new(chunk)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		filled := make(chan error, 1)
		go func() { filled <- a.fill(ctx, rows) }()
		for range count {
			synctest.Wait()
			if n := len(a.full); n != 1 {
				t.Fatalf("%d chunks are full", n)
			}
			c := <-a.full
			synctest.Wait()
			if n := len(a.full); n != 0 {
				t.Fatalf("%d chunks are filled before a large one is written", n)
			}
			c.args.Reset()
			a.free <- c
		}
		if err := <-filled; err != nil {
			t.Error(err)
		}
	})
}
