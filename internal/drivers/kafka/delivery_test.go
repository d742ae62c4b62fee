package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	independent "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// ids returns the ids of the changes in a topic, by row.
func ids(t testing.TB, messages []independent.Message) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for _, m := range messages {
		row := header(m, "eds-partitionkey")
		all[row] = append(all[row], string(m.Key[strings.LastIndexByte(string(m.Key), '.')+1:]))
	}
	return all
}

// wantOnce checks that a topic holds each of the numbered events from first to last exactly once.
// The events of a row must be in order.
func wantOnce(t testing.TB, broker, topic string, first, last int) {
	t.Helper()
	wantRows(t, ids(t, consume(t, broker, topic)), first, last)
}

// wantAll is like wantOnce, but permits duplicates.
func wantAll(t testing.TB, broker, topic string, first, last int) {
	t.Helper()
	got := ids(t, consume(t, broker, topic))
	for row, all := range got {
		seen := make(map[string]bool)
		got[row] = slices.DeleteFunc(all, func(id string) bool {
			again := seen[id]
			seen[id] = true
			return again
		})
	}
	wantRows(t, got, first, last)
}

func wantRows(t testing.TB, got map[string][]string, first, last int) {
	t.Helper()
	want := make(map[string][]string)
	for n := first; n <= last; n++ {
		row := fmt.Sprintf("order.c.NONE.k%d", n%3)
		want[row] = append(want[row], fmt.Sprintf("ev%d", n))
	}
	for row := range want {
		if !slices.Equal(got[row], want[row]) {
			t.Errorf("row %s has %v, want %v", row, got[row], want[row])
		}
	}
	if len(got) != len(want) {
		t.Errorf("there are %d rows, want %d", len(got), len(want))
	}
}

// TestApply_RetriesTransientBrokerErrors makes brokers answer produce requests with each transient
// error, while batches of many requests are being sent.
func TestApply_RetriesTransientBrokerErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.RequestTimedOut, kerr.NotEnoughReplicas,
		kerr.NotEnoughReplicasAfterAppend,
		kerr.KafkaStorageError, kerr.NetworkException, kerr.ThrottlingQuotaExceeded, kerr.OutOfOrderSequenceNumber,
		kerr.UnknownTopicOrPartition, kerr.FencedLeaderEpoch,
	} {
		t.Run(err.Message, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t, kfake.NumBrokers(3))
			raw := newTopic(t, cluster, "topic", 4)
			s := mustOpen(t, raw)
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
			cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: 3})
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 31, 60))
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 61, 90))
			wantOnce(t, cluster.ListenAddrs()[0], "topic", 1, 90)
		})
	}
}

// TestApply_LosesNothingInALongOutage retries a batch during an outage, as the pipeline does. The
// connection breaks before a request, within a request, or after a request whose response is lost.
func TestApply_LosesNothingInALongOutage(t *testing.T) {
	t.Parallel()
	for _, mode := range []sinktest.Mode{sinktest.Lost, sinktest.Answered} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			cluster, proxy := faultyCluster(t)
			raw := newTopic(t, cluster, "topic", 4)
			s := mustOpen(t, raw+"?timeout=300ms")
			sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
			for round := range 3 {
				b := sinktest.NumberedBatch(t, 31+30*round, 60+30*round)
				proxy.Break(20*round, mode)
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
			wantAll(t, cluster.ListenAddrs()[0], "topic", 1, 120)
		})
	}
}

// TestApply_ResendsPartsOfASentBatch checks a retry that splits the batch differently after an
// outage.
func TestApply_ResendsPartsOfASentBatch(t *testing.T) {
	t.Parallel()
	cluster, proxy := faultyCluster(t)
	raw := newTopic(t, cluster, "topic", 1)
	s := mustOpen(t, raw+"?timeout=300ms")
	proxy.Break(0, sinktest.Lost)
	if err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 1, 6)); err == nil {
		t.Fatal("a batch was applied during the outage")
	}
	proxy.Repair()
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 1, 3))
	sinktest.ApplyWithin(t, 20, s, sinktest.NumberedBatch(t, 4, 6))
	wantOnce(t, cluster.ListenAddrs()[0], "topic", 1, 6)
}

func TestApply_EndsWhenCancelledAndWithdrawsNothing(t *testing.T) {
	t.Parallel()
	cluster, proxy := faultyCluster(t)
	raw := newTopic(t, cluster, "topic", 1)
	s := mustOpen(t, raw+"?timeout=1h")
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	proxy.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Apply(ctx, sinktest.NumberedBatch(t, 4, 6)); !errors.Is(err, context.DeadlineExceeded) || fault.Of(err) != fault.Transient {
		t.Fatalf("got %v", err)
	}
	proxy.Repair()
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 4, 6))
	wantOnce(t, cluster.ListenAddrs()[0], "topic", 1, 6)
}

func TestApply_RejectsAnOversizedMessageAndSendsTheRest(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	if err := cluster.CreateTopic("small", 1, map[string]string{"max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, "kafka://"+cluster.ListenAddrs()[0]+"/small")
	large := sinktest.Event(t, 2, fmt.Sprintf(`{"operation":"INSERT","id":"ev2","table":"order","key":["k2"],"companyId":"c",`+
		`"after":{"id":"k2","x":%q},"mvccTimestamp":"1"}`, strings.Repeat("SECRET", 500)))
	err := s.Apply(t.Context(), sinktest.Batch(sinktest.Numbered(t, 1), large, sinktest.Numbered(t, 3)))
	if fault.Of(err) != fault.Poison || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), `"small"`) {
		t.Errorf("got %v: %v", fault.Of(err), err)
	}
	if stored := consume(t, cluster.ListenAddrs()[0], "small"); len(stored) != 0 {
		t.Errorf("%d messages of the batch were sent", len(stored))
	}
	sinktest.Apply(t, s, sinktest.Batch(sinktest.Numbered(t, 1)))
	if err := s.Apply(t.Context(), sinktest.Batch(large)); fault.Of(err) != fault.Poison {
		t.Errorf("alone %v: %v", fault.Of(err), err)
	}
	sinktest.Apply(t, s, sinktest.Batch(sinktest.Numbered(t, 3)))
	if got := len(consume(t, cluster.ListenAddrs()[0], "small")); got != 2 {
		t.Errorf("there are %d messages, want 2", got)
	}
}

// TestApply_SplitsABatchByTheTopicsLimit sends more messages than a single request can hold.
func TestApply_SplitsABatchByTheTopicsLimit(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	if err := cluster.CreateTopic("small", 2, map[string]string{"max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, "kafka://"+cluster.ListenAddrs()[0]+"/small?compress=none")
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 300))
	wantOnce(t, cluster.ListenAddrs()[0], "small", 1, 300)
}

// TestApply_ClassifiesBrokerErrors makes brokers answer produce requests with permanent errors.
func TestApply_ClassifiesBrokerErrors(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "topic", 1)
	for err, want := range map[*kerr.Error]fault.Class{
		kerr.TopicAuthorizationFailed: fault.Transient, kerr.ClusterAuthorizationFailed: fault.Transient,
		kerr.InvalidTopicException:       fault.Fatal,
		kerr.UnsupportedForMessageFormat: fault.Fatal, kerr.UnsupportedCompressionType: fault.Fatal, kerr.InvalidRequiredAcks: fault.Fatal,
		kerr.MessageTooLarge: fault.Poison, kerr.RecordListTooLarge: fault.Poison, kerr.InvalidRecord: fault.Poison,
		kerr.UnknownServerError: fault.Transient,
	} {
		s := mustOpen(t, raw)
		handle := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: -1})
		got := s.Apply(t.Context(), sinktest.NumberedBatch(t, 1, 3))
		handle.Remove()
		if got == nil || fault.Of(got) != want || !strings.Contains(got.Error(), err.Message) {
			t.Errorf("%s is %v: %v", err.Message, fault.Of(got), got)
		}
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	}
}

// TestTransaction_IsAtomic breaks the connection while a batch is being sent, and reads the topic
// as a read-committed consumer.
func TestTransaction_IsAtomic(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "topic", 4)
	s := mustOpen(t, raw+"?transactional=true&timeout=5s")
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 30))
	// One partition has stored its part of the second batch when another partition fails.
	rows := ids(t, consume(t, cluster.ListenAddrs()[0], "topic"))
	partitions := make(map[int]bool)
	for _, m := range consume(t, cluster.ListenAddrs()[0], "topic") {
		partitions[m.Partition] = true
	}
	if len(rows) != 3 || len(partitions) < 2 {
		t.Fatalf("%d rows in %d partitions are no test", len(rows), len(partitions))
	}
	broken := -1
	for p := range partitions {
		broken = max(broken, p)
	}
	handle := cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: "topic", Partitions: []int32{int32(broken)},
		Err: kerr.InvalidRecord, Count: -1,
	})
	if err := s.Apply(t.Context(), sinktest.NumberedBatch(t, 31, 60)); fault.Of(err) != fault.Poison {
		t.Fatalf("got %v", err)
	}
	handle.Remove()
	if got := committed(t, cluster, "topic"); len(got) != 30 {
		t.Errorf("consumers see %d messages, want the 30 of the first batch", len(got))
	}
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 31, 60))
	got := committed(t, cluster, "topic")
	seen := make(map[string]bool)
	for _, key := range got {
		seen[key] = true
	}
	if len(got) != 60 || len(seen) != 60 {
		t.Errorf("consumers see %d messages, %d of them different, want 60", len(got), len(seen))
	}
}

// committed returns the keys in a topic that a read-committed consumer sees.
func committed(t testing.TB, cluster *kfake.Cluster, topic string) []string {
	t.Helper()
	var keys []string
	for _, r := range consumeCommitted(t, cluster.ListenAddrs()[0], topic) {
		keys = append(keys, string(r.Key))
	}
	return keys
}

// TestTransaction_OfAKilledServerIsAborted checks that the open transaction of a killed server does
// not block consumers.
func TestTransaction_OfAKilledServerIsAborted(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "topic", 2) + "?transactional=true"
	killed := mustOpen(t, raw)
	session, err := killed.current()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	records, err := killed.records(sinktest.NumberedBatch(t, 1, 6).Events)
	if err != nil {
		t.Fatal(err)
	}
	session.inFlight = session.produce(t.Context(), records)
	if err := session.await(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, raw)
	sinktest.Apply(t, again, sinktest.NumberedBatch(t, 1, 6))
	if got := committed(t, cluster, "topic"); len(got) != 6 {
		t.Errorf("consumers see %d messages, want 6", len(got))
	}
	// The older server is still alive, but must not be able to commit.
	if err := session.client.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("the older server committed in the newer one's place")
	}
}
