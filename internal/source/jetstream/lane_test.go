package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// laneConfig returns the configuration that most tests use to open a lane. Its default is the
// table order.
func (b *testBroker) laneConfig(tables ...string) LaneConfig {
	b.tb.Helper()
	if len(tables) == 0 {
		tables = []string{"order"}
	}
	return LaneConfig{
		Conn: b.connect(), Filters: []string{"dbchange.*.*.c1.*.PUBLIC.>"}, Tables: tables,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// quiet returns a configuration for a lane that looks at the stream only when the test calls
// checkStream.
func quiet(c LaneConfig) LaneConfig {
	c.tuning.watch = watchTimes{stalled: time.Hour, every: time.Hour, refused: 10 * time.Minute}
	return c
}

func openLane(tb testing.TB, c LaneConfig) *Lane {
	tb.Helper()
	l, err := OpenLane(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(sync.OnceFunc(func() { closeLane(tb, l) }))
	return l
}

func closeLane(tb testing.TB, l *Lane) {
	tb.Helper()
	select {
	case <-l.source.stopped:
		return
	default:
	}
	if err := l.Close(context.WithoutCancel(tb.Context())); err != nil {
		tb.Error(err)
	}
}

// tableSubject returns the subject of a change in a table that belongs to a company.
func tableSubject(table, company string) string {
	return "dbchange." + table + ".UPDATE." + company + ".l1.PUBLIC.x.y"
}

// publishTo publishes one message to each subject.
func (b *testBroker) publishTo(subjects ...string) {
	b.tb.Helper()
	for _, subject := range subjects {
		b.publishMsg(&nats.Msg{Subject: subject, Data: []byte(`{"a":1}`)})
	}
}

// deliveries returns the state of the lane's consumer as reported by the server.
func (b *testBroker) deliveries(l *Lane) *jetstream.ConsumerInfo {
	b.tb.Helper()
	c, err := b.stream().Consumer(b.tb.Context(), l.source.c.Name)
	if err != nil {
		b.tb.Fatal(err)
	}
	return c.CachedInfo()
}

func TestLane_ReadsItsTablesOnly(t *testing.T) {
	many := []string{"order"}
	for i := range 100 {
		many = append(many, fmt.Sprintf("t%d", i))
	}
	c1, both := []string{"dbchange.*.*.c1.*.PUBLIC.>"}, []string{"dbchange.*.*.c1.*.PUBLIC.>", "dbchange.*.*.c2.*.PUBLIC.>"}
	for _, c := range []struct {
		name            string
		filters, tables []string
		want            []uint64
		pending         []uint64
		filtersOfServer int
	}{
		{"one table", c1, []string{"order"}, []uint64{4, 7}, []uint64{1, 0}, 1},
		{"two tables", c1, []string{"order", "t7"}, []uint64{4, 6, 7}, []uint64{2, 1, 0}, 2},
		{"a prefix of another", c1, []string{"order_item"}, []uint64{3, 8}, []uint64{1, 0}, 1},
		{"a table twice", c1, []string{"order", "order"}, []uint64{4, 7}, []uint64{1, 0}, 1},
		{"two companies", both, []string{"order"}, []uint64{4, 5, 7}, []uint64{2, 1, 0}, 2},
		{"101 tables", c1, many, []uint64{3, 4, 6, 7, 8}, []uint64{4, 3, 2, 1, 0}, 1},
		{"100 tables of two companies", both, many[:100], []uint64{3, 4, 5, 6, 7, 8}, []uint64{5, 4, 3, 2, 1, 0}, 2},
		{"all companies", []string{"dbchange.>"}, []string{"order"}, []uint64{4, 5, 7, 9}, []uint64{3, 2, 1, 0}, 1},
		{"filters of one table", []string{"dbchange.order.*.c1.>", "dbchange.t7.>"}, []string{"order"}, []uint64{4, 7}, []uint64{1, 0}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newTestBroker(t)
			b.publishTo(
				tableSubject("order", "c1"), tableSubject("order", "c1"), tableSubject("order_item", "c1"),
				tableSubject("order", "c1"), tableSubject("order", "c2"),
				tableSubject("t7", "c1"), tableSubject("order", "c1"), tableSubject("order_item", "c1"), tableSubject("order", "c3"))
			config := b.laneConfig(c.tables...)
			config.Filters, config.After = c.filters, 2
			l := openLane(t, config)
			got := read(t, l, len(c.want))
			var pending []uint64
			for i := range got {
				pending = append(pending, got[i].Pending)
			}
			if diff := cmp.Diff(c.want, sequences(got)); diff != "" {
				t.Errorf("sequences: %s", diff)
			}
			if diff := cmp.Diff(c.pending, pending); diff != "" {
				t.Errorf("pending: %s", diff)
			}
			nothing(t, l, 30*time.Millisecond)
			if n := len(l.source.c.Filters); n != c.filtersOfServer {
				t.Errorf("the consumer has %d filters: %q", n, l.source.c.Filters)
			}
		})
	}
}

func TestLane_ReturnsMessagesLikeTheSource(t *testing.T) {
	b := newTestBroker(t)
	b.publish(1)
	b.publishMsg(&nats.Msg{Subject: subject("c1"), Data: []byte("zipped"), Header: nats.Header{"content-encoding": {"gzip/json"}}})
	want := read(t, open(t, b.config()), 2)
	if diff := cmp.Diff(want, read(t, openLane(t, b.laneConfig()), 2)); diff != "" {
		t.Error(diff)
	}
}

func TestLane_LeavesTheDurableConsumerAlone(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	s := open(t, b.config())
	got := read(t, s, 10)
	before := b.info()
	l := openLane(t, b.laneConfig())
	again := read(t, l, 10)
	if err := l.Acknowledge(t.Context(), again[9].Position); err != nil {
		t.Fatal(err)
	}
	closeLane(t, l)
	if diff := cmp.Diff(before.AckFloor, b.info().AckFloor); diff != "" {
		t.Error(diff)
	}
	acknowledge(t, s, got[9])
	eventually(t, "the source's acknowledgements arrive", func() bool { return b.info().AckFloor.Stream == 10 })
}

func TestLane_NeedsTables(t *testing.T) {
	b := newTestBroker(t)
	c := b.laneConfig()
	c.Tables = nil
	if _, err := OpenLane(t.Context(), c); fault.Of(err) != fault.Fatal {
		t.Error(err)
	}
}

// TestLane_ReadsEverythingForTablesWithoutSubject: a table that cannot be part of a subject must
// not prevent the other tables from catching up.
func TestLane_ReadsEverythingForTablesWithoutSubject(t *testing.T) {
	b := newTestBroker(t)
	for _, table := range []string{"", "a.b", "*", ">", "a b", "a\x00b", "\xff", strings.Repeat("x", 5000)} {
		c := b.laneConfig()
		c.Tables = []string{"order", table}
		filters, err := c.selection()
		if diff := cmp.Diff(c.Filters, filters); diff != "" || err != nil {
			t.Errorf("%.20q: %v: %s", table, err, diff)
		}
	}
}

// TestLane_KeepsTheOrderThroughAnyFaults publishes and reads while consumers, connections and
// servers fail. The lane must return each message of its tables once and in order.
func TestLane_KeepsTheOrderThroughAnyFaults(t *testing.T) {
	for _, tables := range []int{1, 101} {
		t.Run(fmt.Sprint(tables), func(t *testing.T) {
			b, r := newTestBroker(t), rand.New(rand.NewPCG(uint64(tables), 1))
			c := b.laneConfig()
			for i := 1; i < tables; i++ {
				c.Tables = append(c.Tables, fmt.Sprintf("t%d", i))
			}
			b.publish(3)
			c.After, c.tuning.pullBytes = 3, 2000
			l := openLane(t, c)
			var want, got []uint64
			sequence := uint64(3)
			for step := range 60 {
				switch n := r.IntN(12); {
				case n < 4:
					for range 1 + r.IntN(30) {
						sequence++
						if r.IntN(3) == 0 {
							b.publishTo(tableSubject("customer", "c1"))
							if tables > maxLaneFilters {
								want = append(want, sequence)
							}
							continue
						}
						b.publishTo(subject("c1"))
						want = append(want, sequence)
					}
				case n < 8 && len(want) > len(got):
					got = append(got, sequences(read(t, l, 1+r.IntN(len(want)-len(got))))...)
				case n < 9:
					_ = c.Conn.ForceReconnect()
				case n < 10 && step%3 == 0:
					b.stop()
					b.start()
					eventually(t, "the client is back", c.Conn.IsConnected)
				default:
					b.deleteConsumerOf(l.source.c.Name)
				}
			}
			for len(got) < len(want) {
				got = append(got, sequences(read(t, l, 1))...)
			}
			nothing(t, l, 50*time.Millisecond)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLane_SurvivesItsIdleConsumer deletes the consumer, as the server does if nothing pulls from
// the consumer.
func TestLane_SurvivesItsIdleConsumer(t *testing.T) {
	b := newTestBroker(t)
	b.publish(20)
	l := openLane(t, b.laneConfig())
	b.deleteConsumerOf(l.source.c.Name)
	first := read(t, l, 5)
	b.deleteConsumerOf(l.source.c.Name)
	b.publish(5)
	got := append(sequences(first), sequences(read(t, l, 25-len(first)))...)
	want := make([]uint64, 25)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLane_DeliveredAtRest(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	b.publishTo(tableSubject("customer", "c1"))
	c := b.laneConfig()
	c.After = 4
	l := openLane(t, c)
	check := func(wantDelivered, wantPending uint64) {
		t.Helper()
		delivered, pending, err := l.Delivered(t.Context())
		if delivered != wantDelivered || pending != wantPending || err != nil {
			t.Errorf("delivered %d, pending %d, %v; want %d, %d", delivered, pending, err, wantDelivered, wantPending)
		}
	}
	check(4, 6)
	read(t, l, 6)
	check(10, 0)
	b.publish(2)
	check(10, 2)
}

// TestLane_DeliveredIsAMessageOfTheLane publishes later messages of other tables, which Delivered
// must ignore: a caller that has applied the last message of the lane has applied everything.
func TestLane_DeliveredIsAMessageOfTheLane(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	b.publishTo(tableSubject("customer", "c1"), tableSubject("customer", "c1"))
	c := b.laneConfig("order")
	c.tuning.heartbeat = 20 * time.Millisecond // makes the server report how far it has looked
	l := openLane(t, c)
	read(t, l, 3)
	nothing(t, l, 300*time.Millisecond)
	b.purge(5) // also drops message 4, which follows the messages of the lane
	delivered, pending, err := l.Delivered(t.Context())
	if delivered != 3 || pending != 0 || err != nil {
		t.Errorf("delivered %d, pending %d, %v; want 3, 0", delivered, pending, err)
	}
}

// TestLane_DeliveredUnderLoad calls Delivered while messages are published and received. If
// nothing is pending, all messages stored before the call are delivered, and Receive returns them.
func TestLane_DeliveredUnderLoad(t *testing.T) {
	b := newTestBroker(t)
	l := openLane(t, b.laneConfig())
	ctx, cancel := context.WithCancel(t.Context())
	var stored, returned atomic.Uint64
	var others sync.WaitGroup
	others.Go(func() {
		js := b.js()
		for ctx.Err() == nil {
			ack, err := js.Publish(ctx, subject("c1"), []byte(`{}`))
			if err == nil {
				stored.Store(ack.Sequence)
			}
		}
	})
	others.Go(func() {
		for {
			run, err := l.Receive(ctx)
			if err != nil {
				return
			}
			returned.Store(run[len(run)-1].Position.Sequence)
		}
	})
	caughtUp := 0
	for calls := 0; caughtUp < 20 && calls < 2000; calls++ {
		before := stored.Load()
		delivered, pending, err := l.Delivered(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if pending > 0 {
			continue
		}
		caughtUp++
		if delivered < before {
			t.Errorf("message %d was stored before, but %d is the last one delivered", before, delivered)
		}
		eventually(t, "Receive returns the delivered message", func() bool { return returned.Load() >= delivered })
	}
	cancel()
	others.Wait()
	if caughtUp == 0 {
		t.Error("the lane never catches up, so the test checks nothing")
	}
}

// admitting returns a broker whose stream admits only the given number of consumers.
func admitting(t *testing.T, consumers int) *testBroker {
	t.Helper()
	b := newTestBroker(t)
	if err := b.js().DeleteStream(t.Context(), "dbchange"); err != nil {
		t.Fatal(err)
	}
	b.createStream(jetstream.StreamConfig{MaxConsumers: consumers})
	return b
}

// occupy creates a consumer as soon as the stream admits one.
func (b *testBroker) occupy() {
	b.tb.Helper()
	eventually(b.tb, "the stream admits a consumer", func() bool {
		_, err := b.stream().CreateConsumer(b.tb.Context(), jetstream.ConsumerConfig{Durable: "another"})
		return err == nil
	})
}

func TestLane_RefusedAtOpen(t *testing.T) {
	b := admitting(t, 1)
	b.publish(3)
	b.occupy()
	_, err := OpenLane(t.Context(), b.laneConfig())
	var refusal *jetstream.APIError
	if !errors.As(err, &refusal) || refusal.ErrorCode != 10026 || fault.Of(err) != fault.Transient {
		t.Fatal(err)
	}
	if !strings.Contains(err.Error(), " for order: ") {
		t.Error(err)
	}
	b.deleteConsumerOf("another")
	read(t, openLane(t, b.laneConfig()), 3)
}

func TestLane_RefusedAfterItsConsumerIsLost(t *testing.T) {
	b := admitting(t, 1)
	b.publish(3)
	l := openLane(t, b.laneConfig())
	read(t, l, 3)
	b.deleteConsumerOf(l.source.c.Name)
	b.occupy()
	b.publish(2)
	type result struct {
		run []pipeline.Message
		err error
	}
	received := make(chan result, 1)
	go func() {
		run, err := l.Receive(t.Context())
		received <- result{run, err}
	}()
	eventually(t, "the lane reports why it waits", func() bool {
		since, reason := l.Health()
		var refusal *jetstream.APIError
		return !since.IsZero() && errors.As(reason, &refusal) && refusal.ErrorCode == 10026
	})
	b.deleteConsumerOf("another")
	r := <-received
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.run[0].Position.Sequence != 4 {
		t.Errorf("message %d came", r.run[0].Position.Sequence)
	}
	if _, reason := l.Health(); reason != nil {
		t.Errorf("health: %v", reason)
	}
}

func TestLane_CloseLeavesNoConsumer(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	for name, use := range map[string]func(*Lane){
		"unused": func(*Lane) {},
		"read":   func(l *Lane) { read(t, l, 3) },
		"lost":   func(l *Lane) { b.deleteConsumerOf(l.source.c.Name) },
		"again": func(l *Lane) {
			read(t, l, 3)
			b.deleteConsumerOf(l.source.c.Name)
			b.publish(1)
			read(t, l, 1)
		},
		"after Delivered": func(l *Lane) {
			if _, _, err := l.Delivered(t.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		l := openLane(t, b.laneConfig())
		use(l)
		closeLane(t, l)
		if n := b.consumers(); n != 0 {
			t.Errorf("%s: %d consumers are left", name, n)
		}
	}
}

func TestLane_ClosesWhileTheServerIsDown(t *testing.T) {
	b := newTestBroker(t)
	c := b.laneConfig()
	l := openLane(t, c)
	b.stop()
	eventually(t, "the client notices", func() bool { return !c.Conn.IsConnected() })
	closeLane(t, l)
}

func TestLane_ReceiveEndsWithItsContext(t *testing.T) {
	b := newTestBroker(t)
	l := openLane(t, b.laneConfig())
	nothing(t, l, 20*time.Millisecond)
	b.publish(1)
	read(t, l, 1)
}
