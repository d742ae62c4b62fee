package sinktest

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Properties fail here on purpose, so keep no counter-example and do not shrink.
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "0s"} {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// memories returns a Config of destinations in memory, identified by the host of their URL. If
// with is not nil, it adds a defect to each sink.
func memories(with func(*memorySink) sink.Sink) Config {
	stores := make(map[string]*Memory)
	c := Config{Driver: (&Memory{}).Driver()}
	c.URL = func(testing.TB) string {
		name := fmt.Sprint("m", len(stores))
		stores[name] = &Memory{}
		return "memory://" + name
	}
	c.Driver.Open = func(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
		s, err := stores[target.Host].open(ctx, target, env)
		if err != nil {
			return nil, err
		}
		return with(s.(*memorySink)), nil
	}
	c.Faulty = func(t testing.TB, raw string, env sink.Env) (sink.Sink, Faults) {
		target, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Driver.Open(t.Context(), target, env)
		if err != nil {
			t.Fatal(err)
		}
		return s, stores[target.Host]
	}
	c.Untouched = func(t testing.TB) (string, func() string) {
		raw := c.URL(t)
		target, _ := url.Parse(raw)
		return raw, func() string { return fmt.Sprint(slices.Sorted(maps.Keys(stores[target.Host].tables))) }
	}
	c.Foreign = func(t testing.TB, raw, table string) {
		target, _ := url.Parse(raw)
		stores[target.Host].foreign(t, table)
	}
	c.LoseStage = func(_ testing.TB, raw, job, table, id string) {
		target, _ := url.Parse(raw)
		stores[target.Host].loseStage(job, table, id)
	}
	return c
}

// loseStage implements Config.LoseStage.
func (m *Memory) loseStage(job, table, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id == "" {
		delete(m.loads, [2]string{job, table})
		return
	}
	staged := m.loads[[2]string{job, table}].stage.rows
	maps.DeleteFunc(staged, func(_ string, row *memoryRow) bool { return string(row.values["id"]) == quoted(id) })
}

// foreign implements Config.Foreign.
func (m *Memory) foreign(t testing.TB, name string) {
	t.Helper()
	s := &memorySink{m: m}
	h := &harness{T: t, outer: t}
	table := newTable(h, name, "0", 1, foreignColumns()...)
	row := rowOf(h, table, foreignRow)
	if _, err := s.Migrate(t.Context(), []*schema.Table{table}); err != nil {
		t.Fatal(err)
	}
	s.put(m.tables[name], table, &row)
}

func TestRun_PassesReference(t *testing.T) {
	Run(t, memories(func(s *memorySink) sink.Sink { return s }))
}
