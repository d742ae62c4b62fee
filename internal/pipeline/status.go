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

// State is what a pipeline is doing.
type State string

const (
	Running  State = "running"
	Waiting  State = "waiting" // for what Status.Reason says; it tries again
	Paused   State = "paused"
	Stopping State = "stopping"
)

// Status is a snapshot of a pipeline.
type Status struct {
	State  State
	Reason string    // why it waits; "" elsewhere
	Since  time.Time // since when it has waited; zero elsewhere

	Position    cdc.Position  // of the last message that is durable and acknowledged
	LastApplied time.Time     // when events were last made durable; zero: never
	LastChange  time.Time     // when the newest of those had been made, by the source's clock
	Lag         time.Duration // age of the oldest change that was received and is not durable; 0: none
	LagKnown    bool          // false also if nothing was received yet of what there is
	Pending     uint64        // messages in the stream that are not acknowledged
	InFlight    int           // of those, received
	// PendingKnown is false while the stream does not answer, or is not asked.
	PendingKnown bool

	Applied     uint64  // events made durable
	Skipped     uint64  // events that were not to be applied
	Rejected    uint64  // events that became dead letters
	Batches     uint64  // applied
	Rate        float64 // events applied a second, over the last ten seconds
	LastError   string
	LastErrorAt time.Time
	Tables      map[string]TableStatus
}

// After returns s with what earlier pipelines did, which s knows nothing of.
func (s Status) After(earlier Status) Status {
	if s.LastApplied.IsZero() {
		s.Position = earlier.Position
	}
	s.LastApplied, s.LastChange = later(earlier.LastApplied, s.LastApplied), later(earlier.LastChange, s.LastChange)
	s.Applied, s.Skipped, s.Rejected, s.Batches = s.Applied+earlier.Applied, s.Skipped+earlier.Skipped, s.Rejected+earlier.Rejected, s.Batches+earlier.Batches
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

// TableStatus counts what was applied to one table.
type TableStatus struct {
	Inserts, Updates, Deletes uint64
	LastApplied               time.Time
	LastChange                time.Time // by the source's clock
}

// add adds what was applied to t before, or to another table.
func (t *TableStatus) add(other *TableStatus) {
	t.Inserts += other.Inserts
	t.Updates += other.Updates
	t.Deletes += other.Deletes
	t.LastApplied, t.LastChange = later(t.LastApplied, other.LastApplied), later(t.LastChange, other.LastChange)
}

// tracker gathers what Status and the metrics tell. It is safe for concurrent use.
type tracker struct {
	logger   *slog.Logger
	metrics  *Metrics
	troubled atomic.Int32 // len(ordeals)

	mu       sync.Mutex
	ordeals  map[trouble]*ordeal
	ending   bool
	status   Status // its counters and what only they tell
	receives bool   // something was received
	behind   uint64 // messages in the stream behind the last that was received
	rate     rateMeter
	received []arrival // chunks in flight, oldest first

	lastError   string
	lastErrorAt time.Time
}

// arrival is when the stream stored the first message of a chunk.
type arrival struct{ first, last cdc.Position }

func newTracker(logger *slog.Logger, metrics *Metrics) *tracker {
	return &tracker{logger: logger, metrics: metrics, ordeals: make(map[trouble]*ordeal), status: Status{Tables: make(map[string]TableStatus)}}
}

// Status returns what the pipeline is doing. It is safe for concurrent use.
func (p *Pipeline) Status() Status {
	held, _ := p.flow.held()
	paused := p.flow.isPaused()
	var ill error
	var since time.Time
	var waiting uint64
	connected := true
	if source, ok := p.c.Source.(Patient); ok {
		since, ill = source.Health()
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
	s.InFlight, s.Pending = held, waiting+uint64(held)
	s.PendingKnown = connected && ill == nil && !paused && !t.ending
	s.Rate = t.rate.perSecond(time.Now())
	if len(t.received) > 0 {
		s.Lag, s.LagKnown = max(0, time.Since(time.Unix(0, t.received[0].first.Stored))), true
	} else {
		s.LagKnown = s.PendingKnown && s.Pending == 0
	}
	if paused {
		s.State = Paused
	}
	if ill != nil {
		s.State, s.Reason, s.Since = Waiting, "waiting for the stream: "+ill.Error(), since
	}
	for _, what := range []trouble{troubleSource, troubleSchema, troubleDeadLetters, troubleTables, troubleDestination} {
		if o := t.ordeals[what]; o != nil {
			s.State, s.Reason, s.Since = Waiting, "waiting for the "+string(what)+": "+o.reason, o.since
		}
	}
	if t.ending {
		s.State = Stopping
	}
	return s
}

func (t *tracker) stopping() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ending = true
}

// ended records that the run is over, with messages that were not acknowledged.
func (t *tracker) ended(messages int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ending, t.received = true, nil
	t.metrics.arrived(-messages)
}

// arrived records that messages were received.
func (t *tracker) arrived(c *chunk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, last := &c.messages[0], &c.messages[len(c.messages)-1]
	t.received = append(t.received, arrival{first.Position, last.Position})
	t.receives, t.behind = true, last.Pending
	t.metrics.arrived(len(c.messages))
}

// settled records that messages are acknowledged.
func (t *tracker) settled(d delivered) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Position = d.upTo
	for len(t.received) > 0 && t.received[0].last.Sequence <= d.upTo.Sequence {
		t.received = t.received[1:]
	}
	t.metrics.settled(d.messages)
}

// applied records that events were made durable, as c, which took that long.
func (t *tracker) applied(events []*item, c *change.Batch, took time.Duration) {
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
	counts = t.named(counts)
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

// named returns the counts by the names that they are told by.
func (t *tracker) named(counts map[string]*TableStatus) map[string]*TableStatus {
	named := make(map[string]*TableStatus, len(counts))
	for table, s := range counts {
		name := t.metrics.tables.of(table)
		if sum := named[name]; sum != nil {
			sum.add(s)
		} else {
			named[name] = s
		}
	}
	return named
}

// changed returns when the source made the change.
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

// delivered records that all of a batch is durable, and which dead letters are left.
func (t *tracker) delivered(b *batch, letters dlq.Counts) {
	t.metrics.delivered(b)
	t.metrics.CountLetters(letters)
	skipped := 0
	for _, n := range b.skipped {
		skipped += n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Skipped += uint64(skipped)
}

func (t *tracker) buried(e *dlq.Entry) {
	t.metrics.deadLetters.WithLabelValues(t.metrics.letterTables.of(e.Table), e.Stage).Inc()
	t.logger.Error("an event can not be applied; it is in the dead-letter queue", "table", e.Table, "operation", e.Operation,
		"event", e.EventID, "sequence", e.Sequence, "stage", e.Stage, "reason", e.Reason)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.status.Rejected++
	t.lastError, t.lastErrorAt = e.Reason, e.Time
}

// migrated counts changes of the destination's tables, which the sink has logged.
func (t *tracker) migrated(lines []string) {
	t.metrics.migrations.Add(float64(len(lines)))
}

// rateMeter counts events by second.
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
