package sinktest

import (
	"context"
	"iter"
	"maps"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// memoryLoad is the load of one table.
type memoryLoad struct {
	s     *memorySink
	job   string
	t     *schema.Table
	mode  sink.LoadMode
	files map[string]int64
	stage *memoryTable
}

func (s *memorySink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
	l := &memoryLoad{s: s, job: job, t: t, mode: mode, files: make(map[string]int64), stage: &memoryTable{rows: make(map[string]*memoryRow)}}
	err := s.m.call(ctx, func() error {
		s.table(t)
		if was := s.m.loads[t.Name]; was != nil && was.job == job {
			l.files, l.stage = was.files, was.stage
		}
		if s.m.loads == nil {
			s.m.loads = make(map[string]*memoryLoad)
		}
		s.m.loads[t.Name] = l
		return nil
	})
	return l, err
}

func (l *memoryLoad) Loaded(file string) bool {
	_, ok := l.files[file]
	return ok
}

func (l *memoryLoad) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	if n, ok := l.files[file]; ok {
		return n, nil
	}
	staged := &memoryTable{rows: make(map[string]*memoryRow)}
	var n int64
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		n++
		if err := refuse(l.t, []change.Row{*row}); err != nil {
			return 0, fault.Mark(fault.Poison, &sink.RowError{Row: n, Err: err})
		}
		l.s.put(staged, l.t, row)
	}
	err := l.s.m.call(ctx, func() error {
		maps.Copy(l.stage.rows, staged.rows)
		l.files[file] = n
		return nil
	})
	return n, err
}

func (l *memoryLoad) Finish(ctx context.Context) error {
	return l.s.m.call(ctx, func() error {
		if l.s.m.loads[l.t.Name] != l {
			return nil // an earlier attempt was durable
		}
		delete(l.s.m.loads, l.t.Name)
		live := l.s.table(l.t)
		if l.mode == sink.Replace {
			live.rows = make(map[string]*memoryRow)
		}
		maps.Copy(live.rows, l.stage.rows)
		return nil
	})
}

func (l *memoryLoad) Discard(ctx context.Context) error {
	return l.s.m.call(ctx, func() error {
		delete(l.s.m.loads, l.t.Name)
		return nil
	})
}

func (l *memoryLoad) Close(context.Context) error { return nil }
