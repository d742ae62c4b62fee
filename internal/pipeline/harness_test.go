package pipeline_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childBacklog); name != "" {
		os.Exit(child(name))
	}
	goleak.VerifyTestMain(m)
}

// memorySource is a Source in memory. It redelivers unacknowledged messages to the next reader.
type memorySource struct {
	mu           sync.Mutex
	messages     []pipeline.Message
	next         int // index of the message to deliver next
	acknowledged cdc.Position
	grown        chan struct{}
	run          func() int   // length of the next run
	fail         func() error // of the next Receive
	behind       uint64       // pending messages that are not delivered
	receives     int

	inFlight                [2]int // messages and bytes received and not acknowledged
	mostMessages, mostBytes int
}

func newMemorySource(payloads ...string) *memorySource {
	s := &memorySource{grown: make(chan struct{}), run: func() int { return 256 }, fail: func() error { return nil }}
	s.publish(payloads...)
	return s
}

func (s *memorySource) publish(payloads ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range payloads {
		n := uint64(len(s.messages) + 1)
		s.messages = append(s.messages, pipeline.Message{
			Position: cdc.Position{Sequence: n, Stored: time.Now().UnixNano()}, Subject: "dbchange.t", Data: []byte(p),
		})
	}
	close(s.grown)
	s.grown = make(chan struct{})
}

// rewind continues after the acknowledged messages, as a new subscription does.
func (s *memorySource) rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = int(s.acknowledged.Sequence)
}

func (s *memorySource) Receive(ctx context.Context) ([]pipeline.Message, error) {
	for {
		s.mu.Lock()
		s.receives++
		if err := s.fail(); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		if n := min(len(s.messages)-s.next, s.run()); n > 0 {
			out := append([]pipeline.Message(nil), s.messages[s.next:s.next+n]...)
			s.next += n
			for i := range out {
				out[i].Pending = s.behind + uint64(len(s.messages)) - out[i].Position.Sequence
				s.count(1, len(out[i].Data))
			}
			s.mu.Unlock()
			return out, nil
		}
		grown := s.grown
		s.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *memorySource) Acknowledge(_ context.Context, upTo cdc.Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.acknowledged.Sequence; i < upTo.Sequence; i++ {
		s.count(-1, -len(s.messages[i].Data))
	}
	s.acknowledged = upTo
	close(s.grown)
	s.grown = make(chan struct{})
	return nil
}

func (s *memorySource) count(messages, bytes int) {
	s.inFlight[0] += messages
	s.inFlight[1] += bytes
	s.mostMessages, s.mostBytes = max(s.mostMessages, s.inFlight[0]), max(s.mostBytes, s.inFlight[1])
}

func (s *memorySource) payload(i int) []byte { return s.messages[i].Data }

// await waits until the first n messages are acknowledged.
func (s *memorySource) await(ctx context.Context, n uint64) error {
	for {
		s.mu.Lock()
		done, grown := s.acknowledged.Sequence >= n, s.grown
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// memorySink is a sink in memory. It stores rows, and the checkpoint in the same transaction. It
// refuses a row that contains "poison".
type memorySink struct {
	mu         sync.Mutex
	rows       map[string]string // table, layout version and key -> row
	checkpoint cdc.Position
	migrated   map[*schema.Table]bool
	migrations []string    // tables and versions that were migrated
	batches    [][2]uint64 // first and last sequence of those that committed
	sizes      []int       // their events
	calls      int
	before     func(call int, b *change.Batch) error // fails an Apply before it commits
	after      func(call int, b *change.Batch) error // fails an Apply after it commits
	migrate    func(tables []*schema.Table) error
	violation  string
}

func newMemorySink() *memorySink {
	none := func(int, *change.Batch) error { return nil }
	return &memorySink{
		rows: map[string]string{}, migrated: map[*schema.Table]bool{}, before: none, after: none,
		migrate: func([]*schema.Table) error { return nil },
	}
}

func (t *memorySink) Apply(_ context.Context, b *change.Batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls++
	if err := t.before(t.calls, b); err != nil {
		return err
	}
	next := make(map[string]string, len(t.rows))
	for k, v := range t.rows {
		next[k] = v
	}
	for _, s := range b.Sets {
		if !t.migrated[s.Table] {
			t.violation = "a batch came before its migration"
		}
		for i := range s.Deletes {
			delete(next, rowKey(s.Table, &s.Deletes[i]))
		}
		for i := range s.Upserts {
			text := rowText(s.Table, &s.Upserts[i])
			if strings.Contains(text, "poison") {
				return fault.Mark(fault.Poison, errors.New("value out of range"))
			}
			next[rowKey(s.Table, &s.Upserts[i])] = text
		}
	}
	if b.Last.Sequence < t.checkpoint.Sequence {
		t.violation = fmt.Sprintf("checkpoint %d after %d", b.Last.Sequence, t.checkpoint.Sequence)
	}
	t.rows, t.checkpoint = next, t.checkpoint.Advance(b.Last)
	t.batches = append(t.batches, [2]uint64{b.First.Sequence, b.Last.Sequence})
	t.sizes = append(t.sizes, len(b.Events))
	return t.after(t.calls, b)
}

func (t *memorySink) Close(context.Context) error { return nil }

func (t *memorySink) Checkpoint(context.Context) (cdc.Position, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkpoint, nil
}

func (t *memorySink) ResetCheckpoint(context.Context) error { return nil }

func (t *memorySink) Migrate(_ context.Context, tables []*schema.Table) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.migrate(tables); err != nil {
		return nil, err
	}
	var changes []string
	for _, s := range tables {
		t.migrated[s] = true
		t.migrations = append(t.migrations, s.Name+" "+s.Version)
		changes = append(changes, "create "+s.Name+" "+s.Version)
	}
	return changes, nil
}

func (t *memorySink) snapshot() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows
}

func (t *memorySink) committed() (batches [][2]uint64, calls int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([][2]uint64(nil), t.batches...), t.calls
}

func rowKey(s *schema.Table, r *change.Row) string {
	return s.Name + "/" + string(rawjson.Text(r.Value(0)))
}

// rowText returns a row by column name, so that rows of two layouts can be compared.
func rowText(s *schema.Table, r *change.Row) string {
	var text []string
	for slot, c := range s.Columns {
		if !r.IsNull(slot) {
			text = append(text, c.Name+"="+string(rawjson.Text(r.Value(slot))))
		}
	}
	return strings.Join(text, " ")
}

// historySink is a sink that keeps history: it has neither tables nor a checkpoint.
type historySink struct {
	mu     sync.Mutex
	events []uint64
	empty  int // batches without events
}

func (j *historySink) Apply(_ context.Context, b *change.Batch) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(b.Events) == 0 {
		j.empty++
	}
	for _, e := range b.Events {
		j.events = append(j.events, e.Position.Sequence)
	}
	return nil
}

func (j *historySink) Close(context.Context) error { return nil }

// layouts is a catalogue of the tables a, b, ... Each has the versions v1 (id, v) and v2 (id, v,
// w).
type layouts struct {
	mu    sync.Mutex
	known map[string]*schema.Table
	fail  func(table, version string) error
	asked int
}

func newLayouts() *layouts {
	return &layouts{known: map[string]*schema.Table{}, fail: func(string, string) error { return nil }}
}

func (l *layouts) Version(_ context.Context, table, version string) (*schema.Table, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if err := l.fail(table, version); err != nil {
		return nil, err
	}
	key := table + "/" + version
	if l.known[key] == nil {
		columns := []schema.Column{{Name: "id", Type: schema.String}, {Name: "v", Type: schema.String}}
		if version == "v2" {
			columns = append(columns, schema.Column{Name: "w", Type: schema.String})
		}
		t, err := schema.New(table, version, []string{"id"}, columns)
		if err != nil {
			return nil, err
		}
		l.known[key] = t
	}
	return l.known[key], nil
}

func put(table, id, v string) string {
	const format = `{"operation":"UPDATE","id":"e","table":%q,"modelVersion":"v1","after":{"id":%q,"v":%q},"timestamp":1}`
	return fmt.Sprintf(format, table, id, v)
}

func remove(table, id string) string {
	return fmt.Sprintf(`{"operation":"DELETE","id":"e","table":%q,"modelVersion":"v1","key":[%q],"timestamp":1}`, table, id)
}

// rig is a pipeline with everything around it.
type rig struct {
	source  *memorySource
	sink    *memorySink
	layouts *layouts
	dead    *dlq.Queue
	logs    *logBuffer
	config  pipeline.Config

	*pipeline.Pipeline
	soft, hard context.CancelFunc
	ended      context.Context // ends when Run returns
	finish     func() error    // waits for Run and returns its error
}

// logBuffer is a log that a test can read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newRig(dir string, s *memorySource, t *memorySink) (*rig, error) {
	dead, err := dlq.Open(dir)
	if err != nil {
		return nil, err
	}
	r := &rig{source: s, sink: t, layouts: newLayouts(), dead: dead, logs: &logBuffer{}}
	r.config = pipeline.Config{
		Source: s, Sink: t, KeepsRows: true, Tables: r.layouts, Dead: dead,
		Metrics: pipeline.NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.NewTextHandler(r.logs, nil)), Decoders: 3,
	}
	return r, nil
}

// start runs a pipeline from the sink's checkpoint.
func (r *rig) start() error {
	r.config.Checkpoint, _ = r.sink.Checkpoint(context.Background())
	r.source.rewind()
	p, err := pipeline.New(r.config)
	if err != nil {
		return err
	}
	r.Pipeline = p
	var soft, hard context.Context
	soft, r.soft = context.WithCancel(context.Background())
	hard, r.hard = context.WithCancel(context.Background())
	ended, end := context.WithCancelCause(context.Background())
	r.ended = ended
	go func() { end(cmp.Or(p.Run(soft, hard), errClean)) }()
	r.finish = func() error {
		<-ended.Done()
		r.soft()
		r.hard()
		if err := context.Cause(ended); err != errClean {
			return err
		}
		return nil
	}
	return nil
}

// errClean is the cause of a run that ended without an error.
var errClean = errors.New("no error")

// stop ends the run softly and returns its error.
func (r *rig) stop() error {
	r.soft()
	return r.finish()
}

func deadLetters(q *dlq.Queue) ([]dlq.Entry, error) {
	var out []dlq.Entry
	for e, err := range q.List(dlq.Filter{}) {
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
