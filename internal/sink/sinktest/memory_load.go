package sinktest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// memoryLoad is the load of one table.
type memoryLoad struct {
	s     *memorySink
	job   string
	t     *schema.Table
	mode  sink.LoadMode
	scope []sink.ScopeColumn // selects the rows to replace; nil for all
	files map[string]int64   // number of rows that each loaded file added to the stage
	stage *memoryTable
	rows  int64 // number of rows that were put in place, or -1 before Finish
}

func (s *memorySink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	l := &memoryLoad{
		s: s, job: job, t: t, mode: mode, files: make(map[string]int64),
		stage: &memoryTable{rows: make(map[string]*memoryRow)}, rows: -1,
	}
	var ok bool
	if l.scope, ok = scope.Columns(t); !ok && mode.Replaces() {
		return nil, fault.Mark(fault.Fatal, fmt.Errorf("table %q has no column that says which rows are in the scope", t.Name))
	}
	err := s.m.call(ctx, func() error {
		if err := t.Check(); err != nil {
			return err
		}
		s.table(t)
		if was := s.m.loads[l.stageKey()]; was != nil && l.continues(was) {
			l.files, l.stage = was.files, was.stage
		}
		if s.m.loads == nil {
			s.m.loads = make(map[[2]string]*memoryLoad)
		}
		s.m.loads[l.stageKey()] = l
		return nil
	})
	return l, err
}

// stageKey identifies the stage of the load.
func (l *memoryLoad) stageKey() [2]string { return [2]string{l.job, l.t.Name} }

// inScope returns the keys of the rows in the live table that the load replaces.
func (l *memoryLoad) inScope(live *memoryTable) map[string]bool {
	keys := make(map[string]bool)
	for key, row := range live.rows {
		keys[key] = !slices.ContainsFunc(l.scope, func(c sink.ScopeColumn) bool {
			raw := row.values[l.t.Columns[c.Slot].Name]
			return raw == nil || !slices.Contains(c.Values, string(rawjson.Text(raw)))
		})
	}
	maps.DeleteFunc(keys, func(_ string, in bool) bool { return !in })
	return keys
}

// continues reports whether l can resume an earlier load, which is the parameter was. Both loads
// must have the same job, columns and update strategy.
func (l *memoryLoad) continues(was *memoryLoad) bool {
	return was.job == l.job && was.t.SameLayout(l.t) && was.s.env.After == l.s.env.After && was.s.metadata == l.s.metadata
}

func (l *memoryLoad) Loaded(file string) bool {
	_, ok := l.files[file]
	return ok
}

func (l *memoryLoad) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	return l.LoadRows(ctx, file, rows, func(_ *change.Row, n int64, reason error) error {
		return fault.Mark(fault.Poison, &sink.RowError{Row: n, Err: reason})
	})
}

func (l *memoryLoad) LoadRows(ctx context.Context, file string, rows iter.Seq2[*change.Row, error],
	refused func(*change.Row, int64, error) error,
) (int64, error) {
	if n, ok := l.files[file]; ok {
		return n, nil
	}
	staged := &memoryTable{rows: make(map[string]*memoryRow)}
	var n, out int64
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		n++
		if err := refuse(l.t, []change.Row{*row}); err != nil {
			out++
			if err := refused(row, n, err); err != nil {
				return 0, err
			}
			continue
		}
		l.s.put(staged, l.t, row)
	}
	err := l.s.m.call(ctx, func() error {
		before := len(l.stage.rows)
		maps.Copy(l.stage.rows, staged.rows)
		l.files[file] = int64(len(l.stage.rows) - before)
		return nil
	})
	return n - out, err
}

func (l *memoryLoad) Finish(ctx context.Context) (int64, error) {
	err := l.s.m.call(ctx, func() error {
		if l.rows >= 0 {
			return nil // an earlier attempt was durable
		}
		if l.s.m.loads[l.stageKey()] != l {
			return l.lose("it is not there any more")
		}
		var want int64
		for _, n := range l.files {
			want += n
		}
		rows := int64(len(l.stage.rows))
		if rows != want {
			delete(l.s.m.loads, l.stageKey())
			return l.lose("it has other rows")
		}
		live := l.s.table(l.t)
		inScope := l.inScope(live)
		if l.mode == sink.Replace && rows == 0 && len(inScope) > 0 {
			return fault.Mark(fault.Fatal, sink.ErrWouldEmpty)
		}
		delete(l.s.m.loads, l.stageKey())
		if l.mode.Replaces() {
			maps.DeleteFunc(live.rows, func(key string, _ *memoryRow) bool { return inScope[key] })
		}
		maps.Copy(live.rows, l.stage.rows)
		l.rows = rows
		return nil
	})
	return l.rows, err
}

func (l *memoryLoad) lose(why string) error {
	clear(l.files)
	return fault.Mark(fault.Fatal, fmt.Errorf("%w: %s", sink.ErrLoadLost, why))
}

func (l *memoryLoad) Discard(ctx context.Context) error {
	return l.s.m.call(ctx, func() error {
		delete(l.s.m.loads, l.stageKey())
		return nil
	})
}

func (l *memoryLoad) Close(context.Context) error { return nil }
