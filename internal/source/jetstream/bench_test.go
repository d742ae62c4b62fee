package jetstream

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// benchmarked is how many messages a benchmark reads.
const benchmarked = 200_000

// flooded is a broker whose stream has messages of 1.4 kB.
func flooded(tb testing.TB) *broker {
	tb.Helper()
	b := newBroker(tb)
	js, err := jetstream.New(b.admin, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		tb.Fatal(err)
	}
	payload := make([]byte, 1400)
	for range benchmarked {
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: subject("c1"), Data: payload}, jetstream.WithStallWait(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	return b
}

func reportRate(b *testing.B, took time.Duration) {
	b.ReportMetric(benchmarked*float64(b.N)/took.Seconds(), "msg/s")
}

// BenchmarkReceive reads and settles, in batches of 10,000.
func BenchmarkReceive(b *testing.B) {
	k := flooded(b)
	c := k.config()

	var took time.Duration
	b.ReportAllocs()
	for b.Loop() {
		k.deleteConsumer()
		s := open(b, c)
		began := time.Now()
		for n, due := 0, 10_000; n < benchmarked; {
			run, err := s.Receive(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if n += len(run); n >= due {
				settle(b, s, run[len(run)-1])
				due = min(due+10_000, benchmarked)
			}
		}
		took += time.Since(began)
		closeSource(b, s)
	}
	reportRate(b, took)
}

// BenchmarkLibrary does the same with the client library's own Fetch, one after
// the other, which promises neither order nor that nothing is passed over.
func BenchmarkLibrary(b *testing.B) {
	k := flooded(b)
	js, err := jetstream.New(k.connect())
	if err != nil {
		b.Fatal(err)
	}
	var took time.Duration
	b.ReportAllocs()
	for b.Loop() {
		c, err := js.CreateConsumer(b.Context(), "dbchange", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 25_000})
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for n := 0; n < benchmarked; {
			batch, err := c.Fetch(min(maxPull, benchmarked-n))
			if err != nil {
				b.Fatal(err)
			}
			for m := range batch.Messages() {
				if err := m.Ack(); err != nil {
					b.Fatal(err)
				}
				n++
			}
		}
		took += time.Since(began)
	}
	reportRate(b, took)
}

// BenchmarkLatency takes one change at a time from its publication through an
// idle pipeline to the sink.
func BenchmarkLatency(b *testing.B) {
	w := newWorld(b, rand.New(rand.NewPCG(0, 0)))
	w.table.reliable = true
	w.publish(1)
	w.table.reach(b, 1)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		w.publish(1)
		w.table.reach(b, w.published)
		took = append(took, time.Since(began))
	}
	w.stop(false)
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
