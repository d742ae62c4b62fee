package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/shopmonkeyus/eds/internal/build"
)

// NewRegistry returns a registry with metrics of the process, the Go runtime and h, and with
// the metric eds_build_info.
func NewRegistry(b build.Info, h *Health) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "eds_build_info",
		Help:        "Always 1; the labels describe the build.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.GoVersion},
	})
	info.Set(1)
	r.MustRegister(info, h, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

var conditionDesc = prometheus.NewDesc("eds_health_condition",
	`Always 1: the condition fails (severity "error") or has a warning ("warning"), as the health body says.`, []string{
		"condition",
		"severity",
	}, nil)

// Describe implements prometheus.Collector.
func (h *Health) Describe(descs chan<- *prometheus.Desc) {
	descs <- conditionDesc
	descs <- tableStateDesc
	descs <- tablesDesc
}

// Collect implements prometheus.Collector. It sends one eds_health_condition for each reason
// and each warning, and the metrics of tables.
func (h *Health) Collect(metrics chan<- prometheus.Metric) {
	tables := h.readTables()
	report := h.report(tables)
	collectTables(tables, metrics)
	for severity, reasons := range map[string][]Reason{"error": report.Reasons, "warning": report.Warnings} {
		for _, r := range reasons {
			metrics <- prometheus.MustNewConstMetric(conditionDesc, prometheus.GaugeValue, 1, r.Condition, severity)
		}
	}
}
