package pipeline

import (
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
)

// State is what a pipeline currently does.
type State string

const (
	Running  State = "running"
	Waiting  State = "waiting" // retrying, for the reason in Status.Reason
	Paused   State = "paused"  // no pipeline runs
	Stopping State = "stopping"
)

// Status describes a pipeline at one moment.
type Status struct {
	State  State
	Reason string    // why the pipeline waits; "" in other states
	Since  time.Time // start of the wait; zero in other states

	Position    cdc.Position  // of the last acknowledged message
	LastApplied time.Time     // when events were last made durable; zero if never
	LastChange  time.Time     // time of the newest durable event, by the source's clock
	Lag         time.Duration // age of the oldest received change that is not durable; 0 if there is none
	LagKnown    bool          // false if messages may wait in the stream but none is in flight
	Pending     uint64        // messages in the stream that are not acknowledged
	InFlight    int           // the part of Pending that was received
	// PendingKnown is false while the stream does not answer, or while eds does not read the
	// stream.
	PendingKnown bool

	Applied     uint64  // events made durable
	Skipped     uint64  // events that were skipped
	Rejected    uint64  // events that became dead letters
	Batches     uint64  // batches made durable
	Rate        float64 // applied events per second, over the last ten seconds
	LastError   string
	LastErrorAt time.Time
	Tables      map[string]TableStatus
}

// After returns a copy of s to which the counts of earlier pipelines are added. The counts in s
// must not include these counts yet.
func (s Status) After(earlier Status) Status {
	if s.LastApplied.IsZero() {
		s.Position = earlier.Position
	}
	s.LastApplied, s.LastChange = later(earlier.LastApplied, s.LastApplied), later(earlier.LastChange, s.LastChange)
	s.Applied += earlier.Applied
	s.Skipped += earlier.Skipped
	s.Rejected += earlier.Rejected
	s.Batches += earlier.Batches
	if s.LastErrorAt.IsZero() {
		s.LastError, s.LastErrorAt = earlier.LastError, earlier.LastErrorAt
	}
	tables := maps.Clone(earlier.Tables)
	if tables == nil {
		tables = make(map[string]TableStatus)
	}
	for name, t := range s.Tables {
		before := tables[name]
		t.add(&before)
		tables[name] = t
	}
	s.Tables = tables
	return s
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TableStatus holds the counts and times of the applied changes of one table.
type TableStatus struct {
	Inserts, Updates, Deletes uint64
	LastApplied               time.Time
	LastChange                time.Time // by the source's clock
}

// add adds the counts in the parameter other to t. For each time, it keeps the later value.
func (t *TableStatus) add(other *TableStatus) {
	t.Inserts += other.Inserts
	t.Updates += other.Updates
	t.Deletes += other.Deletes
	t.LastApplied, t.LastChange = later(t.LastApplied, other.LastApplied), later(t.LastChange, other.LastChange)
}

// statusTracker collects the data of Status and the metrics. It is safe for concurrent use.
type statusTracker struct {
	logger   *slog.Logger
	metrics  *Metrics
	retrying atomic.Int32 // len(retries)

	mu       sync.Mutex
	retries  map[dependency]*retryState
	ending   bool
	status   Status // only the fields that are counted here
	receives bool   // whether a message was received
	behind   uint64 // messages in the stream after the last received one
	rate     rateMeter
	received []arrival // chunks in flight, oldest first

	lastError   string
	lastErrorAt time.Time
}

// arrival is the range of positions of a chunk. Its first position shows when the stream stored the
// chunk's oldest message.
type arrival struct{ first, last cdc.Position }

func newStatusTracker(logger *slog.Logger, metrics *Metrics) *statusTracker {
	return &statusTracker{
		logger: logger, metrics: metrics, retries: make(map[dependency]*retryState),
		status: Status{Tables: make(map[string]TableStatus)},
	}
}

// Status returns the current status of the pipeline. It is safe for concurrent use.
func (p *Pipeline) Status() Status {
	inFlight := p.inFlight.unacknowledged()
	var unhealthy error
	var since time.Time
	var waiting uint64
	connected := true
	if source, ok := p.c.Source.(HealthReporter); ok {
		since, unhealthy = source.Health()
		waiting, connected = source.Waiting()
	}
	t := p.status
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status
	s.State = Running
	s.Tables = maps.Clone(t.status.Tables)
	s.LastError, s.LastErrorAt = t.lastError, t.lastErrorAt
	if t.receives {
		waiting = t.behind
	}
	s.InFlight, s.Pending = inFlight, waiting+uint64(inFlight)
	s.PendingKnown = connected && unhealthy == nil && !t.ending
	s.Rate = t.rate.perSecond(time.Now())
	if len(t.received) > 0 {
		s.Lag, s.LagKnown = max(0, time.Since(time.Unix(0, t.received[0].first.Stored))), true
	} else {
		s.LagKnown = s.PendingKnown && s.Pending == 0
	}
	if unhealthy != nil {
		s.State, s.Reason, s.Since = Waiting, "waiting for the stream: "+unhealthy.Error(), since
	}
	for _, what := range []dependency{dependencySource, dependencySchema, dependencyDeadLetters, dependencyTables, dependencyDestination} {
		if o := t.retries[what]; o != nil {
			s.State, s.Reason, s.Since = Waiting, "waiting for the "+string(what)+": "+o.reason, o.since
		}
	}
	if t.ending {
		s.State = Stopping
	}
	return s
}

func (t *statusTracker) stopping() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ending = true
}

// ended records the end of the run, with the number of messages that were received and not
// acknowledged.
func (t *statusTracker) ended(messages int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ending, t.received = true, nil
	t.metrics.arrived(-messages)
}

// arrived records that the messages of c were received.
func (t *statusTracker) arrived(c *messageChunk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, last := &c.messages[0], &c.messages[len(c.messages)-1]
	t.received = append(t.received, arrival{first.Position, last.Position})
	t.receives, t.behind = true, last.Pending
	t.metrics.arrived(len(c.messages))
}

// acknowledged records that the messages of d are acknowledged.
func (t *statusTracker) acknowledged(d durableBatch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Position = d.upTo
	for len(t.received) > 0 && t.received[0].last.Sequence <= d.upTo.Sequence {
		t.received = t.received[1:]
	}
	t.metrics.acknowledged(d.messages)
}

// applied records that events are durable. They were written as the batch c. The parameter took is
// the duration of the write.
func (t *statusTracker) applied(events []*item, c *change.Batch, took time.Duration) {
	now := time.Now()
	counts := make(map[string]*TableStatus)
	for _, it := range events {
		e := it.event
		s := counts[e.Table]
		if s == nil {
			s = &TableStatus{LastApplied: now}
			counts[e.Table] = s
		}
		switch e.Op {
		case cdc.Insert:
			s.Inserts++
		case cdc.Update:
			s.Updates++
		case cdc.Delete:
			s.Deletes++
		}
		if at := changed(e); at.After(s.LastChange) {
			s.LastChange = at
		}
	}
	counts = t.labelled(counts)
	t.metrics.applied(counts, len(events), c, took)

	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Applied += uint64(len(events))
	t.status.Batches++
	t.status.LastApplied = now
	t.rate.add(now, len(events))
	for table, s := range counts {
		was := t.status.Tables[table]
		s.add(&was)
		t.status.Tables[table] = *s
		if s.LastChange.After(t.status.LastChange) {
			t.status.LastChange = s.LastChange
		}
	}
}

// labelled takes a map of counts by table, and returns a map of counts by label value. Tables that
// share a label value are added up.
func (t *statusTracker) labelled(counts map[string]*TableStatus) map[string]*TableStatus {
	labelled := make(map[string]*TableStatus, len(counts))
	for table, s := range counts {
		name := t.metrics.tables.of(table)
		if sum := labelled[name]; sum != nil {
			sum.add(s)
		} else {
			labelled[name] = s
		}
	}
	return labelled
}

// changed returns the time at which the source made the change or, if the event has no time, the
// time at which the stream stored the event.
func changed(e *cdc.Event) time.Time {
	switch {
	case !e.Clock.IsZero():
		return e.Clock.Time()
	case e.Timestamp != 0:
		return time.UnixMilli(e.Timestamp).UTC()
	default:
		return time.Unix(0, e.Position.Stored).UTC()
	}
}

// batchDone records that the whole batch is durable, and the current numbers of dead letters.
func (t *statusTracker) batchDone(b *receivedBatch, deadLetters dlq.EntryCounts) {
	t.metrics.batchDone(b)
	t.metrics.SetDeadLetters(deadLetters)
	skipped := 0
	for _, n := range b.skipped {
		skipped += n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Skipped += uint64(skipped)
}

func (t *statusTracker) deadLettered(e *dlq.Entry) {
	t.metrics.deadLetters.WithLabelValues(t.metrics.deadLetterTables.of(e.Table), e.Stage).Inc()
	t.logger.Error("an event cannot be applied; it is in the dead-letter queue", "table", e.Table, "operation", e.Operation,
		"event", e.EventID, "sequence", e.Sequence, "stage", e.Stage, "reason", e.Reason)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Rejected++
	t.lastError, t.lastErrorAt = e.Reason, e.Time
}

// migrated counts changes of the destination's tables. The sink has already logged these changes.
func (t *statusTracker) migrated(migrations []string) {
	t.metrics.migrations.Add(float64(len(migrations)))
}

// rateMeter measures the number of events per second, over the last rateSpan seconds.
type rateMeter struct {
	began   time.Time
	seconds [rateSpan]struct {
		second int64
		events int
	}
}

const rateSpan = 10

func (r *rateMeter) add(now time.Time, events int) {
	if r.began.IsZero() {
		r.began = now
	}
	s := &r.seconds[now.Unix()%rateSpan]
	if s.second != now.Unix() {
		s.second, s.events = now.Unix(), 0
	}
	s.events += events
}

func (r *rateMeter) perSecond(now time.Time) float64 {
	events := 0
	for _, s := range r.seconds {
		if now.Unix()-s.second < rateSpan {
			events += s.events
		}
	}
	span := min(max(now.Sub(r.began).Seconds(), 1), rateSpan)
	return float64(events) / span
}
