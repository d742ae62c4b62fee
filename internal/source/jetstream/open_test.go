package jetstream

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/fault"
)

func TestWhereReadingBegins(t *testing.T) {
	snapshot := time.Unix(1000, 0)
	after := func(n uint64) *origin {
		return &origin{policy: jetstream.DeliverByStartSequencePolicy, sequence: n + 1}
	}
	all := &origin{policy: jetstream.DeliverAllPolicy}
	atSnapshot := &origin{policy: jetstream.DeliverByStartTimePolicy, time: &snapshot}
	existing := func(floor uint64) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{AckFloor: jetstream.SequenceInfo{Stream: floor}}
	}
	recorded := func(settled, scanned uint64) Recorded { return Recorded{at(settled), scanned} }
	full := bounds{first: 1, last: 1000}
	cut := bounds{first: 500, last: 1000}
	for name, c := range map[string]struct {
		config Config
		info   *jetstream.ConsumerInfo
		bounds bounds
		want   decision
	}{
		"a first start, of a snapshot":    {Config{Start: Start{From: FromTime, Time: snapshot}}, nil, full, decision{make: atSnapshot}},
		"a first start, of the beginning": {Config{Start: Start{From: FromBeginning}}, nil, cut, decision{make: all}},
		"a first start, of now":           {Config{}, nil, full, decision{make: &origin{policy: jetstream.DeliverNewPolicy}, note: "x"}},
		"a snapshot older than the stream": {
			Config{Start: Start{From: FromTime, Time: snapshot}},
			nil,
			bounds{first: 500, last: 1000, atStart: 500},
			decision{make: atSnapshot, gap: &GapError{First: 500, Since: snapshot}},
		},
		"a snapshot as old as the stream": {
			Config{Start: Start{From: FromTime, Time: snapshot}}, nil, bounds{first: 1, last: 1000, atStart: 1}, decision{make: atSnapshot},
		},
		"a snapshot, and a stream that is empty now": {
			Config{Start: Start{From: FromTime, Time: snapshot}}, nil, bounds{first: 1001, last: 1000, atStart: 1001}, decision{make: atSnapshot},
		},
		"start anew": {Config{Start: Start{From: FromBeginning, Anew: true}, Recorded: recorded(700, 0), Checkpoint: at(700)}, existing(700), full, decision{make: all}},

		"the consumer as it was left":       {Config{Recorded: recorded(700, 710), Checkpoint: at(700)}, existing(712), full, decision{reached: 710}},
		"acknowledgements were lost":        {Config{Recorded: recorded(700, 0), Checkpoint: at(700)}, existing(650), full, decision{reached: 700}},
		"a record that lags":                {Config{Recorded: recorded(600, 610), Checkpoint: at(700)}, existing(700), full, decision{reached: 700}},
		"no checkpoint":                     {Config{Recorded: recorded(700, 0)}, existing(700), full, decision{reached: 700}},
		"another program's consumer":        {Config{}, existing(300), full, decision{}},
		"no record, a consumer in step":     {Config{Checkpoint: at(700)}, existing(650), full, decision{reached: 700}},
		"no record, a consumer ahead":       {Config{Checkpoint: at(700)}, existing(800), full, decision{make: after(700), reached: 700, note: "x"}},
		"no record, a checkpoint long past": {Config{Checkpoint: at(100)}, existing(800), cut, decision{make: after(100), reached: 499, note: "x"}},

		"the stream dropped what was not read": {
			Config{Recorded: recorded(300, 310), Checkpoint: at(300)},
			existing(499), cut,
			decision{reached: 310, gap: &GapError{After: 310, First: 500, Since: when(300)}},
		},
		"the stream dropped only what was of others": {Config{Recorded: recorded(300, 499), Checkpoint: at(300)}, existing(499), cut, decision{reached: 499}},
		"the destination was put back":               {Config{Recorded: recorded(700, 720), Checkpoint: at(600)}, existing(700), full, decision{make: after(600), note: "x"}},
		"the destination was put back too far": {
			Config{Recorded: recorded(700, 720), Checkpoint: at(300)},
			existing(700), cut,
			decision{make: after(300), note: "x", gap: &GapError{After: 300, First: 500, Since: when(300)}},
		},
		"the subscription was lost":                   {Config{Recorded: recorded(700, 0), Start: Start{From: FromBeginning}}, nil, full, decision{make: after(700), note: "x"}},
		"the subscription was lost, and a checkpoint": {Config{Checkpoint: at(700)}, nil, full, decision{make: after(700), note: "x"}},
		"the subscription was lost, and messages": {
			Config{Recorded: recorded(300, 0)}, nil, cut, decision{make: after(300), note: "x", gap: &GapError{After: 300, First: 500, Since: when(300)}},
		},
		"the stream was made anew": {
			Config{Recorded: recorded(5000, 0), Checkpoint: at(5000)},
			nil, full,
			decision{make: all, gap: &GapError{After: 5000, First: 1, Since: when(5000), Remade: true}},
		},
		"the stream does not tell": {Config{Recorded: recorded(700, 0)}, existing(700), unbounded, decision{reached: 700}},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.config.decide(c.info, c.bounds)
			if (got.note != "") != (c.want.note != "") {
				t.Errorf("note %q", got.note)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(decision{}, origin{}), cmpopts.IgnoreFields(decision{}, "note")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// journal keeps what a source records.
type journal struct{ last Recorded }

func (j *journal) record(r Recorded) error {
	j.last = r
	return nil
}

func TestALostSubscriptionGoesOnWhereItEnded(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	var j journal
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	settle(t, s, read(t, s, 10)[6])
	closeSource(t, s)
	if err := b.stream().DeleteConsumer(t.Context(), "eds-1"); err != nil {
		t.Fatal(err)
	}
	c.Recorded = j.last
	s = open(t, c)
	if diff := cmp.Diff([]uint64{8, 9, 10}, sequences(read(t, s, 3))); diff != "" {
		t.Error(diff)
	}
}

func TestALostSubscriptionWhoseMessagesAreGoneIsAGap(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	var j journal
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	settled := read(t, s, 10)[4]
	settle(t, s, settled)
	closeSource(t, s)
	stream := b.stream()
	if err := stream.DeleteConsumer(t.Context(), "eds-1"); err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(9)); err != nil {
		t.Fatal(err)
	}
	c.Recorded = j.last
	for range 2 { // asking again gives the same answer
		_, err := Open(t.Context(), c)
		var gap *GapError
		if !errors.As(err, &gap) || fault.Of(err) != fault.Fatal {
			t.Fatalf("Open: %v", err)
		}
		want := &GapError{After: 5, First: 9, Since: time.Unix(0, settled.Position.Stored)}
		if diff := cmp.Diff(want, gap); diff != "" {
			t.Error(diff)
		}
	}
	c.Accept = true
	if diff := cmp.Diff([]uint64{9, 10}, sequences(read(t, open(t, c), 2))); diff != "" {
		t.Error(diff)
	}
}

func TestAStreamThatWasMadeAnewIsAGap(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	var j journal
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	settle(t, s, read(t, s, 10)[9])
	closeSource(t, s)
	if err := b.js().DeleteStream(t.Context(), "dbchange"); err != nil {
		t.Fatal(err)
	}
	b.createStream(jetstream.StreamConfig{})
	b.publish(3)
	c.Recorded = j.last
	_, err := Open(t.Context(), c)
	var gap *GapError
	if !errors.As(err, &gap) || !gap.Remade {
		t.Fatalf("Open: %v", err)
	}
	c.Accept = true
	s = open(t, c)
	got := read(t, s, 3)
	if diff := cmp.Diff([]uint64{1, 2, 3}, sequences(got)); diff != "" {
		t.Error(diff)
	}
	settle(t, s, got[2])
	if j.last.Settled != got[2].Position {
		t.Errorf("recorded %+v, settled %+v", j.last, got[2].Position)
	}
}

func TestAConsumerThatIsDeletedMeanwhileIsMadeAgain(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	s := open(t, b.config())
	got := read(t, s, 10)
	settle(t, s, got[3])
	if err := b.stream().DeleteConsumer(t.Context(), "eds-1"); err != nil {
		t.Fatal(err)
	}
	b.publish(5)
	if diff := cmp.Diff([]uint64{11, 12, 13, 14, 15}, sequences(read(t, s, 5))); diff != "" {
		t.Error(diff)
	}
	if err := s.Settle(t.Context(), at(15)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything is acknowledged", func() bool { return b.info().AckFloor.Stream == 15 })
}

func TestMessagesThatTheStreamDropsMeanwhileAreAGap(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	s := open(t, b.config())
	read(t, s, 10)
	s.drop() // as while the destination is down for days
	b.publish(10)
	if err := b.stream().Purge(t.Context(), jetstream.WithPurgeSequence(15)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Receive(t.Context())
	var gap *GapError
	if !errors.As(err, &gap) || gap.After != 10 || gap.First != 15 {
		t.Errorf("Receive: %v", err)
	}
}

func TestTheDestinationsCheckpointWins(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	var j journal
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	got := read(t, s, 10)
	settle(t, s, got[9])
	closeSource(t, s)
	c.Recorded, c.Checkpoint = j.last, got[3].Position // a backup was put back
	if diff := cmp.Diff([]uint64{5, 6, 7, 8, 9, 10}, sequences(read(t, open(t, c), 6))); diff != "" {
		t.Error(diff)
	}
}

func TestOthersMessagesMoveTheRecordOn(t *testing.T) {
	b := newBroker(t)
	b.publish(1)
	var j journal
	c := b.config()
	c.Record = j.record
	s := open(t, c)
	settle(t, s, read(t, s, 1)[0])
	b.publishAs("c2", 50)
	// A heartbeat tells that these were looked at.
	s.subscription.scanned("51")
	closeSource(t, s)
	if err := b.stream().Purge(t.Context(), jetstream.WithPurgeSequence(52)); err != nil {
		t.Fatal(err)
	}
	c.Recorded = j.last
	s = open(t, c)
	b.publish(1)
	if diff := cmp.Diff([]uint64{52}, sequences(read(t, s, 1))); diff != "" {
		t.Error(diff)
	}
}

func TestTheRecordIsNeverBehindTheAcknowledgements(t *testing.T) {
	b := newBroker(t)
	b.publish(10)
	c := b.config()
	refused := errors.New("disk full")
	fail := false
	c.Record = func(Recorded) error {
		if fail {
			return refused
		}
		return nil
	}
	s := open(t, c)
	got := read(t, s, 10)
	fail = true
	if err := s.Settle(t.Context(), got[4].Position); !errors.Is(err, refused) || fault.Of(err) != fault.Transient {
		t.Fatalf("Settle: %v", err)
	}
	if err := c.Conn.FlushTimeout(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if n := b.info().NumAckPending; n != 10 {
		t.Errorf("%d messages wait for their acknowledgement", n)
	}
	fail = false
	settle(t, s, got[4])
	eventually(t, "five are acknowledged", func() bool { return b.info().AckFloor.Stream == 5 })
}

func TestHeartbeatsTellHowFarTheServerHasLooked(t *testing.T) {
	b := newBroker(t)
	b.publish(1)
	var j journal
	c := b.config()
	c.Record, c.tuning.heartbeat = j.record, 100*time.Millisecond
	s := open(t, c)
	settle(t, s, read(t, s, 1)[0])
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

func TestASilentServerIsLeftForANewSubscription(t *testing.T) {
	b := newBroker(t)
	b.publish(1)
	c := b.config()
	c.tuning.heartbeat = 100 * time.Millisecond
	s := open(t, c)
	read(t, s, 1)
	inbox := s.subscription.inbox
	if err := s.subscription.sub.Unsubscribe(); err != nil { // its answers go to nobody
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
