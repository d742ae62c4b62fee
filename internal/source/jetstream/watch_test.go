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

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// watched returns a source that looks at the stream only when the test calls checkStream. It also
// returns the list of reasons that the source reports for not being able to verify the stream.
func watched(t *testing.T, b *testBroker) (*Source, *[]string) {
	t.Helper()
	var reported []string
	c := b.config()
	c.tuning.watch = watchTimes{stalled: time.Hour, every: time.Hour, refused: 10 * time.Minute}
	c.Unverified = func(reason string) { reported = append(reported, reason) }
	s := open(t, c)
	s.limits.messages = 10 // maximum per pull
	return s, &reported
}

// checkStream makes the source look at the stream.
func checkStream(t *testing.T, s *Source) {
	t.Helper()
	if err := s.checkStream(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// stall reads one message, and leaves all other messages that the server has sent unread. It
// returns the sequence of the last message sent.
func stall(t *testing.T, s *Source, b *testBroker) (sent uint64) {
	t.Helper()
	read(t, s, 1)
	eventually(t, "the pull is filled", func() bool {
		info := b.info()
		sent = info.Delivered.Stream
		newest, _ := s.unacked.received()
		return info.NumWaiting == 0 && sent > newest.Sequence
	})
	return sent
}

// purge drops the messages before first, as the stream's limits would.
func (b *testBroker) purge(first uint64) {
	b.tb.Helper()
	if err := b.stream().Purge(b.tb.Context(), jetstream.WithPurgeSequence(first)); err != nil {
		b.tb.Fatal(err)
	}
}

// lostFrom checks that the source fails because messages from the sequence first on are lost. If
// first is 0, it accepts any sequence.
func lostFrom(t *testing.T, s *Source, first uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var gap *continuity.GapError
	for {
		if _, err := s.Receive(ctx); err != nil {
			if !errors.As(err, &gap) || gap.Reason != continuity.Trimmed || gap.After+1 != first && first > 0 || !gap.Others ||
				fault.Of(err) != fault.Fatal {
				t.Fatalf("Receive: %v", err)
			}
			break
		}
	}
	if _, reason := s.Health(); !errors.As(reason, &gap) {
		t.Errorf("health: %v", reason)
	}
}

func TestWatch_ReportsMessagesDroppedBeforeAStalledReader(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	s, _ := watched(t, b)
	sent := stall(t, s, b)
	checkStream(t, s)
	b.purge(90)
	checkStream(t, s)
	lostFrom(t, s, sent+1)
}

// TestWatch_FindsMessagesDroppedAtOnce loses messages before there is any look after the last
// message.
func TestWatch_FindsMessagesDroppedAtOnce(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	s, _ := watched(t, b)
	stall(t, s, b)
	b.purge(90)
	checkStream(t, s)
	lostFrom(t, s, 0)
}

func TestWatch_NoticesAMissingNextMessage(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	s, _ := watched(t, b)
	sent := stall(t, s, b)
	checkStream(t, s)
	b.purge(90)
	lostFrom(t, s, sent+1) // because message 90 comes next
}

func TestWatch_CountsTheMessagesThatWait(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	s, _ := watched(t, b)
	stall(t, s, b)
	b.purge(90)
	lostFrom(t, s, 0) // because too few messages wait behind message 90
}

func TestWatch_LooksBeforeAStalledReaderContinues(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	s, _ := watched(t, b)
	stall(t, s, b)
	b.purge(90)
	s.watch.active = time.Time{}
	lostFrom(t, s, 0)
}

func TestWatch_LooksWithoutReceive(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	c := b.config()
	c.tuning.watch = watchTimes{stalled: 10 * time.Millisecond, every: 10 * time.Millisecond, refused: time.Hour}
	s := open(t, c)
	s.limits.messages = 10
	stall(t, s, b)
	b.purge(90)
	eventually(t, "the gap shows in health", func() bool {
		_, reason := s.Health()
		return errors.As(reason, new(*continuity.GapError))
	})
}

// TestWatch_IsQuietUntilTheFirstSubscription makes the first attempt to subscribe fail.
func TestWatch_IsQuietUntilTheFirstSubscription(t *testing.T) {
	b := newTestBroker(t)
	b.publish(50)
	s, reported := watched(t, b)
	failing, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.subscribe(failing); err == nil {
		t.Fatal("it subscribes without an answer")
	}
	read(t, s, 50)
	if len(*reported) != 0 {
		t.Errorf("reported: %q", *reported)
	}
}

func TestWatch_ReportsUnverifiedMessages(t *testing.T) {
	b := newTestBroker(t)
	b.publish(50)
	s, reported := watched(t, b)
	read(t, s, 50)
	checkStream(t, s)
	b.publish(50)
	read(t, s, 50)
	b.purge(80)
	b.publish(1) // other messages may have been stored and dropped in between
	checkStream(t, s)
	if len(*reported) != 1 || !strings.Contains((*reported)[0], "the messages before 80 ") {
		t.Errorf("reported: %q", *reported)
	}
	read(t, s, 1)
}

func TestWatch_IsQuietWhileOthersMessagesAreDropped(t *testing.T) {
	for _, waiting := range []int{0, 1} {
		b := newTestBroker(t)
		b.publishAs("c2", 2000)
		b.publish(1)
		s, reported := watched(t, b)
		read(t, s, 1)
		b.publishAs("c2", 2000)
		b.publish(waiting)
		for n := range uint64(4) {
			checkStream(t, s)
			b.publishAs("c2", 2000)
			b.purge(2000 * (n + 1))
			if waiting > 0 && n > 0 {
				break
			}
		}
		if err := s.c.Conn.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client is back", func() bool { return s.c.Conn.IsConnected() && s.c.Conn.Stats().Reconnects == 1 })
		b.publish(1)
		if got := read(t, s, waiting+1); len(got) != waiting+1 {
			t.Errorf("messages %v came", sequences(got))
		}
		if len(*reported) > 0 {
			t.Errorf("reported: %q", *reported)
		}
	}
}

func TestWatch_IsQuietWhileAReaderKeepsUp(t *testing.T) {
	b := newTestBroker(t)
	s, reported := watched(t, b)
	times := watchTimes{stalled: time.Hour, every: time.Hour}
	for n := range uint64(5) {
		b.publishAs("c2", 100)
		b.publish(1)
		read(t, s, 1)
		s.watch.shouldLook(s.unacked, times, time.Now())
		b.purge(101 * (n + 1))
		checkStream(t, s)
	}
	if len(*reported) > 0 {
		t.Errorf("reported: %q", *reported)
	}
}

// TestWatch_NeedsFewProbes counts the requests to the server.
func TestWatch_NeedsFewProbes(t *testing.T) {
	b := newTestBroker(t)
	b.publishAs("c2", 1)
	b.publish(3)
	s, _ := watched(t, b)
	acknowledge(t, s, read(t, s, 3)[2])
	b.purge(2)
	created, err := b.admin.SubscribeSync("$JS.API.CONSUMER.CREATE.dbchange.>")
	if err != nil {
		t.Fatal(err)
	}
	probes := func(ask func()) (n int) {
		t.Helper()
		ask()
		if err := b.admin.Flush(); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := created.NextMsg(0)
			switch {
			case errors.Is(err, nats.ErrTimeout):
				return n
			case err != nil:
				t.Fatal(err)
			case strings.Contains(m.Subject, "-probe-"):
				n++
				if !strings.Contains(string(m.Data), `"headers_only":true`) {
					t.Errorf("payloads are read: %s", m.Data)
				}
			}
		}
	}
	if err := b.admin.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := probes(func() {
		s.dropSubscription()
		b.publish(1)
		read(t, s, 1)
	}); n != 2 {
		t.Errorf("a subscription makes %d temporary consumers", n)
	}
	if n := probes(func() { checkStream(t, s) }); n != 2 {
		t.Errorf("a look makes %d temporary consumers", n)
	}
}

// TestWatch_ReportsAnUnverifiedStreamAfterARefusal uses a stream that admits no more consumers.
func TestWatch_ReportsAnUnverifiedStreamAfterARefusal(t *testing.T) {
	b := newTestBroker(t)
	if err := b.js().DeleteStream(t.Context(), "dbchange"); err != nil {
		t.Fatal(err)
	}
	b.createStream(jetstream.StreamConfig{MaxConsumers: 2})
	b.publish(20)
	s, reported := watched(t, b)
	acknowledge(t, s, read(t, s, 20)[19])
	s.dropSubscription()
	other, err := b.stream().CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatal(err)
	}
	b.publish(1)
	read(t, s, 1)
	if len(*reported) > 0 {
		t.Errorf("at once: %q", *reported)
	}
	s.watch.refused = s.watch.refused.Add(-10 * time.Minute)
	s.watch.subscribed, s.watch.due = true, time.Time{}
	s.tick(t.Context())
	if len(*reported) != 1 || !strings.Contains((*reported)[0], "cannot check that it is the same stream") {
		t.Errorf("after ten minutes: %q", *reported)
	}
	if err := b.stream().DeleteConsumer(t.Context(), other.CachedInfo().Name); err != nil {
		t.Fatal(err)
	}
	s.watch.due = time.Time{}
	s.tick(t.Context())
	if len(*reported) != 2 || (*reported)[1] != "" {
		t.Errorf("after an answer: %q", *reported)
	}
}

// TestWatch_ComparesTheStreamAfterARefusal replaces the stream while the server refuses to describe
// it.
func TestWatch_ComparesTheStreamAfterARefusal(t *testing.T) {
	b := newTestBroker(t)
	b.publish(20)
	s, _ := watched(t, b)
	acknowledge(t, s, read(t, s, 20)[19])
	if err := b.js().DeleteStream(t.Context(), "dbchange"); err != nil {
		t.Fatal(err)
	}
	b.createStream(jetstream.StreamConfig{})
	b.publish(30)
	s.noteRefused(true)
	s.watch.behind = true
	s.tick(t.Context())
	var gap *continuity.GapError
	if _, err := s.Receive(t.Context()); !errors.As(err, &gap) || gap.Reason != continuity.Recreated {
		t.Errorf("Receive: %v", err)
	}
}

func TestPace_LooksAgainBeforeTheStreamHasCaughtUp(t *testing.T) {
	for name, c := range map[string]struct {
		dropped, left uint64
		want          time.Duration
	}{
		"slow":    {1, 1_000_000, time.Minute},
		"closing": {1000, 500, 15 * time.Second},
		"passed":  {1000, 0, time.Second},
	} {
		if got := pace(time.Minute, c.dropped, c.left, time.Minute); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestSource_StartsByTimeUnderSeveralFilters has messages that match two filters. The first
// message of one filter is stored after the newest message of the other.
func TestSource_StartsByTimeUnderSeveralFilters(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	began := time.Now()
	b.publish(10)
	b.publishAs("c3", 1)
	b.publishAs("c2", 1)
	c := b.config()
	c.Filters = []string{"dbchange.*.*.c1.*.PUBLIC.>", "dbchange.*.*.c3.*.PUBLIC.>"}
	c.Plan = continuity.Plan{Start: continuity.Start{From: continuity.FromTime, Time: began}}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource(t, s)
	if diff := cmp.Diff([]uint64{11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}, sequences(read(t, s, 11))); diff != "" {
		t.Error(diff)
	}
}

// TestSource_IsHandedBackToTheReferenceServer makes eds and the reference server take over the
// consumer from each other five times. Both apply changes to the same destination.
func TestSource_IsHandedBackToTheReferenceServer(t *testing.T) {
	for name, reference := range map[string]bool{"the reference server is first": true, "eds is first": false} {
		t.Run(name, func(t *testing.T) {
			b := newTestBroker(t)
			c := b.config()
			var last cdc.Position // position of the last acknowledged message
			var got, want []uint64
			for range 10 {
				b.publish(5)
				for range 5 {
					want = append(want, uint64(len(want)+1))
				}
				if reference {
					for _, at := range takeOver(t, b, 5) {
						last = at
						got = append(got, at.Sequence)
					}
				} else {
					s := open(t, c, recorded(continuity.Record{Settled: last}))
					messages := read(t, s, 5)
					last = messages[4].Position
					got = append(got, sequences(messages)...)
					acknowledge(t, s, messages[4])
					closeSource(t, s)
				}
				eventually(t, "everything is acknowledged", func() bool { return b.info().AckFloor.Stream == last.Sequence })
				reference = !reference
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// takeOver takes over the consumer in the same way as the reference server: it sends back the
// consumer's deliver policy and start time, together with its own settings. It acknowledges n
// messages and returns their positions.
func takeOver(t *testing.T, b *testBroker, n int) (taken []cdc.Position) {
	t.Helper()
	began := time.Now().Add(-time.Hour)
	c := jetstream.ConsumerConfig{
		Durable: "eds-1", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &began,
		MaxWaiting: 1, AckWait: 5 * time.Minute, MaxDeliver: 20, MaxAckPending: 1000, InactiveThreshold: 72 * time.Hour,
		FilterSubject: "dbchange.*.*.c1.*.PUBLIC.>",
	}
	if old, err := b.stream().Consumer(t.Context(), "eds-1"); err == nil {
		c.DeliverPolicy, c.OptStartTime = old.CachedInfo().Config.DeliverPolicy, old.CachedInfo().Config.OptStartTime
	}
	consumer, err := b.stream().CreateOrUpdateConsumer(t.Context(), c)
	if err != nil {
		t.Fatalf("the reference server cannot open the consumer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	batch, err := consumer.Fetch(n, jetstream.FetchContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
		at, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, cdc.Position{Sequence: at.Sequence.Stream, Stored: at.Timestamp.UnixNano()})
	}
	return taken
}
