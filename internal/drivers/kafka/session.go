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
	// defaultMessage is the maximum message size, in bytes, that eds assumes for a topic if the
	// brokers do not return one. It is Kafka's default of max.message.bytes.
	defaultMessage = 1_048_588
	// mostMessage is an upper limit, in bytes, for the message size that eds assumes for a topic.
	// It is below the largest request that brokers accept by default, 100 MiB.
	mostMessage = 96 << 20
	// The constant overhead is an upper bound, in bytes, of the size of a batch of one record
	// without its key, its value and the values of its headers.
	overhead = 256
	// The constant unlimited exceeds the number of records in any batch.
	unlimited = 1 << 24
	// idleTimeout is how long a connection without traffic stays open. It also limits how long a
	// broker can throttle the client. A broker may ask for up to 24 days (ThrottleTimeMs), but the
	// client continues over a new connection once this one is closed.
	idleTimeout = 20 * time.Second
)

// producerSession is a Kafka producer: a client, its knowledge of topics, and its unacknowledged
// batch.
//
// If a call fails, its unacknowledged messages stay in the client, which keeps sending them. When
// the batch is retried, the session waits for the same messages instead of sending new ones. So the
// topic has each message once and in order, no matter how many times a batch is retried during an
// outage.
type producerSession struct {
	*config
	client   *kgo.Client
	inFlight *producedBatch // nil if everything is acknowledged
	// The field spent is set if the client can no longer be used.
	spent bool

	mu     sync.Mutex
	limits map[string]int32 // maximum message size in bytes, by topic known to exist
}

// newProducerSession creates a client, which connects on its first request. The parameter
// transaction is the transactional id, or "" for a producer without transactions.
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

// backoff returns how long the client waits before it retries after the given number of tries. The
// time is random, between half of a bound and the bound. The bound starts at 50 ms and doubles with
// each try, up to 2 s.
func backoff(tries int) time.Duration {
	most := min(50*time.Millisecond<<min(max(tries, 1)-1, 10), 2*time.Second)
	return most/2 + rand.N(most/2)
}

// limit returns the size of the largest record batch that the topic accepts, in bytes.
func (s *producerSession) limit(topic string) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.limits[topic]; ok {
		return n
	}
	return defaultMessage
}

// checkTopics checks that the brokers answer, and that eds can write to each topic, or can create
// the topic if it is missing. checkTopics creates no topic.
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
		return nil // getting an id would abort a running server's transaction
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

// ensure checks that the topics exist, creates missing ones if the URL allows it, and reads the
// message size limits of topics that are new to the session.
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

// writeOperation is the bit for WRITE in a topic's set of authorized operations.
const writeOperation = 1 << 4

// missingTopics returns those topics that do not exist. It returns an error if eds may not write to
// an existing topic.
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

// createTopics creates the topics. If the parameter validateOnly is true, it only asks the brokers
// whether they would create the topics.
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

// readLimits reads and records the maximum message size of each topic. If the brokers do not return
// it, readLimits assumes Kafka's default.
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

// checkSizes returns a Poison error if a message is too large for its topic. It runs before any
// message of the batch is sent.
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

// producedBatch is a batch whose messages the client is sending.
type producedBatch struct {
	records []*kgo.Record
	left    atomic.Int64 // number of unacknowledged records
	done    chan struct{}

	mu  sync.Mutex
	err error // the most severe error so far; final once done is closed
}

// produce hands the messages to the client, which keeps each one until its outcome is known.
func (s *producerSession) produce(ctx context.Context, records []*kgo.Record) *producedBatch {
	f := &producedBatch{records: records, done: make(chan struct{})}
	f.left.Store(int64(len(records)))
	ctx = context.WithoutCancel(ctx) // messages stay in the client after the call ends
	for _, r := range records {
		s.client.Produce(ctx, r, f.acknowledge)
	}
	return f
}

// acknowledge is the callback that the client calls once for each record, when the record's outcome
// is known.
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

// holds reports whether the batch consists of exactly these messages, in the same order.
func (f *producedBatch) holds(records []*kgo.Record) bool {
	return slices.EqualFunc(f.records, records, func(a, b *kgo.Record) bool {
		return a.Topic == b.Topic && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
	})
}

// await waits until the outcome of every record in flight is known, and returns the most severe
// error. If there is no progress for the duration s.patience, it returns an error and leaves the
// records in flight.
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

// diagnose returns an error that says why the brokers acknowledge no record. The parameter left is
// the number of unacknowledged records.
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
