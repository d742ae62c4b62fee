package eventhub

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// BenchmarkApply measures the sink and the client library alone, in alternation, with a hub that
// discards the events. The client library sends the same events in the same messages, which are
// built in advance. The benchmark reports both rates and their ratio.
func BenchmarkApply(b *testing.B) {
	for _, columns := range []int{20, 60} {
		for _, rows := range []int{5000, 100} {
			b.Run(fmt.Sprintf("%d columns, %d rows", columns, rows), func(b *testing.B) { benchmark(b, columns, rows) })
		}
	}
}

func benchmark(b *testing.B, columns, rows int) {
	hub := newHub(b, peer.Settings{Discards: true})
	const count = 5000
	events := sinktest.WideEvents(b, count, rows, columns)
	apply := sinktest.Batch(events...)
	s := mustOpen(b, urlTo(hub, ""))
	queues, err := s.keyQueues(events)
	if err != nil {
		b.Fatal(err)
	}
	queues = slices.Clone(queues) // the sink reuses the slice
	s.scratch.clear()
	made := make([][]*azeventhubs.EventData, len(queues))
	for i, q := range queues {
		for n := range q.events {
			e, _ := newMessageWriter(true).write(q, n, true)
			id := e.Properties.MessageID.(string)
			made[i] = append(made[i], &azeventhubs.EventData{
				Body: e.Body.Data[0], ContentType: e.Properties.ContentType, MessageID: &id,
				Properties: e.ApplicationProperties,
			})
		}
	}
	session := newHubSession(&s.config)
	defer session.close(true)
	client, err := session.client(hub.Name)
	if err != nil {
		b.Fatal(err)
	}
	sinktest.Apply(b, s, apply) // from here on, both are connected
	sendBare(b, client, queues, made)
	var eds, bare time.Duration
	for b.Loop() {
		began := time.Now()
		sinktest.Apply(b, s, apply)
		turn := time.Now()
		sendBare(b, client, queues, made)
		eds, bare = eds+turn.Sub(began), bare+time.Since(turn)
	}
	b.ReportMetric(float64(count*b.N)/eds.Seconds(), "events/s")
	b.ReportMetric(float64(count*b.N)/bare.Seconds(), "bare-events/s")
	b.ReportMetric(bare.Seconds()/eds.Seconds(), "ratio")
}

func sendBare(b *testing.B, client *azeventhubs.ProducerClient, queues []*keyQueue, made [][]*azeventhubs.EventData) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(128, len(queues)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(queues); i = int(next.Add(1)) - 1 {
				batch, err := client.NewEventDataBatch(b.Context(), &azeventhubs.EventDataBatchOptions{PartitionKey: &queues[i].key})
				if err != nil {
					b.Error(err)
					return
				}
				for _, d := range made[i] {
					if err := batch.AddEventData(d, nil); err != nil {
						b.Error(err)
						return
					}
				}
				if err := client.SendEventDataBatch(b.Context(), batch, nil); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}
