package jetstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// faultReader reads a stream through sources that it closes and opens again, and checks the
// guarantees of the package.
type faultReader struct {
	tb      testing.TB
	b       *testBroker
	r       *rand.Rand
	config  Config
	source  *Source
	records recordStore

	published    uint64
	acknowledged uint64
	newest       uint64   // sequence of the newest message received from the current source
	received     []uint64 // messages received from the current source that are not acknowledged
	log          []string
}

// TestSource_KeepsTheOrderThroughAnyFaults reads under faults: messages are rejected and
// redelivered, connections break, sources and the server restart, and the consumer is deleted.
// Each source must return every message after the last acknowledged one, once and in order.
func TestSource_KeepsTheOrderThroughAnyFaults(t *testing.T) {
	for name, reset := range map[string]bool{"with reset": true, "without reset": false} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s, %d", name, seed), func(t *testing.T) {
				b := newTestBroker(t)
				r := &faultReader{tb: t, b: b, r: rand.New(rand.NewPCG(seed, uint64(len(name)))), config: b.config()}
				r.config.Record, r.config.MaxAckPending = r.records.record, 300
				r.config.tuning.ackWait, r.config.tuning.pullBytes = 200*time.Millisecond, 2000+1000*int(seed)
				if !reset {
					r.config.ResetSupport = noReset(r.config)
				}
				r.open()
				for range 100 {
					r.step()
				}
				r.readAll()
				if t.Failed() {
					t.Log(r.log)
				}
			})
		}
	}
}

func (r *faultReader) open() {
	r.source = open(r.tb, r.config, recorded(r.records.last))
	r.newest, r.received = r.acknowledged, nil
}

func (r *faultReader) step() {
	r.tb.Helper()
	log := func(format string, args ...any) { r.log = append(r.log, fmt.Sprintf(format, args...)) }
	switch n := r.r.IntN(19); {
	case n < 5:
		count := 1 + r.r.IntN(40)
		log("publish %d", count)
		r.b.publish(count)
		r.published += uint64(count)
	case n < 10:
		r.receive(r.r.IntN(60))
	case n < 14 && len(r.received) > 0:
		r.acknowledge(r.received[r.r.IntN(len(r.received))])
	case n < 15 && len(r.received) > 0:
		log("request redelivery")
		u := r.source.unacked.messages[r.r.IntN(len(r.source.unacked.messages))]
		_ = r.config.Conn.Publish(u.reply, []byte("-NAK"))
	case n < 16:
		log("break the connection")
		_ = r.config.Conn.ForceReconnect()
	case n < 17:
		log("restart the source at %d", r.acknowledged)
		closeSource(r.tb, r.source)
		r.open()
	case n < 18 && r.r.IntN(3) == 0:
		log("restart the server")
		r.b.stop()
		r.b.start()
		eventually(r.tb, "the client is back", r.config.Conn.IsConnected)
	default:
		log("delete the consumer")
		r.b.deleteConsumer()
	}
}

// receive reads up to n available messages.
func (r *faultReader) receive(n int) {
	r.tb.Helper()
	for target := min(r.newest+uint64(n), r.published, r.acknowledged+300); r.newest < target; {
		ctx, cancel := context.WithTimeout(r.tb.Context(), 20*time.Second)
		run, err := r.source.Receive(ctx)
		cancel()
		if err != nil {
			r.tb.Fatalf("after message %d of %d, %d acknowledged: %v\n%v", r.newest, r.published, r.acknowledged, err, r.log)
		}
		for _, m := range run {
			if m.Position.Sequence != r.newest+1 {
				r.tb.Fatalf("message %d came after %d\n%v", m.Position.Sequence, r.newest, r.log)
			}
			r.newest++
			r.received = append(r.received, r.newest)
		}
	}
	r.log = append(r.log, fmt.Sprintf("received up to %d", r.newest))
}

func (r *faultReader) acknowledge(n uint64) {
	r.tb.Helper()
	r.log = append(r.log, fmt.Sprintf("acknowledge %d", n))
	if err := r.source.Acknowledge(r.tb.Context(), at(n)); err != nil {
		r.tb.Fatal(err)
	}
	r.acknowledged = n
	for len(r.received) > 0 && r.received[0] <= n {
		r.received = r.received[1:]
	}
}

// readAll reads and acknowledges all messages, and checks the consumer's state as reported by the
// server.
func (r *faultReader) readAll() {
	r.tb.Helper()
	for r.acknowledged < r.published {
		r.receive(300)
		r.acknowledge(r.newest)
	}
	eventually(r.tb, "everything is acknowledged", func() bool {
		ctx, cancel := context.WithTimeout(r.tb.Context(), 10*time.Millisecond)
		defer cancel()
		if run, err := r.source.Receive(ctx); err == nil {
			r.tb.Fatalf("message %d came again\n%v", run[0].Position.Sequence, r.log)
		}
		c, err := r.b.stream().Consumer(r.tb.Context(), "eds-1")
		if err != nil {
			return false
		}
		info := c.CachedInfo()
		return info.Delivered.Stream >= r.published && info.NumPending == 0 && info.NumAckPending == 0
	})
}
