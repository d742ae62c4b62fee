package sinktest

import (
	"context"
	"iter"
	"maps"
	"runtime"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// loadDefects maps each defect of loads to the checks that must find it.
var loadDefects = []rowDefect{
	{"a load is seen at once", []string{"a load replaces a table, when it is finished and not before", "an interrupted load goes on where it was"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			n, err := l.LoadFile(ctx, file, rows)
			for k, row := range l.stage.rows {
				l.s.table(l.t).rows[k] = row
			}
			return n, err
		}
	})},
	{"replace merges", []string{"a load replaces a table, when it is finished and not before", "a load of no files"}, loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Merge })},
	{"merge replaces", []string{"a load merges into a table", "a load of no files"}, loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Replace })},
	{"rows before an error stay staged", []string{"of a file that fails nothing is staged", "an interrupted load goes on where it was", "a cancelled load leaves the table alone", "of a file with a row that is refused nothing is staged"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			return l.LoadFile(ctx, file, func(yield func(*change.Row, error) bool) {
				for row, err := range rows {
					if err == nil && refuse(l.t, []change.Row{*row}) == nil {
						l.s.put(l.stage, l.t, row)
					}
					if !yield(row, err) {
						return
					}
				}
			})
		}
	})},
	{"an error of a file is swallowed", []string{"of a file that fails nothing is staged"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			n, _ := l.LoadFile(ctx, file, rows)
			return n, nil
		}
	})},
	{"loads are forgotten", []string{"an interrupted load goes on where it was"}, func(w *worse) {
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
			delete(w.m.loads, t.Name)
			return w.memorySink.BeginLoad(ctx, job, t, mode)
		}
	}},
	{"every file counts as loaded", []string{"an interrupted load goes on where it was", "of a file that fails nothing is staged"}, loading(func(_ *memoryLoad, w *worseLoad) { w.loaded = func(string) bool { return true } })},
	{"all jobs are one", []string{"another job starts afresh"}, func(w *worse) {
		w.begin = func(ctx context.Context, _ string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
			return w.memorySink.BeginLoad(ctx, "job", t, mode)
		}
	}},
	{"the first of two rows of a key stays", []string{"of a key that comes twice the last row stays"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			var kept []change.Row
			for row, err := range rows {
				if err != nil {
					return 0, err
				}
				kept = append(kept, *altered(l.t, row, func(_ schema.Column, raw []byte) []byte { return raw }))
			}
			slices.Reverse(kept)
			return l.LoadFile(ctx, file, func(yield func(*change.Row, error) bool) {
				for i := range kept {
					if !yield(&kept[i], nil) {
						return
					}
				}
			})
		}
	})},
	{"finishing takes two steps", []string{"readers see the old rows or the new ones"}, func(w *worse) {
		loading(func(l *memoryLoad, bad *worseLoad) {
			bad.finish = func(ctx context.Context) error {
				staged := l.stage.rows
				l.stage.rows = nil
				if err := l.Finish(ctx); err != nil {
					return err
				}
				for range 1000 { // time to look
					runtime.Gosched()
					_ = slices.Collect(maps.Keys(staged))
				}
				return l.s.m.call(ctx, func() error {
					l.s.table(l.t).rows = staged
					return nil
				})
			}
		})(w)
	}},
	{"discard finishes", []string{"a discarded load leaves the table alone"}, loading(func(l *memoryLoad, w *worseLoad) { w.discarded = l.Finish })},
	{"discard does nothing", []string{"a discarded load leaves the table alone"}, loading(func(_ *memoryLoad, w *worseLoad) { w.discarded = func(context.Context) error { return nil } })},
	{"finishing does nothing", []string{"a load of a large file", "tables load concurrently", "changes go on after a load", "a file is loaded once"}, loading(func(_ *memoryLoad, w *worseLoad) { w.finish = func(context.Context) error { return nil } })},

	{"loaded rows have no version", []string{"loads fill metadata columns"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) error {
			for _, row := range l.stage.rows {
				row.clock = cdc.Timestamp{}
			}
			return l.Finish(ctx)
		}
	})},
	{"an error of finishing is forgotten", []string{"a load converges, wherever it breaks"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) error {
			_ = l.Finish(ctx)
			return nil
		}
	})},
}
