package eventhub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

func TestApply_StoresEventsOnceInRowOrder(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	s := mustOpen(t, urlTo(hub, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 31, 90))
	wantOnce(t, hub, 1, 90)
	if c := hub.Counts(t); c.Transfers != 6 {
		t.Errorf("two batches of three rows are %d messages, want 6", c.Transfers)
	}
}

// TestApply_ResendsOnlyTheRefusedMessage throttles the namespace while a batch is being sent.
func TestApply_ResendsOnlyTheRefusedMessage(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	s := mustOpen(t, urlTo(hub, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	for _, after := range []int{0, 1, 2} {
		before := hub.Counts(t)
		first := 31 + 30*after
		hub.Fail(t, peer.Fault{
			Kind: "reject", Condition: "com.microsoft:server-busy", Description: "SECRET TrackingId:xyz_G1",
			After: after, Times: 1,
		})
		err := s.Apply(t.Context(), sinktest.NumberedBatch(t, first, first+29))
		if fault.Of(err) != fault.Transient || fault.RetryAfter(err) != busyPause ||
			!strings.Contains(err.Error(), "server-busy, TrackingId:xyz_G1") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("throttled: %v, after %v: %v", fault.Of(err), fault.RetryAfter(err), err)
		}
		// A caller may retry a part of the batch first, and the remaining events afterwards.
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, first, first+10))
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, first+11, first+29))
		if after := hub.Counts(t); after.Links != before.Links {
			t.Errorf("%d links were opened", after.Links-before.Links)
		}
	}
	wantOnce(t, hub, 1, 120)
}

// TestApply_ReattachesDetachedLinks detaches links, as the service does if it moves a hub or a
// token has expired.
func TestApply_ReattachesDetachedLinks(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	s := mustOpen(t, urlTo(hub, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	for i, condition := range []string{
		"amqp:link:detach-forced", "amqp:unauthorized-access", "com.microsoft:timeout",
		"amqp:internal-error",
	} {
		before := hub.Counts(t)
		hub.Fail(t, peer.Fault{Kind: "detach", Condition: condition, After: 1, Times: 1})
		sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 31+30*i, 60+30*i))
		if after := hub.Counts(t); after.Links == before.Links || after.Claims == before.Claims {
			t.Errorf("%s: there were %d new links and %d new tokens", condition, after.Links-before.Links, after.Claims-before.Claims)
		}
	}
	before := hub.Counts(t)
	hub.Expire(t)
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 151, 180))
	if after := hub.Counts(t); after.Claims == before.Claims {
		t.Error("no new token was sent")
	}
	wantInOrder(t, hub, 1, 180)
}

func TestApply_ReopensLostConnections(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	s := mustOpen(t, urlTo(hub, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	for i, f := range []peer.Fault{
		{Kind: "close", Condition: "amqp:connection:forced"},
		{Kind: "cut"},
		{Kind: "cut", After: 2},
		{Kind: "lose"},
		{Kind: "lose", After: 1},
		{Kind: "lose", After: 2},
	} {
		f.Times = 1
		hub.Fail(t, f)
		err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 31+30*i, 60+30*i))
		if err != nil && fault.Of(err) != fault.Transient {
			t.Errorf("%+v: %v: %v", f, fault.Of(err), err)
		}
		if hub.Counts(t).Faulty {
			t.Fatalf("%+v did not happen", f)
		}
		if err != nil {
			sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 31+30*i, 60+30*i))
		}
	}
	wantInOrder(t, hub, 1, 210)
}

// TestApply_LosesNothingInALongOutage retries a batch during an outage, as the pipeline does.
func TestApply_LosesNothingInALongOutage(t *testing.T) {
	for _, mode := range []sinktest.Mode{sinktest.Lost, sinktest.Answered} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			hub := newHub(t, peer.Settings{})
			proxy := sinktest.NewProxy(t, namespace.Addr)
			s := mustOpen(t, urlAt(proxy.Addr(), hub.Name, ""))
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
			for round := range 3 {
				b := sinktest.NumberedBatch(t, 31+30*round, 60+30*round)
				proxy.Break(8*round, mode)
				for range 5 {
					err := s.Apply(t.Context(), b)
					if err == nil {
						t.Fatal("a batch was applied during the outage")
					}
					if fault.Of(err) != fault.Transient {
						t.Fatalf("the error is %v: %v", fault.Of(err), err)
					}
				}
				proxy.Repair()
				sinktest.ApplyWithin(t, 20, s, b)
			}
			wantInOrder(t, hub, 1, 120)
		})
	}
}

// TestApply_GivesUpOnASilentNamespace first leaves one message unanswered. Then it stalls the whole
// connection.
func TestApply_GivesUpOnASilentNamespace(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	proxy := sinktest.NewProxy(t, namespace.Addr)
	s := mustOpen(t, urlAt(proxy.Addr(), hub.Name, "?timeout=2s"))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	hub.Fail(t, peer.Fault{Kind: "silent", After: 1, Times: 1})
	if err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)); !errors.Is(err, errSilent) || fault.Of(err) != fault.Transient {
		t.Errorf("one unanswered message: %v: %v", fault.Of(err), err)
	}
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 4, 6))
	proxy.Stall()
	if err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 7, 9)); !errors.Is(err, errSilent) || fault.Of(err) != fault.Transient {
		t.Errorf("a stalled connection: %v: %v", fault.Of(err), err)
	}
	proxy.Repair()
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 7, 9))
	wantInOrder(t, hub, 1, 9)
}

func TestApply_EndsWhenCancelled(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	proxy := sinktest.NewProxy(t, namespace.Addr)
	s := mustOpen(t, urlAt(proxy.Addr(), hub.Name, "?timeout=1h"))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	proxy.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Apply(ctx, sinktest.NumberedBatch(t, 4, 6)); !errors.Is(err, context.DeadlineExceeded) || fault.Of(err) != fault.Transient {
		t.Fatalf("got %v", err)
	}
	proxy.Repair()
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 4, 6))
	wantInOrder(t, hub, 1, 6)
}

// TestApply_RejectsAnOversizedEventAndSendsTheRest also checks that no other event is stored twice.
func TestApply_RejectsAnOversizedEventAndSendsTheRest(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{Max: 4000})
	s := mustOpen(t, urlTo(hub, ""))
	large := sinktest.Event(t, 2, fmt.Sprintf(`{"operation":"INSERT","id":"ev2","table":"order","key":["k2"],"companyId":"c",`+
		`"after":{"id":"k2","x":%q},"mvccTimestamp":"1"}`, strings.Repeat("SECRET", 800)))
	err := s.Apply(t.Context(), sinktest.Batch(sinktest.Numbered(t, 1), large, sinktest.Numbered(t, 3)))
	if fault.Of(err) != fault.Poison || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), hub.Name) {
		t.Errorf("got %v: %v", fault.Of(err), err)
	}
	sinktest.Apply(t, s, sinktest.Batch(sinktest.Numbered(t, 1)))
	if err := s.Apply(t.Context(), sinktest.Batch(large)); fault.Of(err) != fault.Poison {
		t.Errorf("alone %v: %v", fault.Of(err), err)
	}
	sinktest.Apply(t, s, sinktest.Batch(sinktest.Numbered(t, 3)))
	if got := len(hub.Stored(t)); got != 2 {
		t.Errorf("there are %d events, want 2", got)
	}
	// A size limit that only the service knows has the same class.
	hub.Fail(t, peer.Fault{Kind: "reject", Condition: "amqp:link:message-size-exceeded", Times: 1})
	if err := s.Apply(t.Context(), sinktest.Batch(sinktest.Numbered(t, 4))); fault.Of(err) != fault.Poison {
		t.Errorf("refused: %v: %v", fault.Of(err), err)
	}
}

// TestApply_SplitsEventsOfARowIntoMessages sends more events than one message can hold.
func TestApply_SplitsEventsOfARowIntoMessages(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{Max: 4000})
	s := mustOpen(t, urlTo(hub, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 300))
	wantOnce(t, hub, 1, 300)
	most := 0
	for _, e := range hub.Stored(t) {
		most = max(most, e.Events)
	}
	if most < 2 || most > 20 {
		t.Errorf("a message has up to %d events", most)
	}
}

// TestApply_SendsOneMessagePerKeyAtATime sends many messages with three keys to a hub that answers
// only after it has received three messages.
func TestApply_SendsOneMessagePerKeyAtATime(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{Max: 4000})
	hub.Hold(t, 3)
	sinktest.Apply(t, mustOpen(t, urlTo(hub, "")), sinktest.NumberedBatch(t, 1, 300))
	wantOnce(t, hub, 1, 300)
	if most := hub.Counts(t).Most; most != 3 {
		t.Errorf("with three keys, %d messages were in flight at a time", most)
	}
	one := newHub(t, peer.Settings{Max: 4000})
	sinktest.Apply(t, mustOpen(t, urlTo(one, "?in-flight=1")), sinktest.NumberedBatch(t, 1, 60))
	wantOnce(t, one, 1, 60)
	if most := one.Counts(t).Most; most != 1 {
		t.Errorf("with in-flight=1, %d messages were in flight at a time", most)
	}
}

// TestApply_ClassifiesRejections rejects messages for permanent and for transient reasons.
func TestApply_ClassifiesRejections(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	s := mustOpen(t, urlTo(hub, ""))
	for condition, want := range map[string]fault.Class{
		"amqp:unauthorized-access": fault.Transient, "amqp:not-found": fault.Transient, "com.microsoft:entity-disabled": fault.Transient,
		"amqp:resource-deleted":        fault.Transient,
		"com.microsoft:argument-error": fault.Poison, "amqp:link:message-size-exceeded": fault.Poison,
		"com.microsoft:timeout": fault.Transient, "com.microsoft:operation-cancelled": fault.Transient,
		"amqp:resource-limit-exceeded": fault.Transient,
	} {
		hub.Fail(t, peer.Fault{Kind: "reject", Condition: condition, Description: "SECRET", Times: 1})
		err := s.Apply(t.Context(), sinktest.Batch(sinktest.Numbered(t, 1)))
		if err == nil || fault.Of(err) != want || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s is %v: %v", condition, fault.Of(err), err)
		}
		sinktest.Apply(t, s, sinktest.Batch(sinktest.Numbered(t, 1)))
	}
}

func TestApply_RoutesByHubTemplate(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"shop.order", "shop.a_2Fb"} {
		namespace.Make(t, name, peer.Settings{})
	}
	s := mustOpen(t, urlAt(namespace.Addr, "shop.{{.table}}", ""))
	odd := sinktest.Event(t, 5, `{"operation":"INSERT","id":"e5","table":"a/b","key":["1"],"after":{},"mvccTimestamp":"1"}`)
	sinktest.Apply(t, s, sinktest.Batch(sinktest.Numbered(t, 1), odd, sinktest.Numbered(t, 2)))
	for name, want := range map[string]int{"shop.order": 2, "shop.a_2Fb": 1} {
		if got := len(namespace.Hub(name).Stored(t)); got != want {
			t.Errorf("hub %s has %d events, want %d", name, got, want)
		}
	}
	lost := sinktest.Event(t, 6, `{"operation":"INSERT","id":"e6","table":"part","key":["1"],"after":{},"mvccTimestamp":"1"}`)
	if err := s.Apply(t.Context(), sinktest.Batch(lost)); fault.Of(err) != fault.Transient ||
		!strings.Contains(err.Error(), `hub "shop.part": the hub does not exist`) {
		t.Errorf("a table whose hub is missing: %v: %v", fault.Of(err), err)
	}
}

func TestApply_ReportsADeletedHub(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	s := mustOpen(t, urlTo(hub, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	hub.Remove(t)
	if err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 4, 6)); fault.Of(err) != fault.Transient ||
		!strings.Contains(err.Error(), "create it") {
		t.Errorf("a hub that was deleted: %v: %v", fault.Of(err), err)
	}
}
