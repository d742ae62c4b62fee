package snapshot

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/state"
)

// More than maxRefused rows among refusedWindow lines of a table, or maxRefusedTotal in
// all, are not bad rows: something is wrong with the table, which fails. The rates are
// those of the stream's events.
const (
	maxRefused      = 100
	refusedWindow   = 1000
	maxRefusedTotal = 10_000
)

// refusals are the rows of a table that were refused.
type refusals struct {
	lines  int64   // of the files before
	recent []int64 // the latest refused lines, counted over all files
	total  int
}

// add counts a row, and reports whether there are too many.
func (r *refusals) add(line int64) error {
	at := r.lines + line
	r.total++
	r.recent = append(r.recent, at)
	r.recent = slices.DeleteFunc(r.recent, func(n int64) bool { return n+refusedWindow <= at })
	switch {
	case len(r.recent) > maxRefused:
		return fmt.Errorf("more than %d of %d rows cannot be loaded", maxRefused, refusedWindow)
	case r.total > maxRefusedTotal:
		return fmt.Errorf("more than %d rows of the table cannot be loaded", maxRefusedTotal)
	}
	return nil
}

func (r refusals) clone() refusals {
	r.recent = slices.Clone(r.recent)
	return r
}

// lenient reports whether rows that cannot be loaded become dead letters.
func (r *run) lenient() bool { return r.cfg.Dead != nil && !r.cfg.Strict }

// deadLetters names the dead letters of a table's import.
func (r *run) deadLetters(table, job string) dlq.Import {
	return dlq.Import{Destination: r.cfg.Destination.Identity, Table: table, Job: job}
}

func (t *tableImport) deadLetters() dlq.Import { return t.run.deadLetters(t.table.Name, t.job) }

// countRefused returns how many rows of a table could not be loaded.
func (r *run) countRefused(table, job string) int {
	if r.cfg.Dead == nil {
		return 0
	}
	return r.cfg.Dead.CountRows(r.deadLetters(table, job))
}

// loadRows loads the rows of a file. If one is refused, it has the destination load the
// others.
func (t *tableImport) loadRows(ctx context.Context, load sink.Load, f exportFile) (now state.ImportFile, err error) {
	share := t.share()
	if err := t.loading.Acquire(ctx, share); err != nil {
		return now, context.Cause(ctx)
	}
	defer t.loading.Release(share)
	if t.lenient() {
		if err := t.cfg.Dead.DropFile(t.deadLetters(), f.name); err != nil {
			return now, err
		}
		t.refused.total = t.countRefused(t.table.Name, t.job)
	}
	before := t.refused.clone()
	d := t.decoder(ctx, f)
	now, err = t.decode(ctx, load.LoadFile, d)
	rows, ok := load.(sink.RowLoad)
	if ok && t.lenient() && d.err == nil && isRefused(err) {
		t.cfg.Logger.DebugContext(ctx, "a file has rows that are refused; it is loaded in parts", "table", t.table.Name, "file", f.name, "error", err)
		t.refused, d = before, t.decoder(ctx, f)
		now, err = t.decode(ctx, func(ctx context.Context, file string, all iter.Seq2[*change.Row, error]) (int64, error) {
			return rows.LoadRows(ctx, file, all, func(row *change.Row, number int64, reason error) error {
				d.err = t.refuse(ctx, f, d.lineOf(number), row, row.Image, reason)
				return d.err
			})
		}, d)
	}
	if err != nil {
		return now, t.explain(ctx, d, f, err)
	}
	t.refused.lines += d.line
	return now, nil
}

// isRefused reports whether a destination says that a row can never be loaded.
func isRefused(err error) bool {
	return err != nil && (fault.Of(err) == fault.Poison || errors.As(err, new(*sink.RowError)))
}

// decoder returns a decoder of a file.
func (t *tableImport) decoder(ctx context.Context, f exportFile) *fileDecoder {
	d := &fileDecoder{name: f.name, table: t.table, clock: f.clock, limit: MaxLine, alone: t.alone, beside: !t.alone, unknown: t.noteUnknown}
	if d.beside {
		d.limit = shortLine(t.cfg.Parallel)
	}
	if t.lenient() {
		d.refused = func(line int64, text []byte, reason error) error { return t.refuse(ctx, f, line, nil, text, reason) }
	}
	return d
}

// refuse makes a line of a file a dead letter, unless the table has too many of them. The
// row is nil if the line is none.
func (t *tableImport) refuse(ctx context.Context, f exportFile, line int64, row *change.Row, text []byte, reason error) error {
	where := &FileError{File: f.name, Line: line, Err: reason}
	if err := t.refused.add(line); err != nil {
		return fmt.Errorf("%w, the last one: %w; see: eds dlq list --table %s", err, where, t.table.Name)
	}
	// A line that is no row of the table may have an id all the same.
	e := &cdc.Event{Op: cdc.Insert, Table: t.table.Name, After: text}
	effect := change.Effect{}
	letter := dlq.Entry{
		Operation: cdc.Insert.String(), Stored: f.clock.Wall, Time: time.Now(), Reason: where.Error(), Payload: text,
	}
	if row != nil && utf8.Valid(row.Image) {
		letter.Payload = encode.AppendImported(nil, t.table, row)
		if err := cdc.NewDecoder().Decode(e, letter.Payload, ""); err != nil {
			return fmt.Errorf("write down a row that cannot be loaded: %w", err)
		}
		letter.EventID, effect = e.ID, change.Effect{Table: t.table, Upsert: row}
	}
	letter.Keys, letter.Rows = change.LetterKeys(e, effect)
	return t.persist(ctx, "write down a row that cannot be loaded", func() error {
		return t.cfg.Dead.PutRow(t.deadLetters(), f.name, line, letter)
	})
}

// dropRefused removes the dead letters of a damaged file, whose lines mean nothing.
func (t *tableImport) dropRefused(f exportFile) error {
	if !t.lenient() {
		return nil
	}
	return t.cfg.Dead.DropFile(t.deadLetters(), f.name)
}

// noteRefused returns how many rows of the table, which is in place, were refused. The
// dead letters of earlier imports are out of date if all of its rows were replaced.
func (t *tableImport) noteRefused(ctx context.Context) (int, error) {
	if t.cfg.Dead == nil {
		return 0, nil
	}
	if scope := t.scope(); t.mode.Replaces() && scope.All() {
		if err := t.cfg.Dead.DropEarlier(t.deadLetters()); err != nil {
			return 0, err
		}
		if err := t.cfg.Dead.Replaced(t.cfg.Destination.Identity, t.table.Name, t.export.clock); err != nil {
			return 0, err
		}
	}
	n := t.countRefused(t.table.Name, t.job)
	if n > 0 {
		t.cfg.Logger.WarnContext(ctx, "rows could not be loaded; they are dead letters", "table", t.table.Name, "rows", n, "see", "eds dlq list --table "+t.table.Name)
	}
	return n, nil
}
