package jetstream

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// benchmarked is the number of messages that a benchmark reads.
const benchmarked = 200_000

// flooded returns a broker whose stream has messages of 1.4 kB.
func flooded(tb testing.TB) *testBroker {
	tb.Helper()
	b := newTestBroker(tb)
	js, err := jetstream.New(b.admin, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		tb.Fatal(err)
	}
	payload := make([]byte, 1400)
	for range benchmarked {
		message := &nats.Msg{Subject: subject("c1"), Data: payload}
		if _, err := js.PublishMsgAsync(message, jetstream.WithStallWait(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	return b
}

func reportRate(b *testing.B, took time.Duration) {
	b.ReportMetric(benchmarked*float64(b.N)/took.Seconds(), "msg/s")
}

// BenchmarkReceive reads and acknowledges messages, in batches of 10,000.
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
				acknowledge(b, s, run[len(run)-1])
				due = min(due+10_000, benchmarked)
			}
		}
		took += time.Since(began)
		closeSource(b, s)
	}
	reportRate(b, took)
}

// BenchmarkLibrary measures the same with consecutive calls of the client library's Fetch. Fetch
// guarantees neither the order of messages nor that no message is skipped.
func BenchmarkLibrary(b *testing.B) {
	k := flooded(b)
	js, err := jetstream.New(k.connect())
	if err != nil {
		b.Fatal(err)
	}
	var took time.Duration
	b.ReportAllocs()
	for b.Loop() {
		config := jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 25_000}
		c, err := js.CreateConsumer(b.Context(), "dbchange", config)
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

// BenchmarkLatency sends one change at a time from its publication through an idle pipeline to the
// sink.
func BenchmarkLatency(b *testing.B) {
	w := newFaultRig(b, rand.New(rand.NewPCG(0, 0)))
	w.sink.reliable = true
	w.publish(1)
	w.sink.reach(b, 1)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		w.publish(1)
		w.sink.reach(b, w.published)
		took = append(took, time.Since(began))
	}
	w.stop(false)
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
