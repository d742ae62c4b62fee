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
	transaction string // the transactional id; "" where there are no transactions
	loader      encode.Loader

	mu    sync.Mutex // held by calls that produce
	arena arena

	state   sync.Mutex
	closed  bool
	session *session // nil: none is open
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

// transactionID returns the id by which a server that starts again ends what its
// predecessor left open. An import has one of its own.
func transactionID(env sink.Env) string {
	if env.Consumer == "" {
		return "eds-import-" + rand.Text()
	}
	sum := sha256.Sum256([]byte(env.Stream + "\x00" + env.Consumer + "\x00" + env.Filter))
	return "eds-" + hex.EncodeToString(sum[:12])
}

// current returns the open session, or opens one.
func (s *Sink) current() (*session, error) {
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.session == nil {
		fresh, err := newSession(&s.config, s.transaction, logger{s.env.Logger})
		if err != nil {
			return nil, err
		}
		s.session = fresh
	}
	return s.session, nil
}

// drop closes the session, and what it has sent is not waited for.
func (s *Sink) drop(old *session) {
	s.state.Lock()
	if s.session == old {
		s.session = nil
	}
	s.state.Unlock()
	old.client.Close()
}

// Apply produces the batch's events and waits until all in-sync replicas have
// every one.
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
	return s.env.Access.Judge(err)
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
	if session.flight != nil && !session.flight.same(records) {
		s.drop(session)
		if session, err = s.current(); err != nil {
			return err
		}
	}
	err = session.deliver(ctx, records)
	if session.spent || fault.Of(err) == fault.Refused { // another session signs in again
		s.drop(session)
	}
	if err == nil {
		s.arena.reclaim()
	} else {
		s.arena = arena{} // the client may hold messages yet
	}
	return err
}

// deliver gives messages to the client, unless it has them already, and waits
// for their acknowledgement.
func (s *session) deliver(ctx context.Context, records []*kgo.Record) error {
	if s.flight == nil {
		if err := s.ensure(ctx, topicsOf(records)); err != nil {
			return err
		}
		if err := s.fits(records); err != nil {
			return err
		}
		if s.transactional {
			return s.transact(ctx, records)
		}
		s.flight = s.launch(ctx, records)
	}
	err := s.await(ctx)
	if s.create && (errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)) {
		s.spent = true // the next session makes the topic that was deleted
		err = fault.Mark(fault.Transient, err)
	}
	return err
}

// transact delivers messages in a transaction. After an error nobody knows how
// far that got, so the session is spent: the next one has the same transactional
// id, and its first request aborts what is open.
func (s *session) transact(ctx context.Context, records []*kgo.Record) error {
	s.spent = true
	if err := s.client.BeginTransaction(); err != nil {
		return wrap("begin a transaction", err)
	}
	s.flight = s.launch(ctx, records)
	if err := s.await(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	// Everything is acknowledged, so this aborts nothing. But it waits until the
	// client has taken note of the partitions that it wrote to: where a topic is
	// new to it, that may come after the acknowledgements, and EndTransaction
	// aborts what is in partitions that it does not know, without an error.
	if err := s.client.AbortBufferedRecords(ctx); err != nil {
		return wrap("wait for the end of a transaction's messages", err)
	}
	if err := s.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return wrap("commit a transaction", err)
	}
	s.spent = false
	return nil
}

// topicsOf returns the topics of the records, each once.
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

// Probe makes sure that brokers answer, take the credentials, and let eds write
// to the topic, where there is only one.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	session, err := newSession(&s.config, s.transaction, logger{s.env.Logger})
	if err != nil {
		return err
	}
	defer session.client.Close()
	var topics []string
	if topic, fixed := s.topic.Fixed(); fixed {
		topics = []string{topic}
	}
	return s.env.Access.Judge(session.check(ctx, topics...))
}

// BeginLoad begins the load of one table.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	return s.loader.BeginLoad(ctx, job, t, mode, scope)
}

// Close ends the client. What it has sent and nobody has acknowledged is not
// promised.
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

// logger shows what the client says to whoever debugs.
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
