package kafka

import (
	"context"
	"math"
	"net/url"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// TestThrottle_IsBounded makes a broker reject a batch once with a throttle time of 24 days.
func TestThrottle_IsBounded(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	raw := newTopic(t, cluster, "topic", 1)
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c.idle = 200 * time.Millisecond
	s := newSink(c, env.Complete())
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 10))
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		request := r.(*kmsg.ProduceRequest)
		response := request.ResponseKind().(*kmsg.ProduceResponse)
		response.ThrottleMillis = math.MaxInt32
		for _, topic := range request.Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				partition := kmsg.NewProduceResponseTopicPartition()
				partition.Partition, partition.ErrorCode = p.Partition, kerr.NotEnoughReplicas.Code
				answer.Partitions = append(answer.Partitions, partition)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 11, 20))
	wantOnce(t, cluster.ListenAddrs()[0], "topic", 1, 20)
}
