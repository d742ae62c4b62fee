package jetstream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// recordStore stores the latest record of a source.
type recordStore struct{ last continuity.Record }

func (j *recordStore) record(r continuity.Record) error {
	j.last = r
	return nil
}

func TestOpen_ContinuesAfterALostConsumer(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	var j recordStore
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	acknowledge(t, s, read(t, s, 10)[6])
	closeSource(t, s)
	if err := b.stream().DeleteConsumer(t.Context(), "eds-1"); err != nil {
		t.Fatal(err)
	}
	s = open(t, c, recorded(j.last))
	if diff := cmp.Diff([]uint64{8, 9, 10}, sequences(read(t, s, 3))); diff != "" {
		t.Error(diff)
	}
}

func TestOpen_ReportsAGapIfMessagesAreGone(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	var j recordStore
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	fifth := read(t, s, 10)[4]
	acknowledge(t, s, fifth)
	closeSource(t, s)
	stream := b.stream()
	if err := stream.DeleteConsumer(t.Context(), "eds-1"); err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(9)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // opening a second time must fail in the same way
		_, err := tryOpen(t, c, recorded(j.last))
		var gap *continuity.GapError
		if !errors.As(err, &gap) {
			t.Fatalf("open: %v", err)
		}
		want := &continuity.GapError{Others: true, After: 5, First: 9, Since: time.Unix(0, fifth.Position.Stored)}
		if diff := cmp.Diff(want, gap); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOpen_ReportsARecreatedStream(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	var j recordStore
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	acknowledge(t, s, read(t, s, 10)[9])
	closeSource(t, s)
	if err := b.js().DeleteStream(t.Context(), "dbchange"); err != nil {
		t.Fatal(err)
	}
	b.createStream(jetstream.StreamConfig{})
	for _, more := range []int{3, 20} { // fewer messages than were read, and more messages than were read
		b.publish(more)
		_, err := tryOpen(t, c, recorded(j.last))
		var gap *continuity.GapError
		if !errors.As(err, &gap) || gap.Reason != continuity.Recreated {
			t.Errorf("open: %v", err)
		}
	}
}

func TestReceive_ReportsARecreatedStream(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	s := open(t, b.config())
	read(t, s, 10)
	s.dropSubscription()
	if err := b.js().DeleteStream(t.Context(), "dbchange"); err != nil {
		t.Fatal(err)
	}
	b.createStream(jetstream.StreamConfig{})
	b.publish(30)
	_, err := s.Receive(t.Context())
	var gap *continuity.GapError
	if !errors.As(err, &gap) || gap.Reason != continuity.Recreated || fault.Of(err) != fault.Fatal {
		t.Errorf("Receive: %v", err)
	}
}

func TestObserve_ReportsAcknowledgements(t *testing.T) {
	b := newTestBroker(t)
	acknowledged := func() bool {
		t.Helper()
		e := recorded(continuity.Record{})
		if err := Observe(t.Context(), b.config(), &e); err != nil {
			t.Fatal(err)
		}
		return e.Consumer.Acknowledged
	}
	s := open(t, b.config())
	if acknowledged() {
		t.Error("before any message")
	}
	b.publish(1)
	got := read(t, s, 1)
	acknowledge(t, s, got[0])
	closeSource(t, s)
	eventually(t, "the server counts the acknowledgement", acknowledged) // the server handles acknowledgements asynchronously
}

func TestObserve_ReportsTheStream(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	b.publishAs("c2", 2)
	s := open(t, b.config())
	got := read(t, s, 3)
	acknowledge(t, s, got[2])
	closeSource(t, s)
	stored := func(sequence uint64) int64 {
		m, err := b.stream().GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		return m.Time.UnixNano()
	}
	first, third, fourth := stored(1), stored(3), stored(4)
	beyond := cdc.Position{Sequence: 9, Stored: 1}
	for _, c := range []struct {
		name    string
		purge   uint64 // sequence before which messages are dropped
		settled cdc.Position
		want    continuity.StreamEvidence
	}{
		{"nothing was read", 0, cdc.Position{}, continuity.StreamEvidence{First: 1, FirstStored: first, Pending: 5}},
		{"the last is there", 0, got[2].Position, continuity.StreamEvidence{First: 1, FirstStored: first, Stored: third, Pending: 3}},
		{"it is the first", 3, got[2].Position, continuity.StreamEvidence{First: 3, FirstStored: third, Stored: third, Pending: 3}},
		{"it is gone", 4, got[2].Position, continuity.StreamEvidence{First: 4, FirstStored: fourth, Pending: 2}},
		{"the stream ends before it", 4, beyond, continuity.StreamEvidence{First: 4, FirstStored: fourth}},
		{"the stream is empty", 6, got[2].Position, continuity.StreamEvidence{First: 6}},
		{"it is empty and ended before", 6, beyond, continuity.StreamEvidence{First: 6}},
	} {
		if c.purge > 0 {
			if err := b.stream().Purge(t.Context(), jetstream.WithPurgeSequence(c.purge)); err != nil {
				t.Fatal(err)
			}
		}
		e := recorded(continuity.Record{Settled: c.settled})
		if c.settled.Sequence == 0 { // otherwise the consumer's acknowledgement floor would count
			b.deleteConsumer()
		}
		if err := Observe(t.Context(), b.config(), &e); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, e.Stream); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	if n := b.consumers(); n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

func TestReceive_RecreatesADeletedConsumer(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	s := open(t, b.config())
	got := read(t, s, 10)
	acknowledge(t, s, got[3])
	if err := b.stream().DeleteConsumer(t.Context(), "eds-1"); err != nil {
		t.Fatal(err)
	}
	b.publish(5)
	if diff := cmp.Diff([]uint64{11, 12, 13, 14, 15}, sequences(read(t, s, 5))); diff != "" {
		t.Error(diff)
	}
	if err := s.Acknowledge(t.Context(), at(15)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything is acknowledged", func() bool { return b.info().AckFloor.Stream == 15 })
}

func TestReceive_ReportsDroppedMessagesAsAGap(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	s := open(t, b.config())
	read(t, s, 10)
	s.dropSubscription() // as if the destination were down for several days
	b.publish(10)
	if err := b.stream().Purge(t.Context(), jetstream.WithPurgeSequence(15)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Receive(t.Context())
	var gap *continuity.GapError
	if !errors.As(err, &gap) || gap.After != 10 || gap.First != 15 {
		t.Errorf("Receive: %v", err)
	}
}

func TestOpen_PrefersTheDestinationsCheckpoint(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	var j recordStore
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	got := read(t, s, 10)
	acknowledge(t, s, got[9])
	closeSource(t, s)
	e := recorded(j.last)
	e.Destination = continuity.DestinationEvidence{Stores: true, Checkpoint: got[3].Position} // restored from a backup
	if diff := cmp.Diff([]uint64{5, 6, 7, 8, 9, 10}, sequences(read(t, open(t, c, e), 6))); diff != "" {
		t.Error(diff)
	}
}

func TestRecord_AdvancesOverMessagesOfOthers(t *testing.T) {
	b := newTestBroker(t)
	b.publish(1)
	var j recordStore
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	acknowledge(t, s, read(t, s, 1)[0])
	b.publishAs("c2", 50)
	// A heartbeat reports that the server has looked at the messages up to 51.
	s.subscription.markScanned("51")
	closeSource(t, s)
	if err := b.stream().Purge(t.Context(), jetstream.WithPurgeSequence(52)); err != nil {
		t.Fatal(err)
	}
	s = open(t, c, recorded(j.last))
	b.publish(1)
	if diff := cmp.Diff([]uint64{52}, sequences(read(t, s, 1))); diff != "" {
		t.Error(diff)
	}
}

func TestAcknowledge_RecordsFirst(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	c := b.config()
	refused := errors.New("disk full")
	fail := false
	c.Record = func(continuity.Record) error {
		if fail {
			return refused
		}
		return nil
	}
	s := open(t, c)
	got := read(t, s, 10)
	fail = true
	if err := s.Acknowledge(t.Context(), got[4].Position); !errors.Is(err, refused) || fault.Of(err) != fault.Transient {
		t.Fatalf("Acknowledge: %v", err)
	}
	if err := c.Conn.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if n := b.info().NumAckPending; n != 10 {
		t.Errorf("%d messages wait for their acknowledgement", n)
	}
	fail = false
	acknowledge(t, s, got[4])
	eventually(t, "five are acknowledged", func() bool { return b.info().AckFloor.Stream == 5 })
}

func TestRecord_AdvancesWithHeartbeats(t *testing.T) {
	b := newTestBroker(t)
	b.publish(1)
	var j recordStore
	c := b.config()
	c.Record, c.tuning.heartbeat = j.record, 100*time.Millisecond
	s := open(t, c)
	acknowledge(t, s, read(t, s, 1)[0])
	inbox := s.subscription.inbox
	b.publishAs("c2", 10)
	for range 10 {
		nothing(t, s, 100*time.Millisecond)
	}
	if s.subscription.inbox != inbox {
		t.Error("the subscription was left")
	}
	closeSource(t, s)
	if j.last.Scanned != 11 {
		t.Errorf("recorded %+v", j.last)
	}
}

func TestReceive_SubscribesAgainIfTheServerIsSilent(t *testing.T) {
	b := newTestBroker(t)
	b.publish(1)
	c := b.config()
	c.tuning.heartbeat = 100 * time.Millisecond
	s := open(t, c)
	read(t, s, 1)
	inbox := s.subscription.inbox
	if err := s.subscription.sub.Unsubscribe(); err != nil { // the source gets no further answers
		t.Fatal(err)
	}
	b.publish(1)
	if diff := cmp.Diff([]uint64{2}, sequences(read(t, s, 1))); diff != "" {
		t.Error(diff)
	}
	if s.subscription.inbox == inbox {
		t.Error("the subscription was kept")
	}
}

// TestOpen_StartsWhereTheConsumerDoesBeforeTheFirstAcknowledgement: until the first
// acknowledgement, nats-server 2.11 reports a floor of 0 for every consumer.
func TestOpen_StartsWhereTheConsumerDoesBeforeTheFirstAcknowledgement(t *testing.T) {
	for name, policy := range map[string]jetstream.DeliverPolicy{
		"all": jetstream.DeliverAllPolicy, "new": jetstream.DeliverNewPolicy,
		"start sequence": jetstream.DeliverByStartSequencePolicy, "start time": jetstream.DeliverByStartTimePolicy,
	} {
		for _, delivered := range []int{0, 3} {
			t.Run(fmt.Sprintf("%s, %d delivered", name, delivered), func(t *testing.T) {
				b := newTestBroker(t)
				b.publish(5)
				c := jetstream.ConsumerConfig{
					Durable: "eds-1", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: policy,
					FilterSubject: "dbchange.*.*.c1.*.PUBLIC.>",
				}
				switch policy {
				case jetstream.DeliverByStartSequencePolicy:
					c.OptStartSeq = 6
				case jetstream.DeliverByStartTimePolicy:
					now := time.Now()
					c.OptStartTime = &now
				}
				consumer, err := b.stream().CreateConsumer(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				b.publish(5)
				if delivered > 0 {
					batch, err := consumer.Fetch(delivered)
					if err != nil {
						t.Fatal(err)
					}
					for range batch.Messages() { // do not acknowledge any message
					}
				}
				want := uint64(6)
				if policy == jetstream.DeliverAllPolicy {
					want = 1
				}
				if got := read(t, open(t, b.config()), 1)[0].Position.Sequence; got != want {
					t.Errorf("message %d came first, want %d", got, want)
				}
			})
		}
	}
}

// TestOpen_RecordsTheBeginning checks that Open replaces an earlier record.
func TestOpen_RecordsTheBeginning(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	j := recordStore{last: continuity.Record{Settled: cdc.Position{Sequence: 2, Stored: 1}}}
	c := b.config()
	c.Record, c.Plan = j.record, continuity.Plan{Start: continuity.Start{From: continuity.FromBeginning}, Forget: true}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	closeSource(t, s)
	if diff := cmp.Diff(continuity.Record{}, j.last); diff != "" {
		t.Error(diff)
	}
}
