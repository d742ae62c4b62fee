package sinktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var loadRowsChecks = []property{
	{"a file loads without its refused rows", loadsRows, checkLoadRows},
	{"an interrupted file with refused rows counts as not loaded", loadsRows, checkLoadRowsInterrupted},
	{"a file with only refused rows counts as loaded", loadsRows, checkLoadRowsNone},
	{
		"a load that leaves rows out survives a fault at any step", func(c features) bool { return c.faulty && loadsRows(c) },
		checkLoadRowsFaults,
	},
}

// withRefusedRows returns a table, and images of its rows. The sink refuses some of these rows.
// Each element of the result bad has the number and the image of a refused row. The result ok is
// false if the sink accepts every value.
func (h *harness) withRefusedRows() (t *schema.Table, images, bad []string, ok bool) {
	h.Helper()
	t, row, ok := h.poisonRow()
	if !ok {
		return t, nil, nil, false
	}
	for i := range 300 {
		images = append(images, fmt.Sprintf(`{"id":"%03d"}`, i))
	}
	for _, i := range []int{0, 149, 150, 299} {
		images[i] = row(fmt.Sprintf("%03d", i))
		bad = append(bad, fmt.Sprintf("%d %s", i+1, images[i]))
	}
	return t, images, bad, true
}

// loadRows loads a file with LoadRows, and returns the refused rows. The callback for refused
// rows fails from call number stop on, or never if stop is 0.
func (h *harness) loadRows(l sink.Load, file string, rows iter.Seq2[*change.Row, error], stop int) (n int64, refused []string, err error) {
	h.Helper()
	load, ok := l.(sink.RowLoad)
	if !ok {
		h.Fatalf("%T cannot leave out refused rows", l)
	}
	n, err = load.LoadRows(h.ctx(), file, rows, func(row *change.Row, number int64, reason error) error {
		h.expectClass(reason, fault.Poison)
		refused = append(refused, fmt.Sprintf("%d %s", number, row.Image))
		if len(refused) == stop {
			return errBroken
		}
		return nil
	})
	return n, refused, err
}

// expectOthers finishes the load, and checks that the table has all images that are not in bad.
func (h *harness) expectOthers(s sink.Sink, l sink.Load, t *schema.Table, images, bad []string) {
	h.Helper()
	h.end(l, true)
	loaded := newTableModel()
	for i, image := range images {
		if !slices.Contains(bad, fmt.Sprintf("%d %s", i+1, image)) {
			loaded.load(h, t, image)
		}
	}
	h.expectRows(s, t, loaded)
}

func checkLoadRows(h *harness) {
	t, images, bad, ok := h.withRefusedRows()
	if !ok {
		return
	}
	s := h.open()
	l := h.begin(s, "job", t, sink.Replace)
	h.loadFile(l, t, "good", `{"id":"000"}`, `{"id":"000","col_string":"again"}`)
	_, err := l.LoadFile(h.ctx(), "bad", imagesOf(h, t, images...))
	h.expectClass(err, fault.Poison)
	n, refused, err := h.loadRows(l, "bad", imagesOf(h, t, images...), 0)
	if err != nil || n != int64(len(images)-len(bad)) || !l.Loaded("bad") {
		h.Errorf("%d rows, loaded: %v, %v", n, l.Loaded("bad"), err)
	}
	if diff := cmp.Diff(bad, refused); diff != "" {
		h.Errorf("refused: %s", diff)
	}
	h.loadFile(l, t, "last", `{"id":"last"}`)
	h.end(l, false)
	again := h.begin(s, "job", t, sink.Replace)
	if !again.Loaded("good") || !again.Loaded("bad") || !again.Loaded("last") {
		h.Error("a file that was loaded without some rows is not resumed")
	}
	all := append([]string{`{"id":"000","col_string":"again"}`}, images[1:]...)
	h.expectOthers(s, again, t, append(all, `{"id":"last"}`), bad)
}

func checkLoadRowsInterrupted(h *harness) {
	t, images, bad, ok := h.withRefusedRows()
	if !ok {
		return
	}
	l := h.begin(h.open(), "job", t, sink.Replace)
	h.loadFile(l, t, "good", `{"id":"001"}`)
	for stop := range 3 {
		rows := imagesOf(h, t, images...)
		if stop == 0 {
			rows = failing(imagesOf(h, t, images[:200]...), errBroken)
		}
		if _, _, err := h.loadRows(l, "bad", rows, stop); !errors.Is(err, errBroken) {
			h.Errorf("a file that breaks: %v", err)
		}
		if l.Loaded("bad") || !l.Loaded("good") {
			h.Errorf("loaded: bad %v, good %v", l.Loaded("bad"), l.Loaded("good"))
		}
	}
	h.end(l, false)
	s := h.open()
	l = h.begin(s, "job", t, sink.Replace)
	if l.Loaded("bad") || !l.Loaded("good") {
		h.Errorf("after a restart, loaded: bad %v, good %v", l.Loaded("bad"), l.Loaded("good"))
	}
	n, refused, err := h.loadRows(l, "bad", imagesOf(h, t, images...), 0)
	if err != nil || n != int64(len(images)-len(bad)) || !slices.Equal(refused, bad) {
		h.Errorf("%d rows, refused %q, %v", n, refused, err)
	}
	h.expectOthers(s, l, t, images, bad)
}

func checkLoadRowsNone(h *harness) {
	t, row, ok := h.poisonRow()
	if !ok {
		return
	}
	s := h.open()
	l := h.begin(s, "job", t, sink.ReplaceOrEmpty)
	images := []string{row("a"), row("b"), row("c")}
	n, refused, err := h.loadRows(l, "bad", imagesOf(h, t, images...), 0)
	if want := []string{"1 " + images[0], "2 " + images[1], "3 " + images[2]}; err != nil || n != 0 || !slices.Equal(refused, want) ||
		!l.Loaded("bad") {
		h.Errorf("%d rows, loaded: %v, refused %q, %v", n, l.Loaded("bad"), refused, err)
	}
	h.expectOthers(s, l, t, nil, nil)
}

// checkLoadRowsFaults loads a file with two rows that the sink refuses, and breaks the load at
// each of its steps.
func checkLoadRowsFaults(h *harness) {
	t, row, ok := h.poisonRow()
	if !ok {
		return
	}
	s, faults := h.config.Faulty(h.outer, h.url, h.env())
	h.Cleanup(func() { h.close(s) })
	job := 0
	load := func(breakIt func()) (steps int, rows int64, images []string) {
		job++
		images = []string{`{"id":"a"}`, row("b"), fmt.Sprintf(`{"id":"of this round %d"}`, job), `{"id":"d"}`, row("e")}
		seen := make(map[string]bool)
		before := faults.Steps()
		breakIt()
		rows, err := h.loadRowsOnce(s, t, images, job, seen)
		steps = faults.Steps() - before
		faults.Repair()
		h.untilDone(err, job, "in a load", "the load does not finish", func() error {
			rows, err = h.loadRowsOnce(s, t, images, job, seen)
			return err
		})
		if len(seen) != 2 || !seen["2 "+images[1]] || !seen["5 "+images[4]] {
			h.Errorf("refused: %v", seen)
		}
		return steps, rows, images
	}
	good := func(images []string) []string { return []string{images[0], images[2], images[3]} }
	total, rows, images := load(func() {})
	h.expectLoaded(s, t, good(images), rows, -1, "not")
	for _, mode := range []Mode{Lost, Answered} {
		for _, n := range breakpoints(total, mostBreaks) {
			_, rows, images := load(func() { faults.Break(n, mode) })
			h.expectLoaded(s, t, good(images), rows, n, mode)
		}
	}
}

// loadRowsOnce loads images from one file, unless an earlier run of the job has loaded the file.
// It adds the refused rows to the map seen.
func (h *harness) loadRowsOnce(s sink.Sink, t *schema.Table, images []string, job int, seen map[string]bool) (rows int64, err error) {
	ctx, cancel := context.WithTimeout(h.ctx(), h.patience())
	defer cancel()
	l, err := s.BeginLoad(ctx, fmt.Sprint("job ", job), t, sink.Replace, sink.Scope{})
	if err != nil {
		return 0, err
	}
	// Close may fail over a broken connection. Only the staged rows matter.
	defer func() { _ = l.Close(context.WithoutCancel(h.ctx())) }()
	if !l.Loaded("file") {
		_, err = l.(sink.RowLoad).LoadRows(ctx, "file", imagesOf(h, t, images...), func(row *change.Row, number int64, _ error) error {
			seen[fmt.Sprintf("%d %s", number, row.Image)] = true
			return nil
		})
	}
	if err != nil {
		return 0, err
	}
	return l.Finish(ctx)
}
