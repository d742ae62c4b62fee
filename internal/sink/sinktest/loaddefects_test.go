package sinktest

import (
	"context"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// loadDefects maps each defect of loads to the checks that must find it.
var loadDefects = []rowDefect{
	{"a load is seen at once", []string{
		"a load replaces a table, when it is finished and not before",
		"an interrupted load goes on where it was",
	}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			n, err := l.LoadFile(ctx, file, rows)
			for k, row := range l.stage.rows {
				l.s.table(l.t).rows[k] = row
			}
			return n, err
		}
	})},
	{"replace merges", []string{
		"a load replaces a table, when it is finished and not before",
		"a load without rows empties a table only if it is told to",
	}, loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Merge })},
	{
		"merge replaces",
		[]string{"a load merges into a table", "a load without rows empties a table only if it is told to"},
		loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Replace }),
	},
	{"rows before an error stay staged", []string{
		"of a file that fails nothing is staged", "an interrupted load goes on where it was",
		"a cancelled load leaves the table alone",
		"of a file with a row that is refused nothing is staged",
	}, loading(func(l *memoryLoad, w *worseLoad) {
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
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			clear(w.m.loads)
			return w.memorySink.BeginLoad(ctx, job, t, mode, scope)
		}
	}},
	{
		"every file counts as loaded",
		[]string{"an interrupted load goes on where it was", "of a file that fails nothing is staged"},
		loading(func(_ *memoryLoad, w *worseLoad) { w.loaded = func(string) bool { return true } }),
	},
	{"all jobs are one", []string{"another job starts afresh"}, func(w *worse) {
		w.begin = func(ctx context.Context, _ string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			return w.memorySink.BeginLoad(ctx, "job", t, mode, scope)
		}
	}},
	{
		"the first of two rows of a key stays",
		[]string{"of a key that comes twice the last row stays"},
		loading(func(l *memoryLoad, w *worseLoad) {
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
		}),
	},
	{"finishing takes two steps", []string{"readers see the old rows or the new ones"}, func(w *worse) {
		loading(func(l *memoryLoad, bad *worseLoad) {
			bad.finish = func(ctx context.Context) (int64, error) {
				staged := l.stage.rows
				l.stage.rows, l.mode = nil, sink.ReplaceOrEmpty
				clear(l.files)
				if _, err := l.Finish(ctx); err != nil {
					return 0, err
				}
				for range 1000 { // time to look
					runtime.Gosched()
					_ = slices.Collect(maps.Keys(staged))
				}
				return int64(len(staged)), l.s.m.call(ctx, func() error {
					l.s.table(l.t).rows = staged
					return nil
				})
			}
		})(w)
	}},
	{"discard finishes", []string{"a discarded load leaves the table alone"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.discarded = func(ctx context.Context) error {
			_, err := l.Finish(ctx)
			return err
		}
	})},
	{
		"discard does nothing",
		[]string{"a discarded load leaves the table alone"},
		loading(func(_ *memoryLoad, w *worseLoad) { w.discarded = func(context.Context) error { return nil } }),
	},
	{"finishing does nothing", []string{
		"a load of a large file", "tables load concurrently", "changes go on after a load",
		"a file is loaded once",
	}, loading(func(_ *memoryLoad, w *worseLoad) {
		w.finish = func(context.Context) (int64,
			error,
		) {
			return 0, nil
		}
	})},

	{"files outlive their stage", []string{"a load resumed without its stage starts afresh"}, func() func(w *worse) {
		loaded := make(map[string]bool) // by whatever sink
		return loading(func(l *memoryLoad, bad *worseLoad) {
			bad.loaded = func(file string) bool { return loaded[file] || l.Loaded(file) }
			bad.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
				n, err := l.LoadFile(ctx, file, rows)
				loaded[file] = true
				return n, err
			}
		})
	}()},
	{"what was staged for other columns stays", []string{"a load resumed under another schema starts afresh"}, func(w *worse) {
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			if was := w.m.loads[[2]string{job, t.Name}]; was != nil {
				was.t = t
			}
			return w.memorySink.BeginLoad(ctx, job, t, mode, scope)
		}
	}},
	{
		"files count that were staged under another strategy",
		[]string{"a load resumed under another update strategy starts afresh"},
		func(w *worse) {
			w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
				was := w.m.loads[[2]string{job, t.Name}]
				l, err := w.memorySink.BeginLoad(ctx, job, t, mode, scope)
				if was != nil {
					l.(*memoryLoad).files = was.files
				}
				return l, err
			}
		},
	},
	{
		"rows of the stage are not counted",
		[]string{"a stage that lost a row is not put in place"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.finish = func(ctx context.Context) (int64, error) {
				l.files = map[string]int64{"all": int64(len(l.stage.rows))}
				return l.Finish(ctx)
			}
		}),
	},
	{
		"a stage that is gone is taken for one that is in place",
		[]string{"a stage that is gone is not put in place"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.finish = func(ctx context.Context) (int64, error) {
				if l.s.m.loads[l.place()] != l {
					return 0, nil
				}
				return l.Finish(ctx)
			}
		}),
	},
	{
		"a load without rows empties a table",
		[]string{"a load without rows empties a table only if it is told to"},
		loading(func(l *memoryLoad, _ *worseLoad) {
			if l.mode == sink.Replace {
				l.mode = sink.ReplaceOrEmpty
			}
		}),
	},
	{"the rows of files are counted, not those of the table", []string{
		"of a key that comes twice the last row stays",
		"a load converges, wherever it breaks",
	}, func(w *worse) {
		loading(func(l *memoryLoad, bad *worseLoad) {
			var all int64
			bad.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
				n, err := l.LoadFile(ctx, file, rows)
				all += n
				return n, err
			}
			bad.finish = func(ctx context.Context) (int64, error) {
				_, err := l.Finish(ctx)
				return all, err
			}
		})(w)
	}},
	{"finishing again is an error", []string{"finishing a load converges, wherever it breaks"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) (int64, error) {
			rows, err := l.Finish(ctx)
			if err != nil {
				l.rows = -1
			}
			return rows, err
		}
	})},
	{"stages share a name", []string{"loads of tables whose names are alike stay apart"}, func(w *worse) {
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			delete(w.m.loads, [2]string{job, strings.TrimSuffix(t.Name, "_old")})
			return w.memorySink.BeginLoad(ctx, job, t, mode, scope)
		}
	}},
	{"the loads of all jobs share a stage", []string{"loads of one table by two jobs both succeed"}, func(w *worse) {
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			maps.DeleteFunc(w.m.loads, func(at [2]string, _ *memoryLoad) bool { return at[1] == t.Name && at[0] != job })
			return w.memorySink.BeginLoad(ctx, job, t, mode, scope)
		}
	}},
	{"a load of some companies replaces all rows", []string{
		"a load of some companies replaces only their rows",
		"a load of some locations replaces only their rows",
	}, loading(func(l *memoryLoad, _ *worseLoad) { l.scope = nil })},
	{
		"a load of some companies and locations replaces all rows of the companies",
		[]string{"a load of some locations replaces only their rows"},
		loading(func(l *memoryLoad, _ *worseLoad) { l.scope = l.scope[:min(len(l.scope), 1)] }),
	},
	{"a load of some companies removes nothing", []string{
		"a load of some companies replaces only their rows",
		"a load of some companies without rows removes theirs only if it is told to",
	}, loading(func(l *memoryLoad, _ *worseLoad) {
		if l.scope != nil {
			l.mode = sink.Merge
		}
	})},
	{
		"rows that belong to no company are replaced by those of one",
		[]string{"a load of some companies needs a column that tells them"},
		func(w *worse) {
			w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
				if _, ok := scope.Columns(t); !ok {
					scope = sink.Scope{}
				}
				return w.memorySink.BeginLoad(ctx, job, t, mode, scope)
			}
		},
	},
	{
		"a load adds to what another has put in place",
		[]string{"loads of one table by two jobs at once leave the rows of one"},
		loading(func(l *memoryLoad, _ *worseLoad) {
			l.mode = sink.Merge
		}),
	},
	{
		"every table is adopted",
		[]string{"a table of another tool is not adopted"},
		func(w *worse) { w.adopt = func(*schema.Table) error { return nil } },
	},
	{
		"no table is adopted",
		[]string{"a table that eds made is adopted"},
		func(w *worse) { w.adopt = func(*schema.Table) error { return sink.ErrForeign } },
	},
	{"loaded rows have no version", []string{"loads fill metadata columns"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) (int64, error) {
			for _, row := range l.stage.rows {
				row.clock = cdc.Timestamp{}
			}
			return l.Finish(ctx)
		}
	})},
	{
		"rows that are refused are left out without a word",
		[]string{"of a file with rows that are refused the others are loaded"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.loadRows = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], _ refusedRow) (int64, error) {
				return l.LoadRows(ctx, file, rows, func(*change.Row, int64, error) error { return nil })
			}
		}),
	},
	{
		"rows that are refused are numbered from 0",
		[]string{"of a file with rows that are refused the others are loaded"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.loadRows = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused refusedRow) (int64, error) {
				return l.LoadRows(ctx, file, rows, func(row *change.Row, number int64, reason error) error {
					return refused(row, number-1,
						reason)
				})
			}
		}),
	},
	{"the rows of a file end with the first that is refused", []string{
		"of a file with rows that are refused the others are loaded",
		"a file with rows that are refused is loaded whole or counts as not loaded",
	}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadRows = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused refusedRow) (int64, error) {
			ended := false
			return l.LoadRows(ctx, file, func(yield func(*change.Row, error) bool) {
				for row, err := range rows {
					if ended || !yield(row, err) {
						return
					}
				}
			}, func(row *change.Row, number int64, reason error) error {
				ended = true
				return refused(row, number, reason)
			})
		}
	})},
	{
		"a file that is interrupted counts as loaded",
		[]string{"a file with rows that are refused is loaded whole or counts as not loaded"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.loadRows = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused refusedRow) (int64, error) {
				n, err := l.LoadRows(ctx, file, rows, refused)
				if err != nil {
					l.files[file] = 0
				}
				return n, err
			}
		}),
	},
	{
		"a file of which every row is refused fails",
		[]string{"a file of which every row is refused is loaded"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.loadRows = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], refused refusedRow) (int64, error) {
				n, err := l.LoadRows(ctx, file, rows, refused)
				if err == nil && n == 0 {
					err = errBroken
				}
				return n, err
			}
		}),
	},
	{"an error of finishing is forgotten", []string{
		"a load converges, wherever it breaks",
		"a load that leaves rows out converges, wherever it breaks",
	}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) (int64, error) {
			rows, _ := l.Finish(ctx)
			return rows, nil
		}
	})},
}
