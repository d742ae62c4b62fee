package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// memorySink is a sink in memory that stores its checkpoint in the same transaction as the rows.
// It fails at random, before or after it commits.
type memorySink struct {
	mu         sync.Mutex
	rand       *rand.Rand
	reliable   bool
	rows       map[string]string
	checkpoint cdc.Position
	moved      chan struct{} // closed and replaced at each commit
}

var errDown = errors.New("connection lost")

func (t *memorySink) Apply(_ context.Context, b *change.Batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reliable && t.rand.IntN(12) == 0 {
		return errDown
	}
	for _, s := range b.Sets {
		for i := range s.Deletes {
			delete(t.rows, string(rawjson.Text(s.Deletes[i].Value(0))))
		}
		for i := range s.Upserts {
			t.rows[string(rawjson.Text(s.Upserts[i].Value(0)))] = string(s.Upserts[i].Value(1))
		}
	}
	t.checkpoint = t.checkpoint.Advance(b.Last)
	close(t.moved)
	t.moved = make(chan struct{})
	if !t.reliable && t.rand.IntN(12) == 0 {
		return errDown // the caller does not know that the batch was committed
	}
	return nil
}

func (t *memorySink) Close(context.Context) error { return nil }

func (t *memorySink) ResetCheckpoint(context.Context) error { return nil }

func (t *memorySink) Checkpoint(context.Context) (cdc.Position, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkpoint, nil
}

// reach waits until the checkpoint is at message n.
func (t *memorySink) reach(tb testing.TB, n uint64) {
	tb.Helper()
	timeout := time.NewTimer(2 * time.Minute)
	defer timeout.Stop()
	for {
		t.mu.Lock()
		at, moved := t.checkpoint.Sequence, t.moved
		t.mu.Unlock()
		if at >= n {
			return
		}
		select {
		case <-moved:
		case <-timeout.C:
			tb.Fatalf("the checkpoint stays at %d of %d", at, n)
		}
	}
}

// orderCatalogue is a catalogue that contains only one table.
type orderCatalogue struct{ table *schema.Table }

func (o orderCatalogue) Version(context.Context, string, string) (*schema.Table, error) {
	return o.table, nil
}

// TestPipeline_MatchesNaiveApplicationUnderFaults runs pipelines while their sources, the broker
// and the sink fail and restart. It compares the result with naive application.
func TestPipeline_MatchesNaiveApplicationUnderFaults(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newFaultRig(t, rand.New(rand.NewPCG(seed, 1)))
			for range 25 {
				w.publish(w.number(400))
				w.disturb()
			}
			w.sink.mu.Lock()
			w.sink.reliable = true
			w.sink.mu.Unlock()
			w.publish(1)
			w.sink.reach(t, w.published)
			w.stop(false)
			if diff := cmp.Diff(w.naive, w.sink.rows); diff != "" {
				t.Error(diff)
			}
		})
	}
}

type faultRig struct {
	tb        testing.TB
	b         *testBroker
	r         *rand.Rand
	sink      *memorySink
	catalogue orderCatalogue
	config    Config
	records   recordStore
	dead      *dlq.Queue
	metrics   *pipeline.Metrics
	naive     map[string]string
	published uint64
	stop      func(hard bool) // ends the pipeline and its source
}

func newFaultRig(t testing.TB, r *rand.Rand) *faultRig {
	t.Helper()
	columns := []schema.Column{{Name: "id", Type: schema.String}, {Name: "n", Type: schema.Integer}}
	layout, err := schema.New("order", "v1", []string{"id"}, columns)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := dlq.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := newTestBroker(t)
	w := &faultRig{
		tb: t, b: b, r: r, sink: &memorySink{rand: r, rows: map[string]string{}, moved: make(chan struct{})},
		catalogue: orderCatalogue{layout}, config: b.config(), dead: dead,
		metrics: pipeline.NewMetrics(prometheus.NewRegistry()), naive: map[string]string{},
	}
	w.config.tuning.ackWait, w.config.tuning.pullBytes = 200*time.Millisecond, 3000
	if r.IntN(2) == 0 {
		w.config.ResetSupport = noReset(w.config)
	}
	w.config.MaxAckPending, w.config.Record = 200, w.records.record
	w.start()
	return w
}

func (w *faultRig) start() {
	w.tb.Helper()
	e := recorded(w.records.last)
	e.Destination.Stores = true
	e.Destination.Checkpoint, _ = w.sink.Checkpoint(w.tb.Context())
	var source *Source
	eventually(w.tb, "the source opens", func() bool { // the broker may be restarting or deleting the consumer
		var err error
		if source, err = tryOpen(w.tb, w.config, e); err != nil && fault.Of(err) != fault.Transient {
			w.tb.Fatal(err)
		}
		if err != nil {
			w.tb.Log("the source does not open: ", err)
		}
		return err == nil
	})
	w.tb.Cleanup(sync.OnceFunc(func() { closeSource(w.tb, source) }))
	p, err := pipeline.New(pipeline.Config{
		Source: source, Sink: w.sink, KeepsRows: true, Tables: w.catalogue, Checkpoint: e.Destination.Checkpoint, Dead: w.dead,
		Metrics: w.metrics, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		MaxRows: 1 + w.number(150), MaxInFlight: source.MaxAckPending(),
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	soft, stopSoft := context.WithCancel(context.Background())
	hard, stopHard := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(soft, hard) }()
	w.stop = func(force bool) {
		w.tb.Helper()
		stopSoft()
		if force {
			stopHard()
		}
		err := <-ended
		stopHard()
		if err != nil && !(force && errors.Is(err, pipeline.ErrAbandoned)) {
			w.tb.Error(err)
		}
		closeSource(w.tb, source)
	}
}

// number returns a random number below n. It locks the sink, which uses the same generator.
func (w *faultRig) number(n int) int {
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	return w.r.IntN(n)
}

func (w *faultRig) publish(n int) {
	w.tb.Helper()
	js, err := jetstream.New(w.b.admin)
	if err != nil {
		w.tb.Fatal(err)
	}
	for range n {
		w.published++
		id := fmt.Sprint("row", w.number(20))
		payload := fmt.Sprintf(`{"operation":"UPDATE","table":"order","modelVersion":"v1","after":{"id":%q,"n":%d}}`, id, w.published)
		if w.number(5) == 0 {
			payload = fmt.Sprintf(`{"operation":"DELETE","table":"order","modelVersion":"v1","key":[%q]}`, id)
			delete(w.naive, id)
		} else {
			w.naive[id] = fmt.Sprint(w.published)
		}
		if _, err := js.PublishAsync(subject("c1"), []byte(payload)); err != nil {
			w.tb.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(30 * time.Second):
		w.tb.Fatal("publishing takes too long")
	}
}

func (w *faultRig) disturb() {
	w.tb.Helper()
	switch w.number(8) {
	case 0:
		_ = w.config.Conn.ForceReconnect()
	case 1:
		w.b.stop()
		w.b.start()
	case 2:
		w.b.deleteConsumer()
	case 3, 4:
		w.stop(w.number(2) == 0)
		w.start()
	case 5:
		w.sink.reach(w.tb, w.published/2)
	default:
		w.sink.reach(w.tb, w.published)
	}
}
