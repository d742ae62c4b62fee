package sqlsink_test

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/drivers/sqlite"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

const (
	one = "dbchange.*.*.c1.*.PUBLIC.>"
	two = "dbchange.*.*.c2.*.PUBLIC.>"
	all = "dbchange.*.*.*.*.PUBLIC.>"
)

// sharedFile is a destination to which several processes write.
type sharedFile struct {
	*testing.T
	path string
}

func newSharedFile(t *testing.T) *sharedFile {
	t.Helper()
	return &sharedFile{t, filepath.Join(t.TempDir(), "shop.db")}
}

// open opens the destination as a process of the consumer.
func (w *sharedFile) open(consumer, filter string, epoch int64) *sqlsink.Sink {
	w.Helper()
	env := sink.Env{Stream: "dbchange", Consumer: consumer, Filter: filter, Epoch: epoch, Writer: sink.Writer{Host: "host of " + consumer}}
	s, err := sqlite.Driver().Open(w.Context(), &url.URL{Scheme: "sqlite", Path: w.path}, env)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.close(s) })
	return s.(*sqlsink.Sink)
}

func (w *sharedFile) close(s sink.Sink) {
	w.Helper()
	if err := s.Close(w.Context()); err != nil && w.Context().Err() == nil {
		w.Error(err)
	}
}

// server opens the destination and takes over the checkpoint of the consumer.
func (w *sharedFile) server(consumer, filter string) (s *sqlsink.Sink, epoch int64) {
	w.Helper()
	s = w.open(consumer, filter, 0)
	_, err := s.Records(w.Context())
	if err == nil {
		epoch, err = s.Begin(w.Context(), sink.Beginning{Position: cdc.Position{Sequence: 1, Stored: 1}})
	}
	if err != nil {
		w.Fatal(err)
	}
	return s, epoch
}

// await runs AwaitWriters of s, and calls the function before ahead of each read of the
// checkpoints. It returns the number of reads and the error.
func (w *sharedFile) await(s *sqlsink.Sink, own bool, before func(look int)) (looks int, err error) {
	w.Helper()
	ticks := make(chan time.Time)
	s.WatchAt(ticks)
	done := make(chan error, 1)
	go func() { done <- s.AwaitWriters(w.Context(), own) }()
	for looks < sqlsink.WatchTimes {
		if before != nil {
			before(looks)
		}
		select {
		case ticks <- time.Time{}:
			looks++
		case err := <-done:
			return looks, err
		}
	}
	return looks, <-done
}

func TestAwaitWriters(t *testing.T) {
	for name, c := range map[string]struct {
		consumer, filter string // of the server that writes
		as, asFilter     string // of the waiting process; "" is an import
		own              bool
		counts           bool
	}{
		"another consumer of the same company":  {consumer: "a", filter: one, as: "b", asFilter: one, counts: true},
		"another consumer of all companies":     {consumer: "a", filter: all, as: "b", asFilter: one, counts: true},
		"another consumer of one of all":        {consumer: "a", filter: one, as: "b", asFilter: all, counts: true},
		"another consumer of one more company":  {consumer: "a", filter: one + " " + two, as: "b", asFilter: two, counts: true},
		"another consumer of another company":   {consumer: "a", filter: one, as: "b", asFilter: two},
		"the own consumer":                      {consumer: "a", filter: one, as: "a", asFilter: one},
		"the own consumer after it has won":     {consumer: "a", filter: one, as: "a", asFilter: one, own: true, counts: true},
		"any consumer, before an import":        {consumer: "a", filter: one, counts: true},
		"the own consumer with another company": {consumer: "a", filter: two, as: "a", asFilter: one},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSharedFile(t)
			server, epoch := w.server(c.consumer, c.filter)
			looks, err := w.await(w.open(c.as, c.asFilter, 0), c.own, func(look int) {
				if look == 3 {
					if err := server.Check(w.Context()); err != nil {
						t.Error(err)
					}
				}
			})
			if !c.counts {
				if err != nil || looks > 0 {
					t.Errorf("after %d looks: %v, want none and no error", looks, err)
				}
				return
			}
			other := new(sink.WriterError)
			if !errors.As(err, &other) {
				t.Fatalf("want a *sink.WriterError, got %v", err)
			}
			want := sink.WriterError{Writer: sink.Writer{Host: "host of " + c.consumer}, Consumer: c.consumer}
			if diff := cmp.Diff(want, *other); diff != "" {
				t.Error(diff)
			}
			if looks, err := w.await(w.open(c.as, c.asFilter, epoch), c.own, nil); err != nil || looks > 0 {
				t.Errorf("same data directory: after %d looks: %v", looks, err)
			}
		})
	}
}

func TestAwaitWriters_ReturnsWhenTheyEnd(t *testing.T) {
	w := newSharedFile(t)
	if looks, err := w.await(w.open("b", one, 0), false, nil); err != nil || looks > 0 {
		t.Errorf("empty destination: after %d looks: %v", looks, err)
	}
	server, _ := w.server("a", one)
	if looks, err := w.await(w.open("b", one, 0), false, nil); err != nil || looks != sqlsink.WatchTimes {
		t.Errorf("killed server: after %d looks: %v, want %d and no error", looks, err, sqlsink.WatchTimes)
	}
	looks, err := w.await(w.open("b", one, 0), false, func(look int) {
		if look == 3 {
			w.close(server)
		}
	})
	if err != nil || looks < 3 || looks > 5 {
		t.Errorf("server that ends: after %d looks: %v", looks, err)
	}
	if looks, err := w.await(w.open("b", one, 0), false, nil); err != nil || looks > 0 {
		t.Errorf("server that has ended: after %d looks: %v", looks, err)
	}
}

// The first server is disconnected while the second server calls Begin, and must notice the
// second server at its next write.
func TestBegin_FencesServersOfOtherConsumers(t *testing.T) {
	for name, c := range map[string]struct {
		first, second string // filters
		fenced        bool
	}{
		"of the same company": {one, one, true},
		"of all companies":    {all, one, true},
		"of one of all":       {one, all, true},
		"of another company":  {one, two, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSharedFile(t)
			first, _ := w.server("a", c.first)
			second, _ := w.server("b", c.second)
			err := first.Check(w.Context())
			other := new(sink.WriterError)
			fenced := errors.As(err, &other)
			if fenced != c.fenced || fenced && (other.Writer.Host != "host of b" || other.Consumer != "b") {
				t.Errorf("the first server gets %v", err)
			}
			if err := second.Check(w.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// An import that runs next to a server does not wait for the server, although the server has a
// later epoch.
func TestAwaitWriters_SkipsItsOwnProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.db")
	self := sink.Writer{Host: "host", Version: "1.2.3", Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
	open := func(consumer string) *sqlsink.Sink {
		env := sink.Env{Stream: "dbchange", Consumer: consumer, Filter: one, Writer: self}
		s, err := sqlite.Driver().Open(t.Context(), &url.URL{Scheme: "sqlite", Path: path}, env)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(context.Background()) })
		return s.(*sqlsink.Sink)
	}
	server := open("a")
	if _, err := server.Records(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Begin(t.Context(), sink.Beginning{Position: cdc.Position{Sequence: 1, Stored: 1}}); err != nil {
		t.Fatal(err)
	}
	w := &sharedFile{t, path}
	if looks, err := w.await(open(""), true, nil); err != nil || looks > 0 {
		t.Errorf("after %d looks: %v, want none and no error", looks, err)
	}
}
