package kafka

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// Sink writes events to topics.
type Sink struct {
	config
	env         sink.Env
	transaction string // transactional id, or "" without transactions
	loader      encode.Loader

	mu    sync.Mutex // held by Apply and Probe
	arena arena

	state   sync.Mutex
	closed  bool
	session *producerSession // nil if no session is open
}

var _ sink.Sink = (*Sink)(nil)

func newSink(c config, env sink.Env) *Sink {
	s := &Sink{config: c, env: env}
	if c.transactional {
		s.transaction = transactionID(env)
	}
	s.loader = encode.Loader{Apply: s.Apply, Limits: limits}
	return s
}

// transactionID returns the transactional id of a server or an import. A server that restarts has
// the same id as before, so that it aborts the transaction that its predecessor left open. Each
// import has its own id.
func transactionID(env sink.Env) string {
	if env.Consumer == "" {
		return "eds-import-" + rand.Text()
	}
	sum := sha256.Sum256([]byte(env.Stream + "\x00" + env.Consumer + "\x00" + env.Filter))
	return "eds-" + hex.EncodeToString(sum[:12])
}

// current returns the open session. If none is open, it creates one.
func (s *Sink) current() (*producerSession, error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.session == nil {
		session, err := newProducerSession(&s.config, s.transaction, logger{s.env.Logger})
		if err != nil {
			return nil, err
		}
		s.session = session
	}
	return s.session, nil
}

// drop closes the old session without waiting for its messages. The next call of current creates
// another session.
func (s *Sink) drop(old *producerSession) {
	s.state.Lock()
	if s.session == old {
		s.session = nil
	}
	s.state.Unlock()
	old.client.Close()
}

// Apply produces the batch's events and waits until all in-sync replicas have all of them.
func (s *Sink) Apply(ctx context.Context, b *change.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b.Events) == 0 {
		return nil
	}
	err := s.apply(ctx, b)
	if err != nil {
		err = fmt.Errorf("produce %d changes: %w", len(b.Events), err)
	}
	return s.env.Access.Outcome(err)
}

func (s *Sink) apply(ctx context.Context, b *change.Batch) error {
	records, err := s.records(b.Events)
	if err != nil {
		s.arena.reclaim()
		return err
	}
	session, err := s.current()
	if err != nil {
		return err
	}
	if session.inFlight != nil && !session.inFlight.holds(records) {
		s.drop(session)
		if session, err = s.current(); err != nil {
			return err
		}
	}
	err = session.deliver(ctx, records)
	if session.spent || fault.Of(err) == fault.Refused { // a new session authenticates again
		s.drop(session)
	}
	if err == nil {
		s.arena.reclaim()
	} else {
		s.arena = arena{} // the client may still hold messages that point into the arena
	}
	return err
}

// deliver hands the messages to the client, unless they are already in flight, and waits until all
// are acknowledged.
func (s *producerSession) deliver(ctx context.Context, records []*kgo.Record) error {
	if s.inFlight == nil {
		if err := s.ensure(ctx, topicsOf(records)); err != nil {
			return err
		}
		if err := s.checkSizes(records); err != nil {
			return err
		}
		if s.transactional {
			return s.transact(ctx, records)
		}
		s.inFlight = s.produce(ctx, records)
	}
	err := s.await(ctx)
	if s.create && (errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)) {
		s.spent = true // the next session creates the topic, which was deleted
		err = fault.Mark(fault.Transient, err)
	}
	return err
}

// transact delivers the messages in a transaction. After an error the state of the transaction is
// unknown, so the session becomes unusable. The next session has the same transactional id, and its
// first request aborts the open transaction.
func (s *producerSession) transact(ctx context.Context, records []*kgo.Record) error {
	s.spent = true
	if err := s.client.BeginTransaction(); err != nil {
		return wrap("begin a transaction", err)
	}
	s.inFlight = s.produce(ctx, records)
	if err := s.await(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	// Everything is acknowledged, so AbortBufferedRecords aborts nothing. But it waits until the
	// client has registered the partitions that it wrote to. If a topic is new to the client, the
	// registration may finish after the acknowledgements, and EndTransaction silently aborts the
	// records of partitions that are not registered.
	if err := s.client.AbortBufferedRecords(ctx); err != nil {
		return wrap("wait for the end of a transaction's messages", err)
	}
	if err := s.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return wrap("commit a transaction", err)
	}
	s.spent = false
	return nil
}

// topicsOf returns the distinct topics of the records.
func topicsOf(records []*kgo.Record) []string {
	var all []string
	last, seen := "", make(map[string]bool)
	for _, r := range records {
		if r.Topic != last && !seen[r.Topic] {
			seen[r.Topic] = true
			all = append(all, r.Topic)
		}
		last = r.Topic
	}
	return all
}

// Probe checks that the brokers answer, accept the credentials, and let eds write to the topic. If
// the topic depends on the change, Probe does not check any topic.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := newProducerSession(&s.config, s.transaction, logger{s.env.Logger})
	if err != nil {
		return err
	}
	defer session.client.Close()
	var topics []string
	if topic, fixed := s.topic.Fixed(); fixed {
		topics = []string{topic}
	}
	return s.env.Access.Outcome(session.checkTopics(ctx, topics...))
}

// BeginLoad begins the load of one table. The load produces each row as a message.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return s.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close closes the client. Messages that are unacknowledged by then may or may not have been
// stored.
func (s *Sink) Close(context.Context) error {
	s.state.Lock()
	s.closed = true
	session := s.session
	s.session = nil
	s.state.Unlock()
	if session != nil {
		session.client.Close()
	}
	return nil
}

// logger writes the client's messages to a debug log.
type logger struct{ to *slog.Logger }

func (l logger) Level() kgo.LogLevel {
	if l.to.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

func (l logger) Log(_ kgo.LogLevel, message string, pairs ...any) {
	l.to.Debug("kafka client: "+strings.TrimSuffix(message, "\n"), pairs...)
}
