package sinktest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// logStore is a destination that keeps each event under a separate name.
type logStore struct {
	mu     sync.Mutex
	stored []Stored

	steps, limit int
	mode         Mode
}

func (l *logStore) Steps() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.steps
}

func (l *logStore) Break(n int, mode Mode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit, l.mode = l.steps+n, mode
}

func (l *logStore) Repair() { l.Break(0, "") }

// put stores one event, and counts as one step.
func (l *logStore) put(place string, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps++
	broken := l.mode != "" && l.steps > l.limit
	if broken && l.mode == Lost {
		return errGone
	}
	i := slices.IndexFunc(l.stored, func(s Stored) bool { return s.Place == place })
	if i < 0 {
		i = len(l.stored)
		l.stored = append(l.stored, Stored{})
	}
	l.stored[i] = Stored{place, text}
	if broken {
		return errGone
	}
	return nil
}

// logSink is the reference sink that keeps events.
type logSink struct {
	*encode.Loader
	store *logStore
	place func(e *cdc.Event) string
	alter func(text []byte) []byte
}

func (s *logSink) Probe(context.Context) error { return nil }
func (s *logSink) Close(context.Context) error { return nil }

func (s *logSink) Apply(ctx context.Context, b *change.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, e := range b.Events {
		text, _ := encode.AppendEvent(nil, e)
		if err := s.store.put(s.place(e), s.alter(text)); err != nil {
			return err
		}
	}
	return nil
}

// logs returns a Config of destinations that keep events. If with is not nil, it adds a defect to
// each sink.
func logs(with func(*logSink) sink.Sink) Config {
	stores := make(map[string]*logStore)
	c := Config{Driver: sink.Driver{
		Name: "log", Title: "Log", Schemes: []string{"log"}, Example: "log://name", Summary: "Keeps events in memory.",
		Help:   "It is gone when the program ends.",
		Limits: sink.Limits{Rows: 100, Bytes: 1 << 20},
	}}
	c.URL = func(testing.TB) string {
		name := fmt.Sprint("l", len(stores))
		stores[name] = &logStore{}
		return "log://" + name
	}
	c.Driver.Open = func(_ context.Context, target *url.URL, _ sink.Env) (sink.Sink, error) {
		if _, err := sink.ParseOptions(target, nil); err != nil {
			return nil, err
		}
		s := &logSink{store: stores[target.Host], place: encode.ObjectName, alter: func(text []byte) []byte { return text }}
		bad := with(s)
		s.Loader = &encode.Loader{Apply: bad.Apply, Limits: c.Driver.Limits}
		return bad, nil
	}
	c.Faulty = func(t testing.TB, raw string, env sink.Env) (sink.Sink, Faults) {
		target, _ := url.Parse(raw)
		s, err := c.Driver.Open(t.Context(), target, env)
		if err != nil {
			t.Fatal(err)
		}
		return s, stores[target.Host]
	}
	c.History = func(_ testing.TB, raw string) []Stored {
		target, _ := url.Parse(raw)
		return stores[target.Host].stored
	}
	return c
}

func TestRun_PassesReferenceHistory(t *testing.T) {
	Run(t, logs(func(s *logSink) sink.Sink { return s }))
}

// worseLog is a logSink with another Apply.
type worseLog struct {
	*logSink
	apply func(ctx context.Context, b *change.Batch) error
}

func (w *worseLog) Apply(ctx context.Context, b *change.Batch) error { return w.apply(ctx, b) }

// events returns a defect: the sink applies altered events of each batch.
func events(alter func(events []*cdc.Event) []*cdc.Event) func(*logSink) sink.Sink {
	return func(s *logSink) sink.Sink {
		return &worseLog{s, func(ctx context.Context, b *change.Batch) error {
			c := *b
			c.Events = alter(slices.Clone(b.Events))
			return s.Apply(ctx, &c)
		}}
	}
}

func texts(alter func(text []byte) []byte) func(*logSink) sink.Sink {
	return func(s *logSink) sink.Sink {
		s.alter = alter
		return s
	}
}

func placed(place func(e *cdc.Event) string) func(*logSink) sink.Sink {
	return func(s *logSink) sink.Sink {
		s.place = place
		return s
	}
}

var historyDefects = []struct {
	name   string
	checks []string
	with   func(*logSink) sink.Sink
}{
	{
		"the last event of a batch is lost",
		[]string{
			"every event is kept, in the order of its row",
			"any batches and replays keep every event", "a history survives a fault at any step of a batch",
		},
		events(func(all []*cdc.Event) []*cdc.Event { return all[:max(0, len(all)-1)] }),
	},
	{"deletes are left out", []string{"every event is kept, in the order of its row"}, events(func(all []*cdc.Event) []*cdc.Event {
		return slices.DeleteFunc(all, func(e *cdc.Event) bool { return e.Op == cdc.Delete })
	})},
	{
		"events are turned round",
		[]string{"every event is kept, in the order of its row", "any batches and replays keep every event"},
		events(func(all []*cdc.Event) []*cdc.Event { slices.Reverse(all); return all }),
	},
	{
		"events are compacted",
		[]string{"every event is kept, in the order of its row", "any batches and replays keep every event"},
		events(func(all []*cdc.Event) []*cdc.Event {
			last := make(map[string]*cdc.Event)
			for _, e := range all {
				last[e.Table+string(e.Key)] = e
			}
			return slices.DeleteFunc(all, func(e *cdc.Event) bool { return last[e.Table+string(e.Key)] != e })
		}),
	},
	{"a replay stores events twice", []string{
		"any batches and replays keep every event",
		"a history survives a fault at any step of a batch",
	}, func(s *logSink) sink.Sink {
		return placed(func(e *cdc.Event) string { return fmt.Sprint(e.ID, " ", s.store.steps) })(s)
	}},
	{
		"names are cut",
		[]string{"hostile names, keys and ids stay apart"},
		placed(func(e *cdc.Event) string { n := encode.ObjectName(e); return n[:min(len(n), 40)] }),
	},
	{
		"names lead elsewhere",
		[]string{"hostile names, keys and ids stay apart"},
		placed(func(e *cdc.Event) string { return strings.ToLower(e.RowID() + "-" + e.ID) }),
	},
	{"numbers are rounded", []string{
		"every event is kept, in the order of its row", "every value is kept in an event",
		"an import adds one INSERT per row",
	}, texts(func(text []byte) []byte {
		return bytes.ReplaceAll(text, []byte("9007199254740993"), []byte("9007199254740992"))
	})},
	{
		"U+0000 is lost",
		[]string{"every value is kept in an event"},
		texts(func(text []byte) []byte { return bytes.ReplaceAll(text, []byte(`\u0000`), nil) }),
	},
	{"long events are cut", []string{"events of ten megabytes"}, texts(func(text []byte) []byte { return text[:min(len(text), 1<<20)] })},
	{"an event takes several lines", []string{"every event is kept, in the order of its row"}, texts(func(text []byte) []byte {
		var out bytes.Buffer
		_ = json.Indent(&out, text, "", " ")
		return out.Bytes()
	})},
	{"imported events are not marked", []string{"an import adds one INSERT per row"}, texts(func(text []byte) []byte {
		return bytes.Replace(text, []byte(`"imported":true`), []byte(`"imported":false`), 1)
	})},
	{"an imported event has another id each time", []string{"an import adds one INSERT per row"}, func(s *logSink) sink.Sink {
		return texts(func(text []byte) []byte {
			if bytes.Contains(text, []byte(`"imported":true`)) {
				return bytes.Replace(text, []byte(`"id":"`), fmt.Appendf(nil, `"id":"%d`, s.store.steps), 1)
			}
			return text
		})(s)
	}},
	{"imports are ignored", []string{"an import adds one INSERT per row"}, events(func(all []*cdc.Event) []*cdc.Event {
		return slices.DeleteFunc(all, func(e *cdc.Event) bool { return e.Imported })
	})},
	{"a batch without events is an error", []string{"every event is kept, in the order of its row"}, func(s *logSink) sink.Sink {
		return &worseLog{s, func(ctx context.Context, b *change.Batch) error {
			if len(b.Events) == 0 {
				return errors.New("nothing to do")
			}
			return s.Apply(ctx, b)
		}}
	}},
	{"an error is forgotten", []string{"a history survives a fault at any step of a batch"}, func(s *logSink) sink.Sink {
		return &worseLog{s, func(ctx context.Context, b *change.Batch) error { _ = s.Apply(ctx, b); return nil }}
	}},
	{"an error is fatal", []string{"a history survives a fault at any step of a batch"}, func(s *logSink) sink.Sink {
		return &worseLog{s, func(ctx context.Context, b *change.Batch) error {
			return fault.Mark(fault.Fatal, s.Apply(ctx, b))
		}}
	}},
}

// TestRun_FindsDefectsOfHistories proves that every check of histories fails for a sink with a
// defect.
func TestRun_FindsDefectsOfHistories(t *testing.T) {
	for _, d := range historyDefects {
		t.Run(d.name, func(t *testing.T) {
			c := logs(d.with)
			for _, name := range d.checks {
				mustFail(t, c, name)
			}
		})
	}
}

// TestChecks_HaveDefects checks that each check has a defect that it must find.
func TestChecks_HaveDefects(t *testing.T) {
	found := make(map[string]bool)
	for _, d := range slices.Concat(rowDefects, loadDefects) {
		for _, name := range d.checks {
			found[name] = true
		}
	}
	for _, d := range historyDefects {
		for _, name := range d.checks {
			found[name] = true
		}
	}
	for _, d := range driverDefects {
		for _, name := range d.checks {
			found[name] = true
		}
	}
	for _, d := range recordDefects {
		for _, name := range d.checks {
			found[name] = true
		}
	}
	names := make(map[string]bool)
	for _, k := range checks {
		if names[k.name] {
			t.Errorf("two checks are called %q", k.name)
		}
		names[k.name] = true
		if !found[k.name] {
			t.Errorf("no defect shows that the check %q can fail", k.name)
		}
	}
}

// driverDefects are defects of driver descriptions.
var driverDefects = []struct {
	name   string
	checks []string
	with   func(d *sink.Driver)
}{
	{"no help", []string{"the driver describes itself"}, func(d *sink.Driver) { d.Help = "" }},
	{"an example of another scheme", []string{"the driver describes itself"}, func(d *sink.Driver) { d.Example = "other://x" }},
	{"no limits", []string{"the driver describes itself"}, func(d *sink.Driver) { d.Limits.Rows = 0 }},
	{"a required field that is not missed", []string{"the driver makes URLs of its fields"}, func(d *sink.Driver) {
		d.Fields = []sink.Field{{Name: "Name", Type: "string", Description: "a name", Required: true}}
		d.URL = func(map[string]string) (string, []sink.FieldError) { return "memory://x", nil }
	}},
	{"fields that are not escaped", []string{"the driver makes URLs of its fields"}, func(d *sink.Driver) {
		d.Fields = []sink.Field{{Name: "Name", Type: "string", Description: "a name"}}
		d.URL = func(values map[string]string) (string, []sink.FieldError) { return "memory://x/" + values["Name"], nil }
	}},
	{"unknown options are ignored", []string{"unknown options are named"}, func(d *sink.Driver) {
		open := d.Open
		d.Open = func(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
			bare := *target
			bare.RawQuery = ""
			return open(ctx, &bare, env)
		}
	}},
}

func TestRun_FindsDefectsOfDrivers(t *testing.T) {
	for _, d := range driverDefects {
		t.Run(d.name, func(t *testing.T) {
			c := memories(func(s *memorySink) sink.Sink { return s })
			d.with(&c.Driver)
			for _, name := range d.checks {
				mustFail(t, c, name)
			}
		})
	}
}
