package kafka

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// wideEvent makes an event of the given number of columns, about 70 bytes each.
func wideEvent(t testing.TB, n, columns int) *cdc.Event {
	t.Helper()
	var row strings.Builder
	for c := range columns {
		fmt.Fprintf(&row, `,"column%02d":"a value of this column, %08d %s"`, c, n*7919+c, "0123456789abcdef")
	}
	return sinktest.Event(t, n, fmt.Sprintf(`{"operation":"UPDATE","id":"%024d","table":"order","key":["%036d"],"companyId":"c","after":{"id":"%036d"%s},"timestamp":1700000000000,"mvccTimestamp":"1700000000000000000"}`, n, n, n, row.String()))
}

// BenchmarkApply writes batches to brokers that forget them, and in turn with each
// the same messages, made beforehand, with the client library alone.
func BenchmarkApply(b *testing.B) {
	for _, columns := range []int{20, 60} {
		for _, codec := range []string{"none", "zstd"} {
			b.Run(fmt.Sprintf("%d columns, %s", columns, codec), func(b *testing.B) { benchmark(b, columns, codec) })
		}
	}
}

func benchmark(b *testing.B, columns int, codec string) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.BlackholeProduce(), kfake.SeedTopics(12, "topic"))
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	const rows = 5000
	var events []*cdc.Event
	for n := range rows {
		events = append(events, wideEvent(b, n+1, columns))
	}
	apply := sinktest.Batch(events...)
	raw := "kafka://" + strings.Join(cluster.ListenAddrs(), ",") + "/topic?compress=" + codec
	s := mustOpen(b, raw)
	records, err := mustOpen(b, raw).records(events)
	if err != nil {
		b.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("topic"), kgo.ProducerBatchCompression(codecs[codec]...),
		kgo.ProducerLinger(0), kgo.RecordPartitioner(partitioner{}))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	produceBare(b, client, records) // connects, as s has
	sinktest.Apply(b, s, apply)
	var ours, theirs time.Duration
	for b.Loop() {
		began := time.Now()
		sinktest.Apply(b, s, apply)
		ours += time.Since(began)
		began = time.Now()
		produceBare(b, client, records)
		theirs += time.Since(began)
	}
	all := float64(rows * b.N)
	b.ReportMetric(all/ours.Seconds(), "events/s")
	b.ReportMetric(all/theirs.Seconds(), "bare-events/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
}

func produceBare(b *testing.B, client *kgo.Client, records []*kgo.Record) {
	var done sync.WaitGroup
	done.Add(len(records))
	fresh := make([]kgo.Record, len(records))
	for i, r := range slices.All(records) {
		fresh[i] = kgo.Record{Key: r.Key, Value: r.Value, Headers: r.Headers}
		client.Produce(b.Context(), &fresh[i], func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
			done.Done()
		})
	}
	done.Wait()
}
