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

// A table fails if more than maxRefused rows among refusedWindow lines are refused, or more than
// maxRefusedTotal rows in total. So many refused rows show that the table is at fault, not single
// rows. The first two limits equal the limits for events of the stream.
const (
	maxRefused      = 100
	refusedWindow   = 1000
	maxRefusedTotal = 10_000
)

// refusals counts the refused rows of one table, in total and among its latest lines.
type refusals struct {
	lines  int64   // number of lines of earlier files
	recent []int64 // the latest refused lines, numbered across all files
	total  int
}

// add counts a refused row. It returns an error if too many rows were refused.
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
func (r *importRun) lenient() bool { return r.cfg.Dead != nil && !r.cfg.Strict }

// deadLetters returns the key of the dead letters that a table's import has written.
func (r *importRun) deadLetters(table, job string) dlq.EntryImport {
	return dlq.EntryImport{Destination: r.cfg.Destination.Identity, Table: table, Job: job}
}

func (t *tableImport) deadLetters() dlq.EntryImport {
	return t.importRun.deadLetters(t.table.Name, t.job)
}

// countRefused returns the number of rows of a table that a job's import has refused.
func (r *importRun) countRefused(table, job string) int {
	if r.cfg.Dead == nil {
		return 0
	}
	return r.cfg.Dead.CountRows(r.deadLetters(table, job))
}

// loadRows loads the rows of a file. If refused rows become dead letters, loadRows loads all rows
// that the destination does not refuse.
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
		t.cfg.Logger.DebugContext(ctx, "the destination refuses rows of a file; loading it in parts",
			"table", t.table.Name, "file", f.name, "error", err)
		t.refused, d = before, t.decoder(ctx, f)
		now, err = t.decode(ctx, func(ctx context.Context, file string, all iter.Seq2[*change.Row, error]) (int64, error) {
			return rows.LoadRows(ctx, file, all, func(row *change.Row, number int64, reason error) error {
				d.err = t.refuse(ctx, f, d.lineOf(number), row, row.Image, reason)
				return d.err
			})
		}, d)
	}
	if err != nil {
		return now, t.loadError(ctx, d, f, err)
	}
	t.refused.lines += d.line
	return now, nil
}

// isRefused reports whether err means that a row can never be loaded.
func isRefused(err error) bool {
	return err != nil && (fault.Of(err) == fault.Poison || errors.As(err, new(*sink.RowError)))
}

// decoder returns a decoder for a file.
func (t *tableImport) decoder(ctx context.Context, f exportFile) *fileDecoder {
	d := &fileDecoder{
		name: f.name, table: t.table, clock: f.clock, limit: MaxLine, alone: t.alone, beside: !t.alone, unknown: t.warnUnknown,
	}
	if d.beside {
		d.limit = shortLine(t.cfg.Parallel)
	}
	if t.lenient() {
		d.refused = func(line int64, text []byte, reason error) error {
			return t.refuse(ctx, f, line, nil, text, reason)
		}
	}
	return d
}

// refuse turns a line of a file into a dead letter. It returns an error if too many rows of the
// table were refused. The parameter row is nil if the line cannot be parsed as a row.
func (t *tableImport) refuse(ctx context.Context, f exportFile, line int64, row *change.Row, text []byte, reason error) error {
	where := &FileError{File: f.name, Line: line, Err: reason}
	if err := t.refused.add(line); err != nil {
		return fmt.Errorf("%w, the last one: %w; see: eds dlq list --table %s", err, where, t.table.Name)
	}
	// A line that is not a row of the table may still have an id.
	e := &cdc.Event{Op: cdc.Insert, Table: t.table.Name, After: text}
	effect := change.Effect{}
	entry := dlq.Entry{
		Operation: cdc.Insert.String(), Stored: f.clock.Wall, Time: time.Now(), Reason: where.Error(), Payload: text,
	}
	if row != nil && utf8.Valid(row.Image) {
		entry.Payload = encode.AppendImported(nil, t.table, row)
		if err := cdc.NewDecoder().Decode(e, entry.Payload, ""); err != nil {
			return fmt.Errorf("record a row that cannot be loaded: %w", err)
		}
		entry.EventID, effect = e.ID, change.Effect{Table: t.table, Upsert: row}
	}
	entry.Keys, entry.Rows = change.LetterKeys(e, effect)
	return t.retry(ctx, "record a row that cannot be loaded", func() error {
		return t.cfg.Dead.PutRow(t.deadLetters(), f.name, line, entry)
	})
}

// dropRefused removes the dead letters of a damaged file, because the lines of such a file are not
// reliable.
func (t *tableImport) dropRefused(f exportFile) error {
	if !t.lenient() {
		return nil
	}
	return t.cfg.Dead.DropFile(t.deadLetters(), f.name)
}

// finishRefused returns the number of refused rows of a table that is in place. If the import has
// replaced all rows of the table, finishRefused also drops two kinds of dead letters of the table:
// those of earlier imports, and those of changes that the snapshot contains.
func (t *tableImport) finishRefused(ctx context.Context) (int, error) {
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
		t.cfg.Logger.WarnContext(ctx, "rows could not be loaded; they are dead letters",
			"table", t.table.Name, "rows", n, "see", "eds dlq list --table "+t.table.Name)
	}
	return n, nil
}
