package kafka

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	independent "github.com/segmentio/kafka-go"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/golden"
)

// story returns a sequence of changes of every kind.
func story(t testing.TB) []*cdc.Event {
	t.Helper()
	var events []*cdc.Event
	for i, payload := range []string{
		`{"operation":"INSERT","id":"e1","table":"order","key":["c1","o-1"],"modelVersion":"v7","companyId":"c1","locationId":"l1",` +
			`"after":{"id":"o-1","total":12345678901234567890,"price":1.50,"note":"it's \u0041 \"quote\""},"timestamp":1712345678901,` +
			`"mvccTimestamp":"1712345678901234567.0000000002"}`,
		`{"operation":"UPDATE","id":"e2","table":"order","key":["c1","o-1"],"modelVersion":"v7","companyId":"c1","locationId":null,` +
			`"before":{"id":"o-1","total":1},"after":{"id":"o-1", "total":2},"diff":["total"],"timestamp":1712345678902,` +
			`"mvccTimestamp":"1712345678902000000"}`,
		`{"operation":"UPDATE","id":"e3","table":"order","key":["c1","o-2"],"modelVersion":"v7","companyId":"c1","before":{"id":"o-1"},` +
			`"after":{"id":"o-2"},"diff":["id"],"timestamp":1712345678903,"mvccTimestamp":"1712345678903000000"}`,
		`{"operation":"DELETE","id":"e4","table":"order","key":["c1","o-\u0032"],"modelVersion":"v7","companyId":"c1",` +
			`"before":{"id":"o-2"},"timestamp":1712345678904,"mvccTimestamp":"1712345678904000000"}`,
		`{"operation":"DELETE","id":"e5","table":"part","key":[12],"timestamp":1712345678905,"mvccTimestamp":"1712345678905000000"}`,
		`{"operation":"INSERT","id":"e6","table":"part","after":{"id":"p\/1"},"timestamp":1712345678906,` +
			`"mvccTimestamp":"1712345678906000000","imported":true}`,
		"{\"operation\":\"INSERT\",\"id\":\"e7\",\"table\":\"part\",\"after\":{},\"key\":[\"b\xff\"],\"timestamp\":1712345678907," +
			"\"mvccTimestamp\":\"1712345678907000000\"}",
	} {
		events = append(events, sinktest.Event(t, i+1, payload))
	}
	return events
}

// show formats messages as text.
func show(messages []independent.Message) string {
	var b strings.Builder
	for _, m := range messages {
		value := "tombstone"
		if m.Value != nil {
			value = string(m.Value)
		}
		fmt.Fprintf(&b, "%s/%d %s\n", m.Topic, m.Partition, m.Key)
		for _, h := range m.Headers {
			fmt.Fprintf(&b, "    %s: %s\n", h.Key, h.Value)
		}
		fmt.Fprintf(&b, "    %s\n", value)
	}
	return b.String()
}

func TestApply_WritesGoldenMessages(t *testing.T) {
	cluster := newCluster(t)
	for name, query := range map[string]string{
		"eds": "", "rows": "?key=row", "flat": "?format=flat&headers=false", "debezium": "?format=debezium&headers=false&compress=none",
	} {
		raw := newTopic(t, cluster, name, 10)
		sinktest.Apply(t, mustOpen(t, raw+query), sinktest.Batch(story(t)...))
		golden.Compare(t, name+".txt", show(consume(t, parsed(t, raw).Host, name)))
	}
}

// TestApply_KeepsARowInItsPartition checks each message's partition against the definition of the
// protocol, for topics with different numbers of partitions.
func TestApply_KeepsARowInItsPartition(t *testing.T) {
	cluster := newCluster(t)
	for _, partitions := range []int{1, 7, 12} {
		name := fmt.Sprintf("of-%d", partitions)
		raw := newTopic(t, cluster, name, int32(partitions))
		s := mustOpen(t, raw)
		sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 50))
		messages := consume(t, parsed(t, raw).Host, name)
		if len(messages) != 50 {
			t.Errorf("there are %d messages, want 50", len(messages))
		}
		for _, m := range messages {
			key := header(m, "eds-partitionkey")
			hash := fnv.New32a()
			fmt.Fprintf(hash, "%016x", xxhash.Sum64String(key))
			if want := int(hash.Sum32() % uint32(partitions)); m.Partition != want || !strings.HasPrefix(key, "order.c.NONE.k") {
				t.Errorf("partition key %s: partition %d of %d, want %d", key, m.Partition, partitions, want)
			}
		}
	}
}

func header(m independent.Message, name string) string {
	i := slices.IndexFunc(m.Headers, func(h independent.Header) bool { return h.Key == name })
	if i < 0 {
		return ""
	}
	return string(m.Headers[i].Value)
}

// TestFlat_RefusesColumnsOfReservedNames checks that a row cannot forge the columns that describe
// its change. The other formats have no such columns.
func TestFlat_RefusesColumnsOfReservedNames(t *testing.T) {
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "reserved", 1)
	const row = `{"id":"1","%s":"x"}`
	for _, column := range []string{"_eds_op", "_EDS_Deleted", "\\u005feds_id"} {
		image := fmt.Sprintf(row, column)
		for _, payload := range []string{
			`{"operation":"UPDATE","id":"e","table":"order","key":["1"],"before":{"id":"1"},"after":` + image + `,"mvccTimestamp":"1"}`,
			`{"operation":"DELETE","id":"e","table":"order","key":["1"],"before":` + image + `,"mvccTimestamp":"1"}`,
		} {
			b := sinktest.Batch(sinktest.Event(t, 1, payload))
			err := mustOpen(t, raw+"?format=flat").Apply(t.Context(), b)
			if !errors.Is(err, schema.ErrReserved) || fault.Of(err) != fault.Poison {
				t.Errorf("%s: %v", column, err)
			}
			for _, format := range []string{"eds", "debezium"} {
				if err := mustOpen(t, raw+"?format="+format).Apply(t.Context(), b); err != nil {
					t.Errorf("%s as %s: %v", column, format, err)
				}
			}
		}
	}
}

func TestApply_ReplacesAndCountsInvalidUTF8(t *testing.T) {
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "bytes", 1)
	counted := env
	var seen []string
	counted.Adjusted = func(table, column, rule string) { seen = append(seen, table+" "+column+" "+rule) }
	s, err := tryOpen(t, raw, counted)
	if err != nil {
		t.Fatal(err)
	}
	sinktest.Apply(t, s, sinktest.Batch(story(t)...))
	if want := []string{"part  invalid-utf8"}; !slices.Equal(seen, want) {
		t.Errorf("adjusted: %q, want %q", seen, want)
	}
}

func TestApply_RoutesByTopicTemplate(t *testing.T) {
	cluster := newCluster(t)
	newTopic(t, cluster, "eds.c1.order", 1)
	s := mustOpen(t, "kafka://"+cluster.ListenAddrs()[0]+"/eds.{{.companyId}}.{{.table}}?create-topics=true&partitions=3")
	sinktest.Apply(t, s, sinktest.Batch(append(story(t), sinktest.Event(t, 8,
		`{"operation":"INSERT","id":"e8","table":"a/b ü","companyId":"c1","key":["1"],"after":{},"mvccTimestamp":"1"}`))...))
	for topic, want := range map[string]int{"eds.c1.order": 4, "eds..part": 3, "eds.c1.a_2Fb_20_C3_BC": 1} {
		if got := len(consume(t, cluster.ListenAddrs()[0], topic)); got != want {
			t.Errorf("topic %s has %d messages, want %d", topic, got, want)
		}
	}
	if n := len(cluster.PartitionInfos("eds..part")); n != 3 {
		t.Errorf("the topic was created with %d partitions, want 3", n)
	}
}

func TestLegal_ReturnsNamesKafkaAccepts(t *testing.T) {
	long := strings.Repeat("x", 300)
	for text, want := range map[string]string{"": "_", ".": "_", "..": "_.", "a b/c%ü": "a_b_c___", "ok.A-1_": "ok.A-1_"} {
		if got := legal(text); got != want {
			t.Errorf("legal(%q) = %q, want %q", text, got, want)
		}
	}
	if a, b := legal(long+"a"), legal(long+"b"); len(a) != maxTopic || a == b || legal(a) != a {
		t.Errorf("long names become %q and %q", a, b)
	}
}
