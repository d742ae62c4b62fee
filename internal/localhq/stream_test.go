package localhq

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// readsFromConsumer proves that a connection can create a consumer, and pull
// and acknowledge a message with it.
func readsFromConsumer(t *testing.T, h *HQ, conn *nats.Conn, name, filter string) {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.CreateConsumer(t.Context(), streamName, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{filter},
		InactiveThreshold: 7 * 24 * time.Hour, MaxAckPending: 25_000, MaxWaiting: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), "dbchange.order.INSERT.c1.l1.PUBLIC.v1", nil, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	msg, err := consumer.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := consumer.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.AckFloor.Stream != 1 || info.NumAckPending != 0 {
		t.Errorf("after an acknowledgement the consumer is %+v", info)
	}
}

func TestASessionCanReadAndNothingElse(t *testing.T) {
	h := begin(t, options(t), newFakeShop())
	id, creds := h.client(t).open(sessionBody)
	refused := make(chan error, 16)
	conn := dial(t, h, creds, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	readsFromConsumer(t, h, conn, "eds-s1", "dbchange.*.*.c1.*.PUBLIC.>")

	for _, subject := range []string{
		"dbchange.order.INSERT.c1.l1.PUBLIC.v1", "$JS.API.STREAM.INFO.dbchange", "$JS.API.STREAM.DELETE.dbchange", "$JS.API.STREAM.PURGE.dbchange",
		"eds.notify." + id + ".x", "eds.client.other.heartbeat", "$SYS.REQ.SERVER.PING",
	} {
		if err := conn.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("publishing to %s: %v", subject, err)
		}
	}
	for _, subject := range []string{"dbchange.>", "dbchange.*.*.c3.*.PUBLIC.>", "eds.client." + id + ".>", "$JS.API.>", ">"} {
		sub, err := conn.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("subscribing to %s: %v", subject, err)
		}
		_ = sub.Unsubscribe() // the server has no such subscription
	}
	state, err := h.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.Msgs != 1 {
		t.Errorf("the stream holds %d messages, want the 1 that HQ published", state.Msgs)
	}
}

// stored returns the ids of all messages, in order.
func stored(t testing.TB, h *HQ) []string {
	t.Helper()
	stream, err := h.stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for uint64(len(ids)) < stream.CachedInfo().State.Msgs {
		batch, err := consumer.Fetch(4096, jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range batch.Messages() {
			ids = append(ids, msg.Headers().Get(nats.MsgIdHdr))
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

func wantIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("change-%09d", i+1)
	}
	return ids
}

func TestAnOutageOfNATSLosesAndReordersNothing(t *testing.T) {
	o := options(t)
	o.Rate = 1e6 // as fast as it can
	f := newFakeShop()
	h := begin(t, o, f)
	for range 3 {
		before := h.made(f)
		eventually(t, "the shop works", func() bool { return h.made(f) > before+2000 })
		h.StopNATS()
		eventually(t, "the window is full", func() bool { return h.publisher.pending() >= windowMessages })
		if err := h.StartNATS(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantIDs(h.made(f)), stored(t, h)); diff != "" {
		t.Error(diff)
	}
}

func (h *HQ) made(f *fakeShop) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made
}

func TestCloseStoresWhatWasMadeEvenWithoutNATS(t *testing.T) {
	o := options(t)
	o.Rate = 1e6
	f := newFakeShop()
	h := begin(t, o, f)
	h.StopNATS()
	eventually(t, "the window is full", func() bool { return h.publisher.pending() >= windowMessages })
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if !f.closed {
		t.Error("the shop was not closed")
	}
	o.Rate = 0
	ids := stored(t, begin(t, o, newFakeShop()))
	if len(ids) < f.made-1 { // the last may have been made and not been taken
		t.Errorf("%d changes were made and %d are stored", f.made, len(ids))
	}
	if diff := cmp.Diff(wantIDs(len(ids)), ids); diff != "" {
		t.Error(diff)
	}
}

func TestAChangeThatIsPublishedAgainIsStoredOnce(t *testing.T) {
	h := begin(t, options(t), newFakeShop())
	for _, n := range []int{1, 2, 3, 2, 3, 4} {
		if err := h.worker.publish(t.Context(), fakeMessage(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantIDs(4), stored(t, h)); diff != "" {
		t.Error(diff)
	}
}

func TestTheRateIsKept(t *testing.T) {
	f := newFakeShop()
	h := begin(t, options(t), f)
	if made := h.made(f); made != 0 {
		t.Errorf("%d changes without a rate", made)
	}
	h.SetRate(500)
	began := time.Now()
	eventually(t, "250 changes", func() bool { return h.made(f) >= 250 })
	took := time.Since(began)
	if took < 450*time.Millisecond || took > 2*time.Second {
		t.Errorf("250 changes at 500 a second took %s", took)
	}
	if err := h.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	made := h.made(f)
	state, err := h.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.Msgs != uint64(made) {
		t.Errorf("%d changes were made and %d are stored after Pause", made, state.Msgs)
	}
	if what, err := h.Evolve(t.Context()); err != nil || what != "a new column" {
		t.Errorf("Evolve = %q, %v", what, err)
	}
	if h.made(f) != made {
		t.Error("the shop worked while it was paused")
	}
	h.Resume()
	eventually(t, "the shop goes on", func() bool { return h.made(f) > made })
}

func TestHugeMessagesAreStored(t *testing.T) {
	h := begin(t, options(t), newFakeShop())
	huge := []byte(strings.Repeat("x", 12<<20))
	if err := h.Publish(t.Context(), "dbchange.order.INSERT.c1.l1.PUBLIC.v1", nats.Header{"content-encoding": {"json"}}, huge); err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), "dbchange.order.INSERT.c1.l1.PUBLIC.v1", nil, make([]byte, maxPayload+1)); err == nil {
		t.Error("a message beyond the limit was taken")
	}
	if err := h.Publish(t.Context(), "other.subject", nil, nil); err == nil {
		t.Error("a message for no stream was taken")
	}
	state, err := h.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.Msgs != 1 || state.Bytes < uint64(len(huge)) {
		t.Errorf("the stream holds %d messages of %d bytes", state.Msgs, state.Bytes)
	}
}

func TestConsumersCanBeSeenAndTakenAway(t *testing.T) {
	h := begin(t, options(t), newFakeShop())
	_, creds := h.client(t).open(sessionBody)
	readsFromConsumer(t, h, dial(t, h, creds), "eds-s1", "dbchange.*.*.c1.*.PUBLIC.>")
	consumers, err := h.Consumers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(consumers) != 1 || consumers["eds-s1"] == nil || consumers["eds-s1"].AckFloor.Stream != 1 {
		t.Errorf("consumers are %v", consumers)
	}
	if err := h.DeleteConsumer(t.Context(), "eds-s1"); err != nil {
		t.Fatal(err)
	}
	if consumers, err = h.Consumers(t.Context()); err != nil || len(consumers) != 0 {
		t.Errorf("after a deletion consumers are %v, %v", consumers, err)
	}
	for range 3 {
		if err := h.Publish(t.Context(), "dbchange.order.INSERT.c1.l1.PUBLIC.v1", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.PurgeStream(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if state, err := h.StreamState(t.Context()); err != nil || state.FirstSeq != 3 || state.LastSeq != 4 {
		t.Errorf("after a purge the stream is %+v, %v", state, err)
	}
	if err := h.RecreateStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), "dbchange.order.INSERT.c1.l1.PUBLIC.v1", nil, nil); err != nil {
		t.Fatal(err)
	}
	if state, err := h.StreamState(t.Context()); err != nil || state.FirstSeq != 1 || state.LastSeq != 1 {
		t.Errorf("the stream made anew is %+v, %v", state, err)
	}
}

func BenchmarkPublish(b *testing.B) {
	h := begin(b, options(b), newFakeShop())
	b.ResetTimer()
	for n := range b.N {
		if err := h.worker.publish(b.Context(), fakeMessage(n)); err != nil {
			b.Fatal(err)
		}
	}
	if err := h.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
