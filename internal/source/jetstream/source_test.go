package jetstream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/pipeline"
)

func TestReceive_ReturnsMessagesInOrder(t *testing.T) {
	b := newTestBroker(t)
	b.publishAs("c2", 3) // messages of another company
	b.publish(2)
	b.publishMsg(&nats.Msg{Subject: subject("c1"), Data: []byte("zipped"), Header: nats.Header{"content-encoding": {"gzip/json"}}})
	before := time.Now().Add(-time.Minute).UnixNano()

	got := read(t, open(t, b.config()), 3)
	for i := range got {
		if stored := got[i].Position.Stored; stored < before || stored > time.Now().UnixNano() {
			t.Errorf("message %d was stored at %d", i, stored)
		}
		got[i].Position.Stored = 0
	}
	plain := pipeline.Message{Subject: subject("c1"), Data: []byte(`{"a":1}`)}
	want := []pipeline.Message{plain, plain, plain}
	for i := range want {
		want[i].Position.Sequence, want[i].Pending = uint64(4+i), uint64(2-i)
	}
	want[2].Data, want[2].Encoding = []byte("zipped"), "gzip/json"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOpen_CreatesTheConsumerOfTheProtocol(t *testing.T) {
	b := newTestBroker(t)
	open(t, b.config())
	got := b.info().Config
	got.Metadata, got.Replicas = nil, 0
	want := jetstream.ConsumerConfig{
		Name: "eds-1", Durable: "eds-1", FilterSubject: "dbchange.*.*.c1.*.PUBLIC.>",
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
		MaxDeliver: -1, MaxAckPending: 25_000, MaxWaiting: 1, InactiveThreshold: 7 * 24 * time.Hour,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOpen_UpdatesAnExistingConsumerInPlace(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	start := time.Now().Add(-time.Hour)
	old, err := b.stream().CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: "eds-1", AckPolicy: jetstream.AckExplicitPolicy, MaxWaiting: 1, MaxDeliver: 20, MaxAckPending: 100, AckWait: time.Second,
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start,
		FilterSubjects: []string{"dbchange.*.*.c1.*.PUBLIC.>", "dbchange.*.*.c9.*.PUBLIC.>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := old.Fetch(5)
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, b.config())
	if diff := cmp.Diff([]uint64{6, 7, 8, 9, 10}, sequences(read(t, s, 5))); diff != "" {
		t.Error(diff)
	}
	c := b.info().Config
	if c.DeliverPolicy != jetstream.DeliverByStartTimePolicy || c.MaxWaiting != 1 || c.MaxDeliver != -1 || c.MaxAckPending != 25_000 ||
		c.FilterSubject == "" {
		t.Errorf("the consumer is now %+v", c)
	}
}

func TestOpen_RedeliversUnacknowledgedMessages(t *testing.T) {
	b := newTestBroker(t)
	b.publish(1000)
	s := open(t, b.config())
	got := read(t, s, 1000)
	acknowledge(t, s, got[599])
	closeSource(t, s)
	eventually(t, "600 messages are acknowledged", func() bool { return b.info().AckFloor.Stream == 600 })
	s = open(t, b.config())
	again := read(t, s, 400)
	if again[0].Position.Sequence != 601 || again[399].Position.Sequence != 1000 {
		t.Errorf("messages %d to %d came again", again[0].Position.Sequence, again[399].Position.Sequence)
	}
	nothing(t, s, 50*time.Millisecond)
	acknowledge(t, s, again[399])
	eventually(t, "everything is acknowledged", func() bool { return b.info().AckFloor.Stream == 1000 })
}

func TestReceive_DropsRedeliveries(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	s := open(t, b.config())
	got := read(t, s, 3)
	// Request the first message again, as if its acknowledgement had arrived too late.
	if err := s.c.Conn.Publish(s.unacked.messages[0].reply, []byte("-NAK")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is delivered again", func() bool { return b.info().NumRedelivered == 1 })
	b.publish(1)
	if next := read(t, s, 1); next[0].Position.Sequence != 4 {
		t.Errorf("message %d came", next[0].Position.Sequence)
	}
	acknowledge(t, s, got[2])
	eventually(t, "its last delivery is acknowledged", func() bool { return b.info().AckFloor.Stream == 3 })
}

func TestReceive_AcknowledgesARedeliveryAgain(t *testing.T) {
	b := newTestBroker(t)
	b.publish(5)
	s := open(t, b.config())
	got := read(t, s, 5)
	// The server never receives these acknowledgements.
	for i := range s.unacked.messages {
		s.unacked.messages[i].reply = "_INBOX.unused"
	}
	acknowledge(t, s, got[4])
	s.dropSubscription() // as after a lost connection
	b.publish(1)
	next := read(t, s, 1)
	if next[0].Position.Sequence != 6 {
		t.Errorf("message %d came", next[0].Position.Sequence)
	}
	acknowledge(t, s, next[0])
	eventually(t, "all six are acknowledged", func() bool { return b.info().AckFloor.Stream == 6 })
}

func TestSource_ReportsProgressOfSlowMessages(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	c := b.config()
	c.tuning.ackWait = 300 * time.Millisecond
	s := open(t, c)
	got := read(t, s, 10)
	nothing(t, s, 1500*time.Millisecond)
	if n := b.info().NumRedelivered; n != 0 {
		t.Errorf("%d messages were delivered again", n)
	}
	acknowledge(t, s, got[9])
	eventually(t, "no more progress is reported", func() bool {
		s.unacked.mu.Lock()
		defer s.unacked.mu.Unlock()
		return !s.unacked.scheduled
	})
}

func TestSource_SurvivesAServerRestart(t *testing.T) {
	for name, reset := range map[string]bool{"with reset": true, "without reset": false} {
		t.Run(name, func(t *testing.T) {
			b := newTestBroker(t)
			b.publish(500)
			c := b.config()
			if !reset {
				c.ResetSupport = noReset(c)
			}
			s := open(t, c)
			first := read(t, s, 300)
			acknowledge(t, s, first[99])
			b.stop()
			eventually(t, "the connection is lost", func() bool { return !c.Conn.IsConnected() })
			s.dropSubscription() // discards unread messages, too
			nothing(t, s, 50*time.Millisecond)
			if since, reason := s.Health(); reason == nil || time.Since(since) > time.Minute {
				t.Errorf("health of the lost connection: %v, since %v", reason, since)
			}
			b.start()
			b.publish(100)
			rest := read(t, s, 600-len(first))
			if got, want := rest[0].Position.Sequence, first[len(first)-1].Position.Sequence+1; got != want {
				t.Errorf("message %d came first, want %d", got, want)
			}
			if _, reason := s.Health(); reason != nil {
				t.Error(reason)
			}
			acknowledge(t, s, rest[len(rest)-1])
			eventually(t, "everything is acknowledged", func() bool { return b.info().AckFloor.Stream == 600 })
		})
	}
}

func TestReceive_IsFastWithOneWaitingPull(t *testing.T) {
	b := newTestBroker(t)
	if _, err := b.stream().CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: "eds-1", AckPolicy: jetstream.AckExplicitPolicy, MaxWaiting: 1, FilterSubject: "dbchange.*.*.c1.*.PUBLIC.>",
	}); err != nil {
		t.Fatal(err)
	}
	// The pull of an earlier reader is still waiting.
	gone := b.connect()
	inbox, err := gone.SubscribeSync(gone.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	request := []byte(`{"batch":1,"expires":60000000000}`)
	if err := gone.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.dbchange.eds-1", inbox.Subject, request); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it waits", func() bool { return b.info().NumWaiting == 1 })
	gone.Close()
	b.publish(30_000)

	c := b.config()
	c.MaxAckPending = 50_000
	s := open(t, c)
	began := time.Now()
	got := read(t, s, 30_000)
	t.Log(time.Since(began))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("reading took %v", took)
	}
	acknowledge(t, s, got[len(got)-1])
	eventually(t, "everything is acknowledged", func() bool { return b.info().AckFloor.Stream == 30_000 })
}

func TestPull_IsBoundedByBytes(t *testing.T) {
	b := newTestBroker(t)
	text := strings.Repeat("x", 5000)
	for i := range 40 {
		b.publishMsg(&nats.Msg{Subject: subject("c1"), Data: []byte(text[:100+i*100]), Header: nats.Header{"content-encoding": {"json"}}})
	}
	for _, size := range []int{300, 4096, 5000, 6000, 10_000} {
		c := b.config()
		c.tuning.pullBytes = size
		s := open(t, c)
		if got := read(t, s, 40); len(got) != 40 {
			t.Errorf("%d messages", len(got))
		}
		closeSource(t, s)
	}
}

// TestPull_FollowsAnExactlyFilledPull: if the messages use up the bytes of a pull exactly, the
// server sends no status.
func TestPull_FollowsAnExactlyFilledPull(t *testing.T) {
	b := newTestBroker(t)
	b.publish(9)
	s := open(t, b.config())
	read(t, s, 9)
	one := len(subject("c1")) + len(s.unacked.messages[0].reply) + len(`{"a":1}`)
	closeSource(t, s)
	c := b.config()
	c.tuning.pullBytes = 3 * one
	s = open(t, c)
	began := time.Now()
	read(t, s, 9)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("reading took %v", took)
	}
}

func TestReceive_GetsMessagesSentToAnotherReader(t *testing.T) {
	b := newTestBroker(t)
	c := b.config()
	c.tuning.heartbeat = 100 * time.Millisecond
	s := open(t, c)
	nothing(t, s, 50*time.Millisecond)
	eventually(t, "its pull is over", func() bool { return b.info().NumWaiting == 0 })
	thief := b.connect()
	inbox, err := thief.SubscribeSync(thief.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	request := []byte(`{"batch":3,"expires":60000000000}`)
	if err := thief.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.dbchange.eds-1", inbox.Subject, request); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pull of the other reader waits", func() bool { return b.info().NumWaiting == 1 })
	b.publish(10)
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, sequences(read(t, s, 10))); diff != "" {
		t.Error(diff)
	}
	if stolen, _, err := inbox.Pending(); err != nil || stolen != 3 {
		t.Errorf("the other reader has %d messages, %v", stolen, err)
	}
}

func TestReceive_LosesNothingWhenCancelled(t *testing.T) {
	b := newTestBroker(t)
	s := open(t, b.config())
	for n := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := s.Receive(ctx)
			ended <- err
		}()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		b.publish(1)
		if got := read(t, s, 1); got[0].Position.Sequence != uint64(n+1) {
			t.Errorf("message %d came", got[0].Position.Sequence)
		}
	}
}

func TestSource_ClosedConnectionIsFatal(t *testing.T) {
	b := newTestBroker(t)
	b.publish(1)
	s := open(t, b.config())
	got := read(t, s, 1)
	s.c.Conn.Close()
	if _, err := s.Receive(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Receive: %v", err)
	}
	if err := s.Acknowledge(t.Context(), got[0].Position); !errors.Is(err, ErrClosed) {
		t.Errorf("Acknowledge: %v", err)
	}
}
