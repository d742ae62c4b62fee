package pipeline

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
)

// Metrics are the figures of all pipelines of a process, one after the other.
type Metrics struct {
	pending    prometheus.Gauge
	total      prometheus.Counter
	flush      prometheus.Histogram
	flushed    prometheus.Histogram
	processing prometheus.Histogram

	tableLag           *prometheus.GaugeVec
	lastApplied        *prometheus.GaugeVec
	rows               *prometheus.CounterVec
	batchRows          prometheus.Histogram
	batchBytes         prometheus.Histogram
	retries            *prometheus.CounterVec
	deadLetters        *prometheus.CounterVec
	deadLettersMissing prometheus.Gauge
	deadLettersUnknown prometheus.Gauge
	skipped            *prometheus.CounterVec
	migrations         prometheus.Counter

	tables       tableNames // that changes were applied to
	letterTables tableNames // that dead letters are of

	running atomic.Pointer[Pipeline] // nil: none
	held    atomic.Int64
	events  atomic.Uint64
	batches atomic.Uint64
}

// Counts are the figures that a heartbeat tells HQ. A histogram is told as its
// sample count.
type Counts struct {
	FlushCount, FlushDuration, ProcessingDuration uint64
	PendingEvents                                 int64
	TotalEvents                                   uint64
}

// Counts returns the present figures.
func (m *Metrics) Counts() Counts {
	n := m.batches.Load()
	return Counts{FlushCount: n, FlushDuration: n, ProcessingDuration: n, PendingEvents: m.held.Load(), TotalEvents: m.events.Load()}
}

// NewMetrics registers the figures with r. It panics where they are registered
// already, as prometheus.MustRegister does.
func NewMetrics(r prometheus.Registerer) *Metrics {
	seconds := prometheus.ExponentialBuckets(0.001, 2, 16) // 1 ms to 33 s
	sizes := prometheus.ExponentialBuckets(1, 4, 10)       // 1 to 262,144
	gauge := func(name, help string) prometheus.GaugeOpts { return prometheus.GaugeOpts{Name: name, Help: help} }
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &Metrics{
		pending:    prometheus.NewGauge(gauge("eds_pending_events", "Events received and not yet acknowledged.")),
		total:      prometheus.NewCounter(counter("eds_total_events", "Events received and acknowledged.")),
		flush:      histogram("eds_flush_duration_seconds", "Time to make a batch durable at the destination.", seconds),
		flushed:    histogram("eds_flush_count", "Events a batch.", sizes),
		processing: histogram("eds_processing_duration_seconds", "Time from the receipt of a batch's first event until all of it was durable.", seconds),

		tableLag:           prometheus.NewGaugeVec(gauge("eds_table_lag_seconds", "Time from the newest applied change at the source until it was durable."), []string{"table"}),
		lastApplied:        prometheus.NewGaugeVec(gauge("eds_last_applied_timestamp_seconds", "When changes were last made durable."), []string{"table"}),
		rows:               prometheus.NewCounterVec(counter("eds_applied_rows_total", "Changes made durable."), []string{"table", "operation"}),
		batchRows:          histogram("eds_batch_rows", "Rows a batch, after compaction.", sizes),
		batchBytes:         histogram("eds_batch_bytes", "Payload bytes a batch.", prometheus.ExponentialBuckets(1024, 4, 9)),
		retries:            prometheus.NewCounterVec(counter("eds_retries_total", "Attempts that failed and were repeated."), []string{"what"}),
		deadLetters:        prometheus.NewCounterVec(counter("eds_dead_letters_total", "Events that could not be applied."), []string{"table", "stage"}),
		deadLettersMissing: prometheus.NewGauge(gauge("eds_dead_letters", "Dead letters that are not superseded: what the destination lacks.")),
		deadLettersUnknown: prometheus.NewGauge(gauge("eds_dead_letters_unknown", "Of these, those of which it is not known which rows they concern, or what the destination has of them.")),
		skipped:            prometheus.NewCounterVec(counter("eds_skipped_events_total", "Events that were not to be applied."), []string{"reason"}),
		migrations:         prometheus.NewCounter(counter("eds_migrations_total", "Changes made to the destination's tables.")),
	}
	r.MustRegister(m.pending, m.total, m.flush, m.flushed, m.processing, m.tableLag, m.lastApplied, m.rows, m.batchRows,
		m.batchBytes, m.retries, m.deadLetters, m.deadLettersMissing, m.deadLettersUnknown, m.skipped, m.migrations,
		prometheus.NewGaugeFunc(gauge("eds_lag_seconds", "Age of the oldest change that was received and is not durable; NaN if it is not known."), m.lag))
	return m
}

// lag returns the lag in seconds; NaN if it is not known.
func (m *Metrics) lag() float64 {
	if p := m.running.Load(); p != nil {
		if s := p.Status(); s.LagKnown {
			return s.Lag.Seconds()
		}
	}
	return math.NaN()
}

// The stream can name any number of tables. Of those beyond maxTables the figures are
// told together, as those of otherTables.
const (
	maxTables    = 1000
	maxTableName = 128 // bytes
	otherTables  = "(other tables)"
)

// tableNames are the names that figures are told by. It is safe for concurrent use; the
// zero value is empty.
type tableNames struct {
	mu    sync.Mutex
	known map[string]bool
}

// label bounds the length of what the stream calls a table, and makes it text.
func label(table string) string {
	return strings.ToValidUTF8(table[:min(len(table), maxTableName)], "\ufffd")
}

// of returns the name by which a table's figures are told.
func (n *tableNames) of(table string) string {
	table = label(table)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = make(map[string]bool)
	}
	if !n.known[table] {
		if len(n.known) >= maxTables {
			return otherTables
		}
		n.known[strings.Clone(table)] = true
	}
	return table
}

func (m *Metrics) arrived(messages int) {
	m.held.Add(int64(messages))
	m.pending.Set(float64(m.held.Load()))
}

func (m *Metrics) settled(messages int) {
	m.arrived(-messages)
	m.total.Add(float64(messages))
	m.events.Add(uint64(messages))
}

func (m *Metrics) applied(tables map[string]*TableStatus, events int, c *change.Batch, took time.Duration) {
	m.flush.Observe(took.Seconds())
	m.flushed.Observe(float64(events))
	m.batchBytes.Observe(float64(c.Bytes))
	rows := c.Rows()
	if c.Sets == nil {
		rows = events
	}
	m.batchRows.Observe(float64(rows))
	for table, s := range tables {
		m.tableLag.WithLabelValues(table).Set(s.LastApplied.Sub(s.LastChange).Seconds())
		m.lastApplied.WithLabelValues(table).Set(float64(s.LastApplied.UnixMilli()) / 1000)
		for operation, n := range map[string]uint64{"INSERT": s.Inserts, "UPDATE": s.Updates, "DELETE": s.Deletes} {
			if n > 0 {
				m.rows.WithLabelValues(table, operation).Add(float64(n))
			}
		}
	}
}

// CountLetters tells of the dead letters that there are now.
func (m *Metrics) CountLetters(c dlq.Counts) {
	m.deadLettersMissing.Set(float64(c.Lacks()))
	m.deadLettersUnknown.Set(float64(c.Unknown))
}

func (m *Metrics) delivered(b *batch) {
	m.batches.Add(1)
	m.processing.Observe(time.Since(b.began).Seconds())
	for reason, n := range b.skipped {
		m.skipped.WithLabelValues(string(reason)).Add(float64(n))
	}
}
