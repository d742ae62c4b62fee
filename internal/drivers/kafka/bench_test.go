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

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// BenchmarkApply measures the sink and the client library alone, in alternation, with brokers that
// discard the messages. The client library sends the same messages, which are built in advance.
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
	events := sinktest.WideEvents(b, rows, rows, columns)
	apply := sinktest.Batch(events...)
	raw := "kafka://" + strings.Join(cluster.ListenAddrs(), ",") + "/topic?compress=" + codec
	s := mustOpen(b, raw)
	records, err := mustOpen(b, raw).records(events)
	if err != nil {
		b.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.DefaultProduceTopic("topic"),
		kgo.ProducerBatchCompression(codecs[codec]...),
		kgo.ProducerLinger(0), kgo.RecordPartitioner(partitioner{}))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	produceBare(b, client, records) // from here on, client is connected, like s
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
