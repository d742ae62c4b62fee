package jetstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// reader reads a stream through sources that come and go, and checks what the
// package promises.
type reader struct {
	tb      testing.TB
	b       *broker
	r       *rand.Rand
	config  Config
	source  *Source
	journal journal

	published uint64
	settled   uint64
	newest    uint64   // of the present source
	held      []uint64 // received from the present source and not settled
	log       []string
}

// TestAnyFaultsLoseNothingAndKeepTheOrder reads while messages are published,
// refused, and asked for again, connections break, sources and the server
// restart and the consumer is deleted. Each source must pass on every message
// behind what was settled when it was opened, once and in order.
func TestAnyFaultsLoseNothingAndKeepTheOrder(t *testing.T) {
	for name, reset := range map[string]bool{"with reset": true, "without reset": false} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s, %d", name, seed), func(t *testing.T) {
				b := newBroker(t)
				r := &reader{tb: t, b: b, r: rand.New(rand.NewPCG(seed, uint64(len(name)))), config: b.config()}
				r.config.Record, r.config.MaxAckPending = r.journal.record, 300
				r.config.tuning.ackWait, r.config.tuning.pullBytes = 200*time.Millisecond, 2000+1000*int(seed)
				if !reset {
					r.config.Silence = silent(r.config)
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

func (r *reader) open() {
	r.source = open(r.tb, r.config, recorded(r.journal.last))
	r.newest, r.held = r.settled, nil
}

func (r *reader) step() {
	r.tb.Helper()
	say := func(format string, args ...any) { r.log = append(r.log, fmt.Sprintf(format, args...)) }
	switch n := r.r.IntN(19); {
	case n < 5:
		count := 1 + r.r.IntN(40)
		say("publish %d", count)
		r.b.publish(count)
		r.published += uint64(count)
	case n < 10:
		r.receive(r.r.IntN(60))
	case n < 14 && len(r.held) > 0:
		r.settle(r.held[r.r.IntN(len(r.held))])
	case n < 15 && len(r.held) > 0:
		say("ask again")
		u := r.source.ledger.open[r.r.IntN(len(r.source.ledger.open))]
		_ = r.config.Conn.Publish(u.reply, []byte("-NAK"))
	case n < 16:
		say("break the connection")
		_ = r.config.Conn.ForceReconnect()
	case n < 17:
		say("restart the source at %d", r.settled)
		closeSource(r.tb, r.source)
		r.open()
	case n < 18 && r.r.IntN(3) == 0:
		say("restart the server")
		r.b.stop()
		r.b.start()
		eventually(r.tb, "the client is back", r.config.Conn.IsConnected)
	default:
		say("delete the consumer")
		r.b.deleteConsumer()
	}
}

// receive reads up to n messages of those that are there.
func (r *reader) receive(n int) {
	r.tb.Helper()
	for target := min(r.newest+uint64(n), r.published, r.settled+300); r.newest < target; {
		ctx, cancel := context.WithTimeout(r.tb.Context(), 20*time.Second)
		run, err := r.source.Receive(ctx)
		cancel()
		if err != nil {
			r.tb.Fatalf("behind message %d of %d, %d settled: %v\n%v", r.newest, r.published, r.settled, err, r.log)
		}
		for _, m := range run {
			if m.Position.Sequence != r.newest+1 {
				r.tb.Fatalf("message %d came behind %d\n%v", m.Position.Sequence, r.newest, r.log)
			}
			r.newest++
			r.held = append(r.held, r.newest)
		}
	}
	r.log = append(r.log, fmt.Sprintf("received up to %d", r.newest))
}

func (r *reader) settle(n uint64) {
	r.tb.Helper()
	r.log = append(r.log, fmt.Sprintf("settle %d", n))
	if err := r.source.Acknowledge(r.tb.Context(), at(n)); err != nil {
		r.tb.Fatal(err)
	}
	r.settled = n
	for len(r.held) > 0 && r.held[0] <= n {
		r.held = r.held[1:]
	}
}

// readAll reads and settles all, and sees the server agree.
func (r *reader) readAll() {
	r.tb.Helper()
	for r.settled < r.published {
		r.receive(300)
		r.settle(r.newest)
	}
	eventually(r.tb, "everything is acknowledged", func() bool {
		ctx, cancel := context.WithTimeout(r.tb.Context(), 10*time.Millisecond)
		defer cancel()
		if run, err := r.source.Receive(ctx); err == nil {
			r.tb.Fatalf("message %d came again\n%v", run[0].Position.Sequence, r.log)
		}
		c, err := r.b.stream().Consumer(r.tb.Context(), "eds-1")
		return err == nil && c.CachedInfo().Delivered.Stream >= r.published && c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
	})
}
