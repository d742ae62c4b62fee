package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// LaneConfig configures a lane. The fields Conn, Filters, Tables and Logger are required.
type LaneConfig struct {
	Conn    *nats.Conn
	Stream  string   // default "dbchange"
	Filters []string // filters of the durable consumer
	// Tables lists the tables to read. In a subject, the name of a table is one token. If the
	// tables need more than maxLaneFilters filters, the lane also returns messages of other tables.
	Tables []string
	// After is the sequence after which the lane starts. It must be a sequence of the current
	// stream. The lane does not verify that; the source of the durable consumer does.
	After  uint64
	Logger *slog.Logger

	tuning tuning
}

const (
	// maxLaneFilters is the maximum number of filter subjects of a lane's consumer. The server
	// compares each message of the stream with all filter subjects.
	maxLaneFilters = 100
	// laneInactive is how long the server keeps a lane's consumer that gets no pull requests.
	laneInactive = 5 * time.Minute
)

// Lane reads some tables from an earlier position in the stream. It works in parallel to the
// durable consumer, and never changes that consumer. A lane acknowledges no messages. It uses an
// ephemeral consumer; if the server loses this consumer, the lane creates a new one that starts
// after the last received message.
//
// Receive and Close must be called from one goroutine. The other methods are safe for concurrent
// use.
type Lane struct {
	source  *Source
	created *jetstream.ConsumerInfo // the consumer that OpenLane created; nil after the first subscription

	mu       sync.Mutex
	returned uint64 // sequence of the last message that Receive has returned
}

var (
	_ pipeline.Source         = (*Lane)(nil)
	_ pipeline.HealthReporter = (*Lane)(nil)
)

// OpenLane opens a lane and creates its consumer. The caller must close the lane.
//
// If the stream no longer has the message After+1, the error is a fatal *continuity.GapError for
// all of the lane's tables, because no server reports which tables its dropped messages belonged
// to. Other errors are transient unless marked otherwise. The error is also transient if the server
// admits no more consumers.
func OpenLane(ctx context.Context, c LaneConfig) (*Lane, error) {
	filters, err := c.selection()
	if err != nil {
		return nil, fault.Mark(fault.Fatal, err)
	}
	tuned := c.tuning
	tuned.watch = cmp.Or(tuned.watch, watchTimes{stalled: 5 * time.Second, every: 30 * time.Second, refused: 10 * time.Minute})
	s, err := newSource(Config{
		Conn: c.Conn, Stream: c.Stream, Name: "eds-lane-" + nuid.Next(), Filters: filters, Logger: c.Logger, tuning: tuned,
	})
	if err != nil {
		return nil, err
	}
	s.planned, s.strict, s.tables = true, true, slices.Clone(c.Tables)
	l := &Lane{source: s, returned: c.After}
	s.positionConsumer = l.recreate
	s.began = cdc.Position{Sequence: c.After}
	s.unacked = newUnacked(s.began, c.After)
	s.watch = newStreamWatch(continuity.Plan{})
	if l.created, err = l.create(ctx, c.After); err != nil {
		return nil, err
	}
	if before := l.created.Delivered.Stream; before > c.After {
		_ = s.delete(ctx) // if this fails, the server soon deletes the inactive consumer
		return nil, fault.Mark(fault.Fatal, &continuity.GapError{Tables: s.tables, After: c.After, First: before + 1})
	}
	s.limits = limitsOf(l.created.Config, s.c.tuning)
	s.start(ctx, s.watchStream)
	return l, nil
}

// selection returns the filter subjects of the lane's consumer.
func (c *LaneConfig) selection() (filters []string, err error) {
	if len(c.Tables) == 0 {
		return nil, errors.New("open a lane: it needs tables")
	}
	tables := make(map[string]bool, len(c.Tables))
	for _, table := range c.Tables {
		if schema.CheckStreamTable(table) != nil { // changes of the table can have any subject
			return c.Filters, nil
		}
		tables[table] = true
	}
	if len(tables)*len(c.Filters) > maxLaneFilters {
		return c.Filters, nil
	}
	for _, table := range c.Tables {
		for _, filter := range c.Filters {
			if f, ok := filterTable(filter, table); ok && !slices.Contains(filters, f) {
				filters = append(filters, f)
			}
		}
	}
	return filters, nil
}

// filterTable narrows a filter to the changes of one table, as in "dbchange.order.*.c1.*.PUBLIC.>".
// If the filter selects no changes of the table, the result ok is false.
func filterTable(filter, table string) (narrowed string, ok bool) {
	tokens := strings.SplitN(filter, ".", 3)
	if len(tokens) < 2 {
		return filter, true
	}
	switch tokens[1] {
	case "*", table:
		tokens[1] = table
	case ">":
		tokens = append(tokens[:1], table, ">")
	default:
		return "", false
	}
	return strings.Join(tokens, "."), true
}

// recreate replaces the consumer with a new one that delivers all messages after the received
// ones.
func (l *Lane) recreate(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	s := l.source
	if info := l.created; info != nil {
		l.created = nil
		return info, nil
	}
	if err := s.delete(ctx); err != nil {
		return nil, err
	}
	_, reached := s.unacked.received()
	info, err := l.create(ctx, reached)
	if err != nil {
		return nil, err
	}
	if info.Delivered.Stream > reached {
		s.doubtDropped(reached, info.Delivered.Stream+1)
		return nil, s.watch.failure()
	}
	return info, nil
}

// create creates a consumer that starts after the given sequence. If the stream starts later, the
// consumer starts with the oldest message of the stream.
func (l *Lane) create(ctx context.Context, sequence uint64) (*jetstream.ConsumerInfo, error) {
	s := l.source
	config := jetstream.ConsumerConfig{
		Name: s.c.Name, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: laneInactive,
	}
	setFilters(&config, s.c.Filters)
	after(sequence).apply(&config)
	consumer, err := s.js.CreateConsumer(ctx, s.c.Stream, config)
	if err != nil {
		return nil, fmt.Errorf("create the consumer %s for %s: %w", s.c.Name, sink.Names(s.tables), err)
	}
	return consumer.CachedInfo(), nil
}

// Receive returns the next messages of the lane. It repairs the connection and the consumer
// itself, so it returns only errors of ctx and fatal errors. If the stream has dropped unread
// messages, or may have dropped some, the error is a *continuity.GapError.
func (l *Lane) Receive(ctx context.Context) ([]pipeline.Message, error) {
	messages, err := l.source.Receive(ctx)
	if err != nil {
		return nil, err
	}
	last := messages[len(messages)-1].Position
	l.source.unacked.acknowledge(last, func(string) {})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.returned = last.Sequence
	return messages, nil
}

// Acknowledge does nothing, because a lane acknowledges no messages.
func (l *Lane) Acknowledge(context.Context, cdc.Position) error { return nil }

// Health returns why no message can be received, and since when. The reason is nil if the lane is
// healthy.
func (l *Lane) Health() (since time.Time, reason error) { return l.source.Health() }

// Waiting returns how many messages of the lane were available when it last subscribed. If it has
// not subscribed yet, the result known is false.
func (l *Lane) Waiting() (messages uint64, known bool) { return l.source.Waiting() }

// Delivered returns the sequence of the last message that Receive has returned or is about to
// return. The result pending is the number of the lane's messages after that sequence, as reported
// by the server. If the result pending is 0, no message of the lane that was stored before the call
// has a higher sequence than the result delivered. Before the first message, the result delivered
// is LaneConfig.After.
//
// Delivered creates another consumer for a moment. Its errors are transient, unless the stream has
// dropped messages; Receive documents that error.
func (l *Lane) Delivered(ctx context.Context) (delivered, pending uint64, err error) {
	s := l.source
	if err := s.watch.failure(); err != nil {
		return 0, 0, err
	}
	l.mu.Lock()
	delivered = l.returned
	l.mu.Unlock()
	consumer, deleteProbe, err := s.createProbe(ctx, after(delivered), s.c.Filters)
	if err != nil {
		return 0, 0, fmt.Errorf("request the number of waiting messages of %s: %w", sink.Names(s.tables), err)
	}
	deleteProbe()
	info := consumer.CachedInfo()
	newest, reached := s.unacked.received()
	if before := info.Delivered.Stream; before > delivered && (newest.Sequence > delivered || reached < before) {
		if err := s.checkStream(ctx); err != nil {
			return 0, 0, fmt.Errorf("check the stream, which has dropped the messages after %d: %w", delivered, err)
		}
		return 0, 0, cmp.Or(s.watch.failure(), error(errOvertaken))
	}
	return delivered, info.NumPending, nil
}

// errOvertaken means that the stream has dropped messages that Receive may still have to return.
var errOvertaken = errors.New("the stream drops messages as fast as they are received")

// Retention returns the storage time and the sequence of the stream's oldest message. If the stream
// is empty, the result oldest is the zero time, and the result first is the sequence that the next
// message will get. Errors are transient.
func (l *Lane) Retention(ctx context.Context) (oldest time.Time, first uint64, err error) {
	return l.source.Retention(ctx)
}

// Retention returns the storage time and the sequence of the stream's oldest message. If the stream
// is empty, the result oldest is the zero time, and the result first is the sequence that the next
// message will get. Errors are transient.
func (s *Source) Retention(ctx context.Context) (oldest time.Time, first uint64, err error) {
	seen, err := s.tail(ctx, everything())
	if err != nil {
		return oldest, 0, fmt.Errorf("find the oldest message of the stream %s: %w", s.c.Stream, err)
	}
	if seen.stored > 0 {
		oldest = time.Unix(0, seen.stored)
	}
	return oldest, seen.sequence, nil
}

// Close deletes the consumer. It waits no more than a few seconds for the server. If the server
// cannot be reached, the server deletes the consumer after five minutes. The connection belongs to
// the caller and stays open.
func (l *Lane) Close(ctx context.Context) error {
	s := l.source
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	err := s.Close(ctx)
	if s.c.Conn.IsConnected() {
		err = errors.Join(err, s.delete(ctx))
	}
	return err
}
