package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/shopmonkeyus/eds/internal/fault"
)

const (
	// defaultMessage is Kafka's own default of max.message.bytes.
	defaultMessage = 1_048_588
	// mostMessage bounds the limit of a topic: below the largest request that brokers accept by
	// default, 100 MiB.
	mostMessage = 96 << 20
	// overhead exceeds the size of a batch of one record without its keys, values and header
	// values.
	overhead = 256
	// unlimited exceeds the number of records of any batch.
	unlimited = 1 << 24
	// idleTimeout is how long a connection without traffic stays open. It also bounds how long a
	// broker may throttle the client (ThrottleTimeMs, up to 24 days), which then continues over a
	// new connection.
	idleTimeout = 20 * time.Second
)

// producerSession is one producer: a client, its knowledge of topics, and its unacknowledged batch.
//
// Unacknowledged messages stay with the client, which keeps sending them. The next call waits for
// them again. So the topic holds each of them once, in order, however often a batch is retried
// during an outage.
type producerSession struct {
	*config
	client   *kgo.Client
	inFlight *producedBatch // nil: everything is acknowledged
	// spent reports that the client is unusable.
	spent bool

	mu     sync.Mutex
	limits map[string]int32 // of the topics known to exist, in bytes
}

func newProducerSession(c *config, transaction string, logger kgo.Logger) (*producerSession, error) {
	s := &producerSession{config: c, limits: make(map[string]int32)}
	opts := append([]kgo.Opt{
		kgo.SeedBrokers(c.brokers...),
		kgo.ClientID("eds"), kgo.SoftwareNameAndVersion("eds", "1"), kgo.DisableClientMetrics(),
		kgo.WithLogger(logger),
		kgo.DialTimeout(dialTimeout), kgo.ConnIdleTimeout(c.idle), kgo.RetryTimeout(c.patience),
		kgo.RequestTimeoutOverhead(min(max(time.Second, c.patience), 10*time.Minute)),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryBackoffFn(backoff),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{}),
		kgo.ProducerBatchCompression(slices.Clone(c.compression)...), // the client modifies its argument
		kgo.ProducerLinger(c.linger),
		kgo.ProducerBatchMaxBytesFn(s.limit), kgo.BrokerMaxWriteBytes(mostMessage + 1<<20),
		kgo.MaxBufferedRecords(unlimited), kgo.UnknownTopicRetries(20),
	}, c.security()...)
	if transaction != "" {
		opts = append(opts, kgo.TransactionalID(transaction), kgo.TransactionTimeout(time.Minute))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, fmt.Errorf("set up the client: %w", err))
	}
	s.client = client
	return s, nil
}

// backoff returns how long the client waits before retry number tries.
func backoff(tries int) time.Duration {
	most := min(50*time.Millisecond<<min(max(tries, 1)-1, 10), 2*time.Second)
	return most/2 + rand.N(most/2)
}

// limit returns the largest size of a batch of messages that the topic accepts.
func (s *producerSession) limit(topic string) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.limits[topic]; ok {
		return n
	}
	return defaultMessage
}

// checkTopics checks that brokers answer, and that the topics can be written to or created. It
// creates none.
func (s *producerSession) checkTopics(ctx context.Context, topics ...string) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	missing, err := s.missingTopics(ctx, topics)
	if err == nil {
		err = s.createTopics(ctx, missing, true)
	}
	if err != nil {
		return err
	}
	if s.transactional {
		return nil // beginning one here would abort the transaction of a running server
	}
	_, _, err = s.client.ProducerID(ctx)
	return wrap("become a producer", err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, classify(err))
}

// ensure checks that the topics exist, and creates missing ones.
func (s *producerSession) ensure(ctx context.Context, topics []string) error {
	s.mu.Lock()
	unknown := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { _, ok := s.limits[t]; return ok })
	s.mu.Unlock()
	if len(unknown) == 0 && len(topics) > 0 {
		return nil
	}
	missing, err := s.missingTopics(ctx, unknown)
	if err != nil {
		return err
	}
	if err := s.createTopics(ctx, missing, false); err != nil {
		return err
	}
	return s.readLimits(ctx, unknown)
}

// writeOperation is the bit of WRITE among a topic's authorised operations.
const writeOperation = 1 << 4

// missingTopics returns the topics that do not exist.
func (s *producerSession) missingTopics(ctx context.Context, topics []string) (missing []string, err error) {
	request := kmsg.NewPtrMetadataRequest()
	request.IncludeTopicAuthorizedOperations = true
	request.Topics = []kmsg.MetadataRequestTopic{}
	for _, topic := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topic)
		request.Topics = append(request.Topics, t)
	}
	answer, err := request.RequestWith(ctx, s.client)
	if err != nil {
		return nil, wrap(fmt.Sprintf("ask the brokers at %s for topics", s.brokers[0]), err)
	}
	for _, t := range answer.Topics {
		topic := ""
		if t.Topic != nil {
			topic = *t.Topic
		}
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			missing = append(missing, topic)
		case err != nil && !errors.Is(err, kerr.LeaderNotAvailable):
			return nil, fmt.Errorf("topic %q: %w", topic, classify(err))
		case t.AuthorizedOperations > 0 && t.AuthorizedOperations&writeOperation == 0:
			return nil, fmt.Errorf("topic %q: %w", topic, classify(kerr.TopicAuthorizationFailed))
		}
	}
	return missing, nil
}

// createTopics creates topics, or with validateOnly asks whether it could.
func (s *producerSession) createTopics(ctx context.Context, topics []string, validateOnly bool) error {
	if len(topics) == 0 {
		return nil
	}
	if !s.create {
		return fmt.Errorf("topic %q: %w", topics[0], classify(kerr.UnknownTopicOrPartition))
	}
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis, request.ValidateOnly = int32(s.patience.Milliseconds()), validateOnly
	for _, topic := range topics {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = topic, s.partitions, s.replication
		request.Topics = append(request.Topics, t)
	}
	answer, err := request.RequestWith(ctx, s.client)
	if err != nil {
		return wrap("create topics", err)
	}
	for _, t := range answer.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return wrap(fmt.Sprintf("create topic %q", t.Topic), err)
		}
	}
	return nil
}

// readLimits reads the largest message size of the topics. It assumes Kafka's default if the
// brokers do not return one.
func (s *producerSession) readLimits(ctx context.Context, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	request := kmsg.NewPtrDescribeConfigsRequest()
	for _, topic := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, []string{"max.message.bytes"}
		request.Resources = append(request.Resources, r)
	}
	found := make(map[string]int32)
	answer, err := request.RequestWith(ctx, s.client)
	if code := new(kerr.Error); err != nil && !errors.As(err, &code) {
		return wrap("read the configuration of topics", err)
	}
	if err == nil {
		for _, r := range answer.Resources {
			for _, c := range r.Configs {
				if n, err := strconv.ParseInt(deref(c.Value), 10, 32); err == nil && c.Name == "max.message.bytes" {
					found[r.ResourceName] = int32(min(max(n, 512), mostMessage))
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range topics {
		s.limits[topic] = defaultMessage
		if n, ok := found[topic]; ok {
			s.limits[topic] = n
		}
	}
	return nil
}

func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// checkSizes returns an error if a message is too large for its topic. No message of the batch has
// been sent by then.
func (s *producerSession) checkSizes(records []*kgo.Record) error {
	for _, r := range records {
		size := len(r.Key) + len(r.Value) + overhead
		for _, h := range r.Headers {
			size += len(h.Value)
		}
		if limit := s.limit(r.Topic); size > int(limit) {
			return fault.Mark(fault.Poison, fmt.Errorf("the message has %d bytes, and topic %q accepts at most %d; raise its "+
				"max.message.bytes, and start eds again", size, r.Topic, limit))
		}
	}
	return nil
}

// producedBatch is a batch that the client has taken.
type producedBatch struct {
	records []*kgo.Record
	left    atomic.Int64 // number of unacknowledged records
	done    chan struct{}

	mu  sync.Mutex
	err error // the most severe so far
}

// produce hands messages to the client, which keeps them until their outcome is known.
func (s *producerSession) produce(ctx context.Context, records []*kgo.Record) *producedBatch {
	f := &producedBatch{records: records, done: make(chan struct{})}
	f.left.Store(int64(len(records)))
	ctx = context.WithoutCancel(ctx) // the end of a call withdraws no message
	for _, r := range records {
		s.client.Produce(ctx, r, f.acknowledge)
	}
	return f
}

// acknowledge is the client's callback for each record.
func (f *producedBatch) acknowledge(_ *kgo.Record, err error) {
	if err != nil {
		f.mu.Lock()
		if err = classify(err); f.err == nil || fault.Of(err) > fault.Of(f.err) {
			f.err = err
		}
		f.mu.Unlock()
	}
	if f.left.Add(-1) == 0 {
		close(f.done)
	}
}

// holds reports whether the batch consists of these messages.
func (f *producedBatch) holds(records []*kgo.Record) bool {
	return slices.EqualFunc(f.records, records, func(a, b *kgo.Record) bool {
		return a.Topic == b.Topic && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
	})
}

// await waits until every record in flight is acknowledged. It gives up if none is for the whole
// patience.
func (s *producerSession) await(ctx context.Context) error {
	f := s.inFlight
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	for left := f.left.Load(); ; {
		select {
		case <-f.done:
			s.inFlight = nil
			return f.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		now := f.left.Load()
		if now == left {
			return s.diagnose(ctx, now)
		}
		left = now
		timer.Reset(s.patience)
	}
}

// diagnose returns why no record is acknowledged.
func (s *producerSession) diagnose(ctx context.Context, left int64) error {
	ctx, cancel := context.WithTimeout(ctx, min(s.patience, 5*time.Second))
	defer cancel()
	err := s.client.Ping(ctx)
	if err == nil {
		return fmt.Errorf("%d messages wait; the brokers answer, but acknowledged none for %v: partitions may lack a leader or in-sync "+
			"replicas", left, s.patience)
	}
	return fmt.Errorf("%d messages wait; brokers acknowledged none for %v: %w", left, s.patience, classify(err))
}
