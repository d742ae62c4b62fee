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

// Metrics holds the metrics of all pipelines that a process runs. The pipelines run one after the
// other.
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

	tables           tableNames // table labels of applied changes
	deadLetterTables tableNames // table labels of dead letters

	running        atomic.Pointer[Pipeline] // nil if no pipeline runs
	unacknowledged atomic.Int64
	events         atomic.Uint64
	batches        atomic.Uint64
}

// Counts are the counts that a heartbeat reports to HQ. The fields for histograms hold the number
// of samples.
type Counts struct {
	FlushCount, FlushDuration, ProcessingDuration uint64
	PendingEvents                                 int64
	TotalEvents                                   uint64
}

// Counts returns the current counts.
func (m *Metrics) Counts() Counts {
	n := m.batches.Load()
	return Counts{
		FlushCount: n, FlushDuration: n, ProcessingDuration: n,
		PendingEvents: m.unacknowledged.Load(), TotalEvents: m.events.Load(),
	}
}

// NewMetrics registers the metrics with r. It panics if they are already registered, as
// prometheus.MustRegister does.
func NewMetrics(r prometheus.Registerer) *Metrics {
	seconds := prometheus.ExponentialBuckets(0.001, 2, 16) // 1 ms to 33 s
	sizes := prometheus.ExponentialBuckets(1, 4, 10)       // 1 to 262,144
	gaugeOpts := func(name, help string) prometheus.GaugeOpts { return prometheus.GaugeOpts{Name: name, Help: help} }
	gauge := func(name, help string) prometheus.Gauge { return prometheus.NewGauge(gaugeOpts(name, help)) }
	gaugeVec := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(gaugeOpts(name, help), labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counterVec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	m := &Metrics{
		pending: gauge("eds_pending_events", "Events received and not yet acknowledged."),
		total:   counter("eds_total_events", "Events received and acknowledged."),
		flush:   histogram("eds_flush_duration_seconds", "Time to make a batch durable at the destination.", seconds),
		flushed: histogram("eds_flush_count", "Events per batch.", sizes),
		processing: histogram("eds_processing_duration_seconds",
			"Time from the receipt of a batch's first event until the whole batch was durable.", seconds),

		tableLag: gaugeVec("eds_table_lag_seconds",
			"Time from the newest applied change at the source until it was durable.", "table"),
		lastApplied: gaugeVec("eds_last_applied_timestamp_seconds", "When changes were last made durable.", "table"),
		rows:        counterVec("eds_applied_rows_total", "Changes made durable.", "table", "operation"),
		batchRows:   histogram("eds_batch_rows", "Rows per batch, after compaction.", sizes),
		batchBytes:  histogram("eds_batch_bytes", "Payload bytes per batch.", prometheus.ExponentialBuckets(1024, 4, 9)),
		retries:     counterVec("eds_retries_total", "Attempts that failed and were retried.", "what"),
		deadLetters: counterVec("eds_dead_letters_total", "Events that could not be applied.", "table", "stage"),
		deadLettersMissing: gauge("eds_dead_letters",
			"Dead letters that are not superseded: changes that the destination lacks."),
		deadLettersUnknown: gauge("eds_dead_letters_unknown",
			"Part of eds_dead_letters: entries that may concern any row, or that the destination may have in part."),
		skipped:    counterVec("eds_skipped_events_total", "Events that were skipped.", "reason"),
		migrations: counter("eds_migrations_total", "Changes made to the destination's tables."),
	}
	lag := prometheus.NewGaugeFunc(gaugeOpts("eds_lag_seconds",
		"Age of the oldest change that was received and is not durable; NaN if it is not known."), m.lag)
	r.MustRegister(m.pending, m.total, m.flush, m.flushed, m.processing, m.tableLag, m.lastApplied, m.rows, m.batchRows,
		m.batchBytes, m.retries, m.deadLetters, m.deadLettersMissing, m.deadLettersUnknown, m.skipped, m.migrations, lag)
	return m
}

// lag returns the lag in seconds, or NaN if it is unknown.
func (m *Metrics) lag() float64 {
	if p := m.running.Load(); p != nil {
		if s := p.Status(); s.LagKnown {
			return s.Lag.Seconds()
		}
	}
	return math.NaN()
}

// These constants bound the label values, because the stream can name any number of tables. Tables
// beyond maxTables share the series of otherTables.
const (
	maxTables    = 1000
	maxTableName = 128 // maximum length of a label value, in bytes
	otherTables  = "(other tables)"
)

// tableNames holds the values of the label "table". It is safe for concurrent use. The zero value
// is empty.
type tableNames struct {
	mu    sync.Mutex
	known map[string]bool
}

// label returns a table's name from the stream, cut to maxTableName and converted to valid UTF-8.
func label(table string) string {
	return strings.ToValidUTF8(table[:min(len(table), maxTableName)], "\ufffd")
}

// of returns the label value of a table: its name, or otherTables if there are too many tables.
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
	m.unacknowledged.Add(int64(messages))
	m.pending.Set(float64(m.unacknowledged.Load()))
}

func (m *Metrics) acknowledged(messages int) {
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

// SetDeadLetters sets the gauges of dead letters.
func (m *Metrics) SetDeadLetters(c dlq.EntryCounts) {
	m.deadLettersMissing.Set(float64(c.Lacks()))
	m.deadLettersUnknown.Set(float64(c.Unknown))
}

func (m *Metrics) batchDone(b *receivedBatch) {
	m.batches.Add(1)
	m.processing.Observe(time.Since(b.began).Seconds())
	for reason, n := range b.skipped {
		m.skipped.WithLabelValues(string(reason)).Add(float64(n))
	}
}
