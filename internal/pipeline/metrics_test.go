package pipeline_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/pipeline"
)

// gathered returns the registry's counters, gauges and sample counts, one per line, without the
// values of times.
func gathered(t *testing.T, r *prometheus.Registry) []string {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			name := strings.Join(append([]string{f.GetName()}, labels...), " ")
			switch {
			case strings.HasSuffix(f.GetName(), "timestamp_seconds"), strings.HasSuffix(f.GetName(), "lag_seconds"):
				lines = append(lines, name)
			case f.GetType() == dto.MetricType_HISTOGRAM:
				lines = append(lines, fmt.Sprintf("%s: %d samples", name, m.Histogram.GetSampleCount()))
			case f.GetType() == dto.MetricType_COUNTER:
				lines = append(lines, fmt.Sprintf("%s: %v", name, m.Counter.GetValue()))
			default:
				lines = append(lines, fmt.Sprintf("%s: %v", name, m.Gauge.GetValue()))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func TestMetrics_CountARun(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics := pipeline.NewMetrics(registry)
	insert := strings.Replace(put("b", "1", "x"), "UPDATE", "INSERT", 1)
	inBubble(t, []string{
		put("a", "1", "x"), put("a", "1", "y"), remove("a", "2"), insert, "nonsense", at("50", put("a", "3", "x")),
	}, func(t *testing.T, r *rig) {
		r.config.Metrics = metrics
		r.config.SnapshotClock = func(string) (cdc.Timestamp, bool) { return cdc.Timestamp{Wall: 100}, true }
		r.mustStart(t)
		synctest.Wait()
		r.source.publish(put("a", "4", "x"))
		synctest.Wait()
		equal(t, pipeline.Counts{FlushCount: 2, FlushDuration: 2, ProcessingDuration: 2, TotalEvents: 7}, metrics.Counts())

		now := time.Now()
		s := r.Status()
		if s.Rate < 4 || s.Position.Sequence != 7 || s.Lag != 0 || s.Pending != 0 {
			t.Errorf("status %+v", s)
		}
		equal(t, map[string]pipeline.TableStatus{
			"a": {Updates: 3, Deletes: 1, LastApplied: now, LastChange: time.UnixMilli(1).UTC()},
			"b": {Inserts: 1, LastApplied: now, LastChange: time.UnixMilli(1).UTC()},
		}, s.Tables)
	})
	equal(t, []string{
		"eds_applied_rows_total DELETE a: 1",
		"eds_applied_rows_total INSERT b: 1",
		"eds_applied_rows_total UPDATE a: 3",
		"eds_batch_bytes: 2 samples",
		"eds_batch_rows: 2 samples",
		"eds_dead_letters: 1",
		"eds_dead_letters_total decode : 1",
		"eds_dead_letters_unknown: 1",
		"eds_flush_count: 2 samples",
		"eds_flush_duration_seconds: 2 samples",
		"eds_lag_seconds",
		"eds_last_applied_timestamp_seconds a",
		"eds_last_applied_timestamp_seconds b",
		"eds_migrations_total: 2",
		"eds_pending_events: 0",
		"eds_processing_duration_seconds: 2 samples",
		"eds_skipped_events_total snapshot: 1",
		"eds_table_lag_seconds a",
		"eds_table_lag_seconds b",
		"eds_total_events: 7",
	}, gathered(t, registry))
}

func TestMetrics_ContinueWithTheNextPipeline(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics := pipeline.NewMetrics(registry)
	for range 2 {
		inBubble(t, []string{put("a", "1", "x"), put("a", "2", "x")}, func(t *testing.T, r *rig) {
			r.config.Metrics, r.config.MinLatency, r.config.MaxLatency = metrics, time.Hour, time.Hour
			r.mustStart(t)
			synctest.Wait()
			equal(t, 2, metrics.Counts().PendingEvents)
			r.hard()
			_ = r.finish()
			equal(t, 0, metrics.Counts().PendingEvents)
		})
	}
}

func TestMetrics_LimitTheTableLabels(t *testing.T) {
	const tables = 1500 // more than the limit
	registry := prometheus.NewRegistry()
	metrics := pipeline.NewMetrics(registry)
	var payloads []string
	for i := range tables {
		payloads = append(payloads, put(fmt.Sprint("applied", i), "1", "x"), "nonsense")
	}
	for range 2 { // two sessions
		inBubble(t, payloads, func(t *testing.T, r *rig) {
			for i := range r.source.messages {
				r.source.messages[i].Subject = fmt.Sprintf("dbchange.broken%d.UPDATE.c.l.PUBLIC.x", i)
			}
			r.config.Metrics, r.config.Sink, r.config.KeepsRows = metrics, &historySink{}, false
			r.mustStart(t)
			if err := r.source.await(t.Context(), 2*tables); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			all := r.Status().Tables
			if len(all) > 1001 {
				t.Errorf("the status has %d tables", len(all))
			}
			updates := uint64(0)
			for _, s := range all {
				updates += s.Updates
			}
			equal(t, tables, updates)
			r.mustStop(t)
		})
	}
	series := make(map[string]int)
	for _, line := range gathered(t, registry) {
		series[strings.Fields(line)[0]]++
	}
	for _, name := range []string{
		"eds_applied_rows_total", "eds_last_applied_timestamp_seconds", "eds_table_lag_seconds", "eds_dead_letters_total",
	} {
		equal(t, 1001, series[name])
	}
}
