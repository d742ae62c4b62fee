package devhq

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
)

const subject = "dbchange.order.INSERT.c1.l1.PUBLIC.v1"

// readsFromConsumer checks that the connection can be used to create a consumer for a company, and
// to pull and acknowledge a message.
func readsFromConsumer(t *testing.T, h *HQ, conn *nats.Conn, name, company string) {
	t.Helper()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.CreateConsumer(t.Context(), streamName, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{"dbchange.*.*." + company + ".*.PUBLIC.>"},
		InactiveThreshold: 7 * 24 * time.Hour, MaxAckPending: 25_000, MaxWaiting: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), subject, nil, []byte("{}")); err != nil {
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
	if info.AckFloor.Consumer != 1 || info.AckFloor.Stream != messages(t, h) || info.NumAckPending != 0 {
		t.Errorf("after an acknowledgement the consumer is %+v", info)
	}
}

func TestSession_CanOnlyRead(t *testing.T) {
	h := begin(t, options(t))
	id, creds := h.client(t).open(sessionBody)
	refused := make(chan error, 16)
	conn := dial(t, h, creds, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	readsFromConsumer(t, h, conn, "eds-s1", "c1")

	for _, subject := range []string{
		subject, "$JS.API.STREAM.INFO.dbchange", "$JS.API.STREAM.DELETE.dbchange", "$JS.API.STREAM.PURGE.dbchange",
		"eds.notify." + id + ".x", "eds.client.other.heartbeat", "$SYS.REQ.SERVER.PING",
	} {
		if err := conn.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("publish to %s: %v", subject, err)
		}
	}
	for _, subject := range []string{"dbchange.>", "dbchange.*.*.foreign.*.PUBLIC.>", "eds.client." + id + ".>", "$JS.API.>", ">"} {
		sub, err := conn.SubscribeSync(subject)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("subscribe to %s: %v", subject, err)
		}
		_ = sub.Unsubscribe() // the server has no such subscription
	}
	if got := messages(t, h); got != 1 {
		t.Errorf("the stream holds %d messages, want the 1 that HQ published", got)
	}
}

// streamReader reads the stream in the same way as a server whose session covers every company.
type streamReader struct {
	t        testing.TB
	consumer jetstream.Consumer
	read     uint64
}

func newReader(t testing.TB, h *HQ) *streamReader {
	t.Helper()
	js, err := jetstream.New(h.Conn())
	if err != nil {
		t.Fatal(err)
	}
	var filters []string
	for _, company := range h.Shop().Companies() {
		filters = append(filters, "dbchange.*.*."+company+".*.PUBLIC.>")
	}
	consumer, err := js.CreateConsumer(t.Context(), streamName, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, FilterSubjects: filters, InactiveThreshold: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &streamReader{t: t, consumer: consumer}
}

// each calls yield with the next events, up to message n.
func (r *streamReader) each(n uint64, yield func(*cdc.Event, nats.Header)) {
	r.t.Helper()
	decoder := cdc.NewDecoder()
	for r.read < n {
		batch, err := r.consumer.Fetch(int(min(4096, n-r.read)), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			r.t.Fatal(err)
		}
		before := r.read
		for msg := range batch.Messages() {
			var e cdc.Event
			if err := decoder.Decode(&e, msg.Data(), msg.Headers().Get("content-encoding")); err != nil {
				r.t.Fatal(err)
			}
			r.read++
			yield(&e, msg.Headers())
		}
		if err := batch.Error(); err != nil {
			r.t.Fatal(err)
		}
		if r.read == before {
			r.t.Fatalf("the stream has %d messages and a server can read %d", n, r.read)
		}
	}
}

// model holds rows, keyed by table and primary key.
type model struct {
	t    testing.TB
	keys map[string][]string // table -> primary key columns
	rows map[string]map[string]string
}

func newModel(t testing.TB, h *HQ) *model {
	t.Helper()
	return &model{t, keysOf(t, h), make(map[string]map[string]string)}
}

func keysOf(t testing.TB, h *HQ) map[string][]string {
	t.Helper()
	keys := make(map[string][]string)
	for _, text := range h.Shop().LatestSchemas() {
		table, err := schema.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, column := range table.Key() {
			keys[table.Name] = append(keys[table.Name], column.Name)
		}
	}
	return keys
}

// shopNow returns the current rows of the shop.
func shopNow(t testing.TB, h *HQ) *model {
	t.Helper()
	m := newModel(t, h)
	snapshot := h.Shop().Snapshot()
	for _, table := range h.Shop().Tables() {
		for row := range snapshot.Rows(table, nil, nil) {
			m.put(table, row)
		}
	}
	return m
}

func (m *model) key(table string, row []byte) string {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(row, &values); err != nil {
		m.t.Fatal(err)
	}
	var key []string
	for _, column := range m.keys[table] {
		key = append(key, string(values[column]))
	}
	return strings.Join(key, ",")
}

func (m *model) put(table string, row []byte) {
	if m.rows[table] == nil {
		m.rows[table] = make(map[string]string)
	}
	m.rows[table][m.key(table, row)] = string(row)
}

// apply applies a change to the model.
func (m *model) apply(e *cdc.Event) {
	if e.Op == cdc.Delete {
		delete(m.rows[e.Table], m.key(e.Table, e.Before))
		return
	}
	m.put(e.Table, e.After)
}

// checkAgainst compares the model with the shop.
func (m *model) checkAgainst(h *HQ) {
	m.t.Helper()
	if diff := cmp.Diff(shopNow(m.t, h).rows, m.rows, cmpopts.EquateEmpty()); diff != "" {
		m.t.Error(diff)
	}
}

// follow applies the changes up to message n, and checks that their clocks ascend.
func follow(r *streamReader, m *model, n uint64) {
	m.t.Helper()
	var clock cdc.Timestamp
	r.each(n, func(e *cdc.Event, header nats.Header) {
		if clock.Compare(e.Clock) >= 0 {
			m.t.Fatalf("the change at %s follows the one at %s", e.Clock, clock)
		}
		if header.Get(nats.MsgIdHdr) != e.ID {
			m.t.Fatalf("the message id %q is not the change's, %q", header.Get(nats.MsgIdHdr), e.ID)
		}
		clock = e.Clock
		m.apply(e)
	})
}

func TestStream_TurnsASnapshotIntoTheShop(t *testing.T) {
	o := options(t)
	o.Rate = 5000
	o.EvolveEvery = 50 * time.Millisecond
	h := begin(t, o)
	pause(t, h)
	start, have := messages(t, h), shopNow(t, h)
	r := newReader(t, h)
	r.each(start, func(*cdc.Event, nats.Header) {})
	h.Resume()
	eventually(t, "the shop works", func() bool { return messages(t, h) > start+2000 })
	pause(t, h)
	have.keys = keysOf(t, h) // because evolutions added tables
	follow(r, have, messages(t, h))
	have.checkAgainst(h)
}

func TestPublisher_KeepsOrderOverOutages(t *testing.T) {
	o := options(t)
	h := begin(t, o)
	have := shopNow(t, h)
	h.SetRate(20_000)
	for range 3 {
		before := messages(t, h)
		eventually(t, "the shop works", func() bool { return messages(t, h) > before+1000 })
		h.StopNATS()
		eventually(t, "the shop waits", func() bool { return h.publisher.pending() > 0 })
		if err := h.StartNATS(); err != nil {
			t.Fatal(err)
		}
	}
	pause(t, h)
	follow(newReader(t, h), have, messages(t, h))
	have.checkAgainst(h)
}

func TestSetRate_SetsTheSpeed(t *testing.T) {
	h := begin(t, options(t))
	if got := messages(t, h); got != 0 {
		t.Errorf("%d changes without a rate", got)
	}
	began := time.Now()
	h.SetRate(1000)
	eventually(t, "500 changes", func() bool { return messages(t, h) >= 500 })
	if took := time.Since(began); took < 400*time.Millisecond || took > 3*time.Second {
		t.Errorf("500 changes at 1,000 a second took %s", took)
	}
	pause(t, h)
	made := messages(t, h)
	if description, err := h.Evolve(t.Context()); err != nil || description == "" {
		t.Errorf("Evolve = %q, %v", description, err)
	}
	evolved := messages(t, h)
	if evolved == made || evolved > made+50 {
		t.Errorf("an evolution made %d changes", evolved-made)
	}
	h.Resume()
	eventually(t, "the shop continues", func() bool { return messages(t, h) > evolved })
}

func TestWork_RepeatsItselfFromTheSeed(t *testing.T) {
	history := func() (all []string) {
		h := begin(t, options(t)) // the workload has no rate
		for _, n := range []int{1, 200, 7, 300} {
			before := messages(t, h)
			made, err := h.Work(t.Context(), n)
			if err != nil || made < n || messages(t, h) != before+uint64(made) {
				t.Fatalf("Work(%d) = %d, %v, and the stream grew from %d to %d", n, made, err, before, messages(t, h))
			}
		}
		newReader(t, h).each(messages(t, h), func(e *cdc.Event, _ nats.Header) {
			all = append(all, fmt.Sprint(e.Table, e.Op, e.Key))
		})
		return all
	}
	if diff := cmp.Diff(history(), history()); diff != "" {
		t.Errorf("two shops with one seed differ: %s", diff)
	}
}

func TestPublish_TakesHugeMessages(t *testing.T) {
	h := begin(t, options(t))
	huge := []byte(strings.Repeat("x", 12<<20))
	if err := h.Publish(t.Context(), subject, nats.Header{"content-encoding": {"json"}}, huge); err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), subject, nil, make([]byte, maxPayload+1)); err == nil {
		t.Error("a message beyond the limit was stored")
	}
	if err := h.Publish(t.Context(), "other.subject", nil, nil); err == nil {
		t.Error("a message of no stream was stored")
	}
	state, err := h.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.Msgs != 1 || state.Bytes < uint64(len(huge)) {
		t.Errorf("the stream holds %d messages of %d bytes", state.Msgs, state.Bytes)
	}
}

func TestPublish_StoresAnIDOnce(t *testing.T) {
	h := begin(t, options(t))
	for _, id := range []string{"1", "2", "3", "2", "3", "4"} {
		if err := h.Publish(t.Context(), subject, nats.Header{nats.MsgIdHdr: {id}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := messages(t, h); got != 4 {
		t.Errorf("the stream holds %d messages, want 4", got)
	}
}

func TestConsumers_ListsAndDeletes(t *testing.T) {
	h := begin(t, options(t))
	_, creds := h.client(t).open(sessionBody)
	readsFromConsumer(t, h, dial(t, h, creds), "eds-s1", "c1")
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
}

func TestStream_CanBePurgedAndRecreated(t *testing.T) {
	h := begin(t, options(t))
	for range 4 {
		if err := h.Publish(t.Context(), subject, nil, nil); err != nil {
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
	if err := h.Publish(t.Context(), subject, nil, nil); err != nil {
		t.Fatal(err)
	}
	if state, err := h.StreamState(t.Context()); err != nil || state.FirstSeq != 1 || state.LastSeq != 1 {
		t.Errorf("the recreated stream is %+v, %v", state, err)
	}
}
