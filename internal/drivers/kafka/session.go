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
	// mostMessage bounds what a topic may allow: below what brokers take as one
	// request, which is 100 MiB unless they are told otherwise.
	mostMessage = 96 << 20
	// overhead is more than what a batch of one record with its headers' names
	// takes beside keys and values.
	overhead = 256
	// unlimited is more records than a batch can have.
	unlimited = 1 << 24
	// idleTimeout is when the client closes a connection that nothing was sent on
	// or received from. It also bounds how long a broker may ask to be left alone
	// (ThrottleTimeMs, up to 24 days): the client goes on over a new connection.
	idleTimeout = 20 * time.Second
)

// session is one producer: a client, what it knows of topics, and what it has
// sent that is not acknowledged yet.
//
// Messages that nobody has acknowledged in time stay with the client, which goes
// on sending them; the next call waits for them again. So a broker that was away
// finds each of them once, in order, however often a batch is tried.
type session struct {
	*config
	client *kgo.Client
	flight *flight // nil: all is acknowledged
	// spent says that the client is of no further use.
	spent bool

	mu     sync.Mutex
	limits map[string]int32 // of the topics that are known to exist, in bytes
}

func newSession(c *config, transaction string, logger kgo.Logger) (*session, error) {
	s := &session{config: c, limits: make(map[string]int32)}
	opts := append([]kgo.Opt{
		kgo.SeedBrokers(c.brokers...),
		kgo.ClientID("eds"), kgo.SoftwareNameAndVersion("eds", "1"), kgo.DisableClientMetrics(),
		kgo.WithLogger(logger),
		kgo.DialTimeout(dialTimeout), kgo.ConnIdleTimeout(c.idle), kgo.RetryTimeout(c.patience), kgo.RequestTimeoutOverhead(min(max(time.Second, c.patience), 10*time.Minute)),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryBackoffFn(backoff),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{}),
		kgo.ProducerBatchCompression(slices.Clone(c.compression)...), // the client changes what it is given
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

// backoff is how long the client waits before it tries something again.
func backoff(tries int) time.Duration {
	most := min(50*time.Millisecond<<min(max(tries, 1)-1, 10), 2*time.Second)
	return most/2 + rand.N(most/2)
}

// limit returns the size of the largest batch of messages that the topic takes.
func (s *session) limit(topic string) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.limits[topic]; ok {
		return n
	}
	return defaultMessage
}

// check makes sure that brokers answer, and that the topics can be written to or made.
// It makes none.
func (s *session) check(ctx context.Context, topics ...string) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	missing, err := s.look(ctx, topics)
	if err == nil {
		err = s.make(ctx, missing, true)
	}
	if err != nil {
		return err
	}
	if s.transactional {
		return nil // to begin one here would end that of a server that runs
	}
	_, _, err = s.client.ProducerID(ctx)
	return wrap("become a producer", err)
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, explain(err))
}

// ensure makes sure that the topics exist, or makes them.
func (s *session) ensure(ctx context.Context, topics []string) error {
	s.mu.Lock()
	unknown := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { _, ok := s.limits[t]; return ok })
	s.mu.Unlock()
	if len(unknown) == 0 && len(topics) > 0 {
		return nil
	}
	missing, err := s.look(ctx, unknown)
	if err != nil {
		return err
	}
	if err := s.make(ctx, missing, false); err != nil {
		return err
	}
	return s.learn(ctx, unknown)
}

// writeOperation is the bit of WRITE among a topic's authorised operations.
const writeOperation = 1 << 4

// look returns which of the topics do not exist.
func (s *session) look(ctx context.Context, topics []string) (missing []string, err error) {
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
		return nil, wrap(fmt.Sprintf("ask the brokers at %s", s.brokers[0]), err)
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
			return nil, fmt.Errorf("topic %q: %w", topic, explain(err))
		case t.AuthorizedOperations > 0 && t.AuthorizedOperations&writeOperation == 0:
			return nil, fmt.Errorf("topic %q: %w", topic, explain(kerr.TopicAuthorizationFailed))
		}
	}
	return missing, nil
}

// make makes topics, or only asks whether it could.
func (s *session) make(ctx context.Context, topics []string, only bool) error {
	if len(topics) == 0 {
		return nil
	}
	if !s.create {
		return fmt.Errorf("topic %q: %w", topics[0], explain(kerr.UnknownTopicOrPartition))
	}
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis, request.ValidateOnly = int32(s.patience.Milliseconds()), only
	for _, topic := range topics {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = topic, s.partitions, s.replication
		request.Topics = append(request.Topics, t)
	}
	answer, err := request.RequestWith(ctx, s.client)
	if err != nil {
		return wrap("make topics", err)
	}
	for _, t := range answer.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return wrap(fmt.Sprintf("make topic %q", t.Topic), err)
		}
	}
	return nil
}

// learn finds out how large messages of the topics may be. Where it is not told
// it takes Kafka's default.
func (s *session) learn(ctx context.Context, topics []string) error {
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
		return wrap("ask for the configuration of topics", err)
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

// fits returns an error where a message is too large for its topic. Of a batch
// with such a message nothing has been sent.
func (s *session) fits(records []*kgo.Record) error {
	for _, r := range records {
		size := len(r.Key) + len(r.Value) + overhead
		for _, h := range r.Headers {
			size += len(h.Value)
		}
		if limit := s.limit(r.Topic); size > int(limit) {
			return fault.Mark(fault.Poison, fmt.Errorf("the message has %d bytes, and topic %q takes %d at most; raise its max.message.bytes, and start eds again", size, r.Topic, limit))
		}
	}
	return nil
}

// flight is a batch that was given to the client.
type flight struct {
	records []*kgo.Record
	left    atomic.Int64 // not acknowledged
	done    chan struct{}

	mu  sync.Mutex
	err error // the worst so far
}

// launch gives messages to the client, which keeps them until it knows what
// became of them.
func (s *session) launch(ctx context.Context, records []*kgo.Record) *flight {
	f := &flight{records: records, done: make(chan struct{})}
	f.left.Store(int64(len(records)))
	ctx = context.WithoutCancel(ctx) // that nobody waits any more takes nothing back
	for _, r := range records {
		s.client.Produce(ctx, r, f.settle)
	}
	return f
}

// settle is called for each record.
func (f *flight) settle(_ *kgo.Record, err error) {
	if err != nil {
		f.mu.Lock()
		if err = explain(err); f.err == nil || fault.Of(err) > fault.Of(f.err) {
			f.err = err
		}
		f.mu.Unlock()
	}
	if f.left.Add(-1) == 0 {
		close(f.done)
	}
}

// same reports whether the flight is of these messages.
func (f *flight) same(records []*kgo.Record) bool {
	return slices.EqualFunc(f.records, records, func(a, b *kgo.Record) bool {
		return a.Topic == b.Topic && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
	})
}

// await waits until every record of the flight is acknowledged, as long as some
// are, now and then.
func (s *session) await(ctx context.Context) error {
	f := s.flight
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	for left := f.left.Load(); ; {
		select {
		case <-f.done:
			s.flight = nil
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

// diagnose says why nothing is acknowledged.
func (s *session) diagnose(ctx context.Context, left int64) error {
	ctx, cancel := context.WithTimeout(ctx, min(s.patience, 5*time.Second))
	defer cancel()
	err := s.client.Ping(ctx)
	if err == nil {
		return fmt.Errorf("%d messages wait; the brokers answer, but have acknowledged none for %v: partitions may lack a leader or in-sync replicas", left, s.patience)
	}
	return fmt.Errorf("%d messages wait; brokers have acknowledged none for %v: %w", left, s.patience, explain(err))
}
