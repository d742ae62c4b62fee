// Package sqltest contains the helpers that the tests of SQL drivers share.
package sqltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// WriterEnv identifies the consumer for tests that need a checkpoint.
var WriterEnv = sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "dbchange.*.*.c.>"}

// Destination is an SQL sink with its own database, and the test that uses it.
type Destination struct {
	*sqlsink.Sink
	T        testing.TB
	Adjusted map[string]int // number of adjusted values by rule
	Log      *bytes.Buffer
}

// Open opens a sink for the destination URL raw. The sink is closed when the test ends.
func Open(t testing.TB, driver sink.Driver, raw string, env sink.Env) *Destination {
	t.Helper()
	d := &Destination{T: t, Adjusted: make(map[string]int), Log: new(bytes.Buffer)}
	env.Logger = slog.New(slog.NewTextHandler(d.Log, nil))
	env.Adjusted = func(_, _, rule string) { d.Adjusted[rule]++ }
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := driver.Open(t.Context(), target, env)
	if err != nil {
		t.Fatal(err)
	}
	d.Sink = opened.(*sqlsink.Sink)
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// MustApply applies a batch. It fails the test if that fails.
func (d *Destination) MustApply(b *change.Batch) {
	d.T.Helper()
	if err := d.Apply(d.T.Context(), b); err != nil {
		d.T.Fatal(err)
	}
}

// WantAdjusted checks the number of values that each rule has changed.
func (d *Destination) WantAdjusted(want map[string]int) {
	d.T.Helper()
	if diff := cmp.Diff(want, d.Adjusted); diff != "" {
		d.T.Errorf("adjusted (-want +got)\n%s", diff)
	}
}

// Position returns the checkpoint that the destination stores.
func (d *Destination) Position() cdc.Position {
	d.T.Helper()
	p, err := d.Checkpoint(d.T.Context())
	if err != nil {
		d.T.Fatal(err)
	}
	return p
}

// WantLost checks that Apply fails with a *sink.ReopenError if the checkpoint is gone, and that the
// sink then has the zero position.
func (d *Destination) WantLost(b *change.Batch) {
	d.T.Helper()
	if err := d.Apply(d.T.Context(), b); !errors.As(err, new(*sink.ReopenError)) || fault.Of(err) != fault.Fatal {
		d.T.Errorf("error %v of class %v, want a *sink.ReopenError, fatal", err, fault.Of(err))
	}
	if got := d.Position(); got != (cdc.Position{}) {
		d.T.Errorf("the checkpoint is %v", got)
	}
}

// StartLoad begins the load of a whole table. The load is closed when the test ends.
func (d *Destination) StartLoad(job string, t *schema.Table, mode sink.LoadMode) sink.Load {
	d.T.Helper()
	l, err := d.BeginLoad(d.T.Context(), job, t, mode, sink.Scope{})
	if err != nil {
		d.T.Fatal(err)
	}
	d.T.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			d.T.Errorf("close the load: %v", err)
		}
	})
	return l
}

// LoadFiles loads a table from files and finishes the load. Each file is a list of row images.
func (d *Destination) LoadFiles(job string, t *schema.Table, mode sink.LoadMode, files ...[]string) {
	d.T.Helper()
	l := d.StartLoad(job, t, mode)
	for i, lines := range files {
		n, err := l.LoadFile(d.T.Context(), fmt.Sprintf("file%d", i), Images(t, lines...))
		if err != nil {
			d.T.Fatal(err)
		}
		if n != int64(len(lines)) {
			d.T.Errorf("file %d has %d rows, want %d", i, n, len(lines))
		}
	}
	if _, err := l.Finish(d.T.Context()); err != nil {
		d.T.Fatal(err)
	}
	if err := l.Close(d.T.Context()); err != nil {
		d.T.Errorf("close the load: %v", err)
	}
}

// Images yields rows with the given images, like the rows of a snapshot's file. All rows share the
// same memory.
func Images(table *schema.Table, lines ...string) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		splitter := change.NewSplitter(table)
		row := &change.Row{Op: cdc.Insert, Clock: cdc.Timestamp{Wall: 5000}}
		for _, line := range lines {
			spans, err := splitter.Split([]byte(line))
			if err != nil {
				yield(nil, err)
				return
			}
			row.Image, row.Spans = []byte(line), spans
			if !yield(row, nil) {
				return
			}
		}
	}
}

// WantSilent checks that err reports a call that was cancelled because it made no progress.
func WantSilent(t testing.TB, err error) {
	t.Helper()
	if fault.Of(err) != fault.Transient || !errors.As(err, new(*sqlsink.SilentError)) {
		t.Fatalf("want a transient *sqlsink.SilentError, got: %v", err)
	}
	if strings.Contains(err.Error(), "roll back") {
		t.Errorf("a lost connection is reported: %v", err)
	}
}

// AwaitRows calls query until it returns at least one row.
func AwaitRows(t testing.TB, query func() []string) []string {
	t.Helper()
	for t.Context().Err() == nil {
		if rows := query(); len(rows) > 0 {
			return rows
		}
	}
	t.Fatal("the query returned no rows")
	return nil
}

// ApplySizes applies two batches to a new table "order", and then checks the rows. The first two
// arguments are the numbers of columns and rows. The first batch inserts all rows. The second batch
// updates, deletes and replaces most of them. The last argument is a function that returns the
// first two columns of the table, ordered by key.
func (d *Destination) ApplySizes(width, size int, rows func() []string) {
	t := d.T
	t.Helper()
	columns := []string{"id string"}
	for i := range width - 1 {
		columns = append(columns, fmt.Sprintf("c%02d string", i))
	}
	order := sinktest.Table(t, "order", 1, columns...)
	h := sinktest.NewChanges(t, 0)
	row := func(i int, value string) string {
		var b strings.Builder
		fmt.Fprintf(&b, `{"id":"row%05d"`, i)
		for c := range width - 1 {
			fmt.Fprintf(&b, `,"c%02d":"%s %d"`, c, value, c)
		}
		return b.String() + "}"
	}
	for i := range size {
		h.Put(order, row(i, "first"))
	}
	d.MustApply(h.Batch())
	var want []string
	for i := range size {
		switch i % 5 {
		case 0:
			h.Delete(order, row(i, "first"))
			continue
		case 1:
			h.Delete(order, row(i, "first")).Put(order, row(i, "again"))
			want = append(want, fmt.Sprintf("row%05d|again 0", i))
		case 2:
			want = append(want, fmt.Sprintf("row%05d|first 0", i))
		default:
			h.Put(order, row(i, "second"))
			want = append(want, fmt.Sprintf("row%05d|second 0", i))
		}
	}
	d.MustApply(h.Batch())
	sinktest.Equal(t, want, rows())
}

// WantURL checks the URL or the field errors that a driver returns for the fields of HQ's form.
func WantURL(t testing.TB, driver sink.Driver, fields map[string]string, want string, wrong []sink.FieldError) {
	t.Helper()
	got, errs := driver.URL(fields)
	if got != want {
		t.Errorf("url %s, want %s", got, want)
	}
	if diff := cmp.Diff(wrong, errs); diff != "" {
		t.Error(diff)
	}
}
