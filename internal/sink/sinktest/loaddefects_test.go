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
		"an interrupted load resumes",
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
		"a load without rows empties a table only on request",
	}, loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Merge })},
	{
		"merge replaces",
		[]string{"a load merges into a table", "a load without rows empties a table only on request"},
		loading(func(l *memoryLoad, _ *worseLoad) { l.mode = sink.Replace }),
	},
	{"rows before an error stay staged", []string{
		"a file that fails stages nothing", "an interrupted load resumes",
		"a cancelled load leaves the table alone",
		"a file with a refused row stages nothing",
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
	{"an error of a file is swallowed", []string{"a file that fails stages nothing"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
			n, _ := l.LoadFile(ctx, file, rows)
			return n, nil
		}
	})},
	{"loads are forgotten", []string{"an interrupted load resumes"}, func(w *worse) {
		w.begin = func(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			clear(w.m.loads)
			return w.memorySink.BeginLoad(ctx, job, t, mode, scope)
		}
	}},
	{
		"every file counts as loaded",
		[]string{"an interrupted load resumes", "a file that fails stages nothing"},
		loading(func(_ *memoryLoad, w *worseLoad) { w.loaded = func(string) bool { return true } }),
	},
	{"all jobs are one", []string{"another job starts afresh"}, func(w *worse) {
		w.begin = func(ctx context.Context, _ string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
			return w.memorySink.BeginLoad(ctx, "job", t, mode, scope)
		}
	}},
	{
		"the first of two rows of a key stays",
		[]string{"the last row of a repeated key stays"},
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
				for range 1000 { // time for a reader
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
		"a load of a large file", "tables load concurrently", "changes apply after a load",
		"a file is loaded once",
	}, loading(func(_ *memoryLoad, w *worseLoad) {
		w.finish = func(context.Context) (int64,
			error,
		) {
			return 0, nil
		}
	})},

	{"files outlive their stage", []string{"a load resumed without its stage starts afresh"}, func() func(w *worse) {
		loaded := make(map[string]bool) // by any sink
		return loading(func(l *memoryLoad, bad *worseLoad) {
			bad.loaded = func(file string) bool { return loaded[file] || l.Loaded(file) }
			bad.loadFile = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
				n, err := l.LoadFile(ctx, file, rows)
				loaded[file] = true
				return n, err
			}
		})
	}()},
	{"rows staged for other columns stay", []string{"a load resumed under another schema starts afresh"}, func(w *worse) {
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
		"a missing stage counts as in place",
		[]string{"a stage that is gone is not put in place"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.finish = func(ctx context.Context) (int64, error) {
				if l.s.m.loads[l.stageKey()] != l {
					return 0, nil
				}
				return l.Finish(ctx)
			}
		}),
	},
	{
		"a load without rows empties a table",
		[]string{"a load without rows empties a table only on request"},
		loading(func(l *memoryLoad, _ *worseLoad) {
			if l.mode == sink.Replace {
				l.mode = sink.ReplaceOrEmpty
			}
		}),
	},
	{"rows of files are counted, not rows of the table", []string{
		"the last row of a repeated key stays",
		"a load survives a fault at any step",
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
	{"finishing again is an error", []string{"finishing a load survives a fault at any step"}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) (int64, error) {
			rows, err := l.Finish(ctx)
			if err != nil {
				l.rows = -1
			}
			return rows, err
		}
	})},
	{"stages share a name", []string{"loads of tables with similar names stay apart"}, func(w *worse) {
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
		"a load of some companies without rows removes theirs only on request",
	}, loading(func(l *memoryLoad, _ *worseLoad) {
		if l.scope != nil {
			l.mode = sink.Merge
		}
	})},
	{
		"rows of no company are replaced by those of one",
		[]string{"a load of some companies needs a column that names them"},
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
		[]string{"concurrent loads of one table by two jobs leave the rows of one"},
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
		"refused rows are left out silently",
		[]string{"a file loads without its refused rows"},
		loading(func(l *memoryLoad, w *worseLoad) {
			w.loadRows = func(ctx context.Context, file string, rows iter.Seq2[*change.Row, error], _ refusedRow) (int64, error) {
				return l.LoadRows(ctx, file, rows, func(*change.Row, int64, error) error { return nil })
			}
		}),
	},
	{
		"rows that are refused are numbered from 0",
		[]string{"a file loads without its refused rows"},
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
		"a file loads without its refused rows",
		"an interrupted file with refused rows counts as not loaded",
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
		[]string{"an interrupted file with refused rows counts as not loaded"},
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
		"a file with only refused rows fails",
		[]string{"a file with only refused rows counts as loaded"},
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
		"a load survives a fault at any step",
		"a load that leaves rows out survives a fault at any step",
	}, loading(func(l *memoryLoad, w *worseLoad) {
		w.finish = func(ctx context.Context) (int64, error) {
			rows, _ := l.Finish(ctx)
			return rows, nil
		}
	})},
}
