package jetstream

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// gapOf returns the gap in err.
func gapOf(t *testing.T, err error) continuity.GapError {
	t.Helper()
	var gap *continuity.GapError
	if !errors.As(err, &gap) || fault.Of(err) != fault.Fatal {
		t.Fatalf("%v is no gap", err)
	}
	return *gap
}

func TestLane_TrimmedAtOpen(t *testing.T) {
	for _, c := range []struct {
		name  string
		after uint64
		first uint64
		gap   bool
	}{
		{"the next message is there", 5, 6, false},
		{"the next message is gone", 4, 6, true},
		{"all are there", 0, 1, false},
		{"the stream is empty and nothing is missing", 10, 11, false},
		{"the stream is empty", 9, 11, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newTestBroker(t)
			b.publishAs("c2", 10) // messages of another company; no server reports whose messages are gone
			if c.first > 1 {
				b.purge(c.first)
			}
			config := b.laneConfig()
			config.After = c.after
			l, err := OpenLane(t.Context(), config)
			if !c.gap {
				if err != nil {
					t.Fatal(err)
				}
				closeLane(t, l)
				return
			}
			want := continuity.GapError{Tables: []string{"order"}, After: c.after, First: c.first}
			if diff := cmp.Diff(want, gapOf(t, err)); diff != "" {
				t.Error(diff)
			}
			if n := b.consumers(); n != 0 {
				t.Errorf("%d consumers are left", n)
			}
		})
	}
}

// receiveGap receives until the lane fails.
func receiveGap(t *testing.T, l *Lane) continuity.GapError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, err := l.Receive(ctx); err != nil {
			gap := gapOf(t, err)
			if _, reason := l.Health(); reason == nil || reason.Error() != err.Error() {
				t.Errorf("health: %v", reason)
			}
			return gap
		}
	}
}

func TestLane_TrimmedWhileItReads(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	l := openLane(t, quiet(b.laneConfig()))
	l.source.limits.messages = 10 // maximum per pull
	got := read(t, l, 1)
	eventually(t, "the pull is filled", func() bool { return b.deliveries(l).NumWaiting == 0 })
	sent := b.deliveries(l).Delivered.Stream
	checkStream(t, l.source)
	b.purge(90)
	checkStream(t, l.source)
	gap := receiveGap(t, l)
	want := continuity.GapError{Tables: []string{"order"}, After: sent, First: 90, Since: gap.Since}
	if diff := cmp.Diff(want, gap); diff != "" || gap.Since.Before(time.Unix(0, got[0].Position.Stored)) {
		t.Error(diff, gap.Since)
	}
	if _, _, err := l.Delivered(t.Context()); err == nil {
		t.Error("Delivered reports no gap")
	}
}

// TestLane_TrimmedWhereItHasRead expects a gap, because the lane cannot know whether a message was
// sent before it was dropped.
func TestLane_TrimmedWhereItHasRead(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	l := openLane(t, quiet(b.laneConfig()))
	l.source.limits.messages = 10
	read(t, l, 1)
	checkStream(t, l.source)
	read(t, l, 60)
	b.purge(40)
	checkStream(t, l.source)
	gap := receiveGap(t, l)
	want := continuity.GapError{Tables: []string{"order"}, After: gap.After, First: 40, Since: gap.Since}
	if diff := cmp.Diff(want, gap); diff != "" || gap.After < 1 || gap.After > 20 {
		t.Error(diff, gap.After)
	}
}

// TestLane_IgnoresMessagesTrimmedAfterReading reads a stream that repeatedly drops the messages
// that the lane had read by the previous look.
func TestLane_IgnoresMessagesTrimmedAfterReading(t *testing.T) {
	b := newTestBroker(t)
	b.publish(200)
	l := openLane(t, quiet(b.laneConfig()))
	l.source.limits.messages = 10
	got := read(t, l, 1)
	for range 8 {
		checkStream(t, l.source)
		trim := got[len(got)-1].Position.Sequence
		got = append(got, read(t, l, 15)...)
		b.purge(trim + 1)
		checkStream(t, l.source)
	}
	got = append(got, read(t, l, 200-len(got))...)
	want := make([]uint64, 200)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	if diff := cmp.Diff(want, sequences(got)); diff != "" {
		t.Error(diff)
	}
}

func TestLane_TrimmedWhileItIsAway(t *testing.T) {
	b := newTestBroker(t)
	b.publish(100)
	l := openLane(t, quiet(b.laneConfig()))
	l.source.limits.messages = 10
	read(t, l, 1)
	eventually(t, "the pull is filled", func() bool { return b.deliveries(l).NumWaiting == 0 })
	b.deleteConsumerOf(l.source.c.Name)
	b.purge(90)
	gap := receiveGap(t, l)
	want := continuity.GapError{Tables: []string{"order"}, After: gap.After, First: 90, Since: gap.Since}
	if diff := cmp.Diff(want, gap); diff != "" || gap.After > 20 {
		t.Error(diff, gap.After)
	}
}

func TestRetention_IsTheOldestMessageOfTheStream(t *testing.T) {
	b := newTestBroker(t)
	l, s := openLane(t, b.laneConfig()), open(t, b.config())
	check := func(wantOldest time.Time, wantFirst uint64) {
		t.Helper()
		for _, retention := range []func(context.Context) (time.Time, uint64, error){l.Retention, s.Retention} {
			oldest, first, err := retention(t.Context())
			if !oldest.Equal(wantOldest) || first != wantFirst || err != nil {
				t.Errorf("oldest %v, first %d, %v; want %v, %d", oldest, first, err, wantOldest, wantFirst)
			}
		}
	}
	check(time.Time{}, 1)
	b.publishAs("c2", 5)
	b.purge(4)
	m, err := b.stream().GetMsg(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	check(m.Time, 4)
	b.purge(6)
	check(time.Time{}, 6)
}
