package kafka

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	independent "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// TestMain hides the machine's AWS SDK settings from the tests.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			os.Unsetenv(name)
		}
	}
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(name, value)
	}
	// Most tests wait for timeouts of the client, so run more tests than there are processors.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	sinktest.Main(m)
}

// newCluster starts a cluster of one broker.
func newCluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// newTopic creates a topic that accepts messages of 32 MiB, and returns its URL.
func newTopic(t testing.TB, c *kfake.Cluster, name string, partitions int32) string {
	t.Helper()
	if err := c.CreateTopic(name, partitions, map[string]string{"max.message.bytes": "33554432"}); err != nil {
		t.Fatal(err)
	}
	return "kafka://" + strings.Join(c.ListenAddrs(), ",") + "/" + name
}

var env = sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "*"}

func tryOpen(t testing.TB, raw string, env sink.Env) (*Sink, error) {
	t.Helper()
	s, err := sinktest.Open(t, Driver(), raw, env)
	if err != nil {
		return nil, err
	}
	return s.(*Sink), nil
}

func mustOpen(t testing.TB, raw string) *Sink {
	t.Helper()
	s, err := tryOpen(t, raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// consume reads all messages of a topic with another client library, one partition at a time. It
// includes messages of aborted transactions.
func consume(t testing.TB, broker, topic string) []independent.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := independent.DialContext(ctx, "tcp", broker)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	partitions, err := conn.ReadPartitions(topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []independent.Message
	for p := range partitions {
		all = append(all, consumePartition(ctx, t, broker, topic, p)...)
	}
	return all
}

func consumePartition(ctx context.Context, t testing.TB, broker, topic string, partition int) []independent.Message {
	t.Helper()
	conn, err := independent.DialLeader(ctx, "tcp", broker, topic, partition)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	first, last, err := conn.ReadOffsets()
	if err != nil {
		t.Fatal(err)
	}
	var all []independent.Message
	for next := first; next < last; {
		if _, err := conn.Seek(next, independent.SeekAbsolute); err != nil {
			t.Fatal(err)
		}
		batch := conn.ReadBatchWith(independent.ReadBatchConfig{MinBytes: 1, MaxBytes: 64 << 20, MaxWait: 100 * time.Millisecond})
		read := 0
		for {
			m, err := batch.ReadMessage()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("read %s/%d at %d: %v", topic, partition, next, err)
			}
			m.Partition, m.Topic = partition, topic
			if !isMarker(m) {
				all = append(all, m)
			}
			next = m.Offset + 1
			read++
		}
		if err := batch.Close(); err != nil {
			t.Fatal(err)
		}
		if read == 0 {
			t.Fatalf("read %s/%d: nothing at %d of %d", topic, partition, next, last)
		}
	}
	return all
}

// consumeCommitted reads the messages of a topic as a read-committed consumer, up to the first open
// transaction.
func consumeCommitted(t testing.TB, broker, topic string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	newClient := func(opts ...kgo.Opt) *kgo.Client {
		client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(broker), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.KeepControlRecords(), kgo.FetchMaxWait(50*time.Millisecond))...)
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	asking := newClient()
	defer asking.Close()
	ends := stableEnds(ctx, t, asking, topic)
	if len(ends) == 0 {
		return nil
	}
	starts := make(map[int32]kgo.Offset)
	for p := range ends {
		starts[p] = kgo.NewOffset().AtStart()
	}
	client := newClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}))
	defer client.Close()
	var all []*kgo.Record
	for len(ends) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read committed messages in %s, up to %v: %v", topic, ends, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
			if r.Offset+1 >= ends[r.Partition] { // the marker at the end of a transaction is a record, too
				delete(ends, r.Partition)
			}
		})
	}
	return all
}

// stableEnds returns, for each partition that contains ended transactions, the offset before which
// all transactions have ended.
func stableEnds(ctx context.Context, t testing.TB, client *kgo.Client, topic string) map[int32]int64 {
	t.Helper()
	meta := kmsg.NewPtrMetadataRequest()
	asked := kmsg.NewMetadataRequestTopic()
	asked.Topic = kmsg.StringPtr(topic)
	meta.Topics = append(meta.Topics, asked)
	known, err := meta.RequestWith(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	list := kmsg.NewPtrListOffsetsRequest()
	list.IsolationLevel = 1 // read committed
	of := kmsg.NewListOffsetsRequestTopic()
	of.Topic = topic
	for _, p := range known.Topics[0].Partitions {
		r := kmsg.NewListOffsetsRequestTopicPartition()
		r.Partition, r.Timestamp = p.Partition, -1 // -1 requests the end offset
		of.Partitions = append(of.Partitions, r)
	}
	list.Topics = append(list.Topics, of)
	ends := make(map[int32]int64)
	for _, shard := range client.RequestSharded(ctx, list) {
		if shard.Err != nil {
			t.Fatal(shard.Err)
		}
		for _, answered := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range answered.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					t.Fatal(err)
				}
				if p.Offset > 0 {
					ends[p.Partition] = p.Offset
				}
			}
		}
	}
	return ends
}

// isMarker reports whether m is the marker at the end of a transaction. The other client returns
// the marker as it is stored: a version, and the kind of the marker (commit or abort).
func isMarker(m independent.Message) bool {
	return len(m.Headers) == 0 && len(m.Key) == 4 && len(m.Value) == 6 && m.Key[0]+m.Key[1]+m.Key[2] == 0
}

// proxiedListener is a listener that reports the address of the proxy in front of it.
type proxiedListener struct {
	net.Listener
	addr net.Addr
}

func (b proxiedListener) Addr() net.Addr { return b.addr }

// faultyCluster starts a cluster of one broker behind a proxy that can break connections.
func faultyCluster(t testing.TB, opts ...kfake.Opt) (*kfake.Cluster, *sinktest.Proxy) {
	t.Helper()
	var proxy *sinktest.Proxy
	var once sync.Once
	c := newCluster(t, append([]kfake.Opt{kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, err
		}
		once.Do(func() { proxy = sinktest.NewProxy(t, l.Addr().String()) })
		addr, err := net.ResolveTCPAddr("tcp", proxy.Addr())
		return proxiedListener{l, addr}, err
	})}, opts...)...)
	return c, proxy
}

func parsed(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
