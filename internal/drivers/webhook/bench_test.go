package webhook

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// BenchmarkApply measures the sink and net/http alone, in alternation, with an endpoint that
// discards the requests. With net/http it posts the same bodies, which are built in advance but
// signed as part of the measurement. It reports both rates and their ratio.
func BenchmarkApply(b *testing.B) {
	for _, columns := range []int{20, 60} {
		b.Run(fmt.Sprintf("%d columns", columns), func(b *testing.B) { benchmark(b, columns) })
	}
}

func benchmark(b *testing.B, columns int) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Error(err)
		}
	}))
	b.Cleanup(server.Close)
	const count = 5000
	apply := sinktest.Batch(sinktest.WideEvents(b, count, count, columns)...)
	s := mustOpen(b, server.URL+"/in?secret="+secret)
	var bodies [][]byte
	for events := apply.Events; len(events) > 0; {
		n := s.fitting(events)
		bodies = append(bodies, s.body(events[:n]).text)
		events = events[n:]
	}
	client := &http.Client{Transport: new(http.Transport)}
	b.Cleanup(client.CloseIdleConnections)
	post := func() {
		for i, body := range bodies {
			postBare(b, client, server.URL+"/in", strconv.Itoa(i), body)
		}
	}
	sinktest.Apply(b, s, apply) // from here on, both are connected
	post()
	var eds, bare time.Duration
	for b.Loop() {
		began := time.Now()
		sinktest.Apply(b, s, apply)
		turn := time.Now()
		post()
		eds, bare = eds+turn.Sub(began), bare+time.Since(turn)
	}
	b.ReportMetric(float64(count*b.N)/eds.Seconds(), "events/s")
	b.ReportMetric(float64(count*b.N)/bare.Seconds(), "bare-events/s")
	b.ReportMetric(bare.Seconds()/eds.Seconds(), "ratio")
}

func postBare(b *testing.B, client *http.Client, address, id string, body []byte) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", stamp)
	r.Header.Set("Webhook-Signature", sign(mustSecret(b), id, stamp, body))
	response, err := client.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		b.Error(err)
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("%s: %v", response.Status, err)
	}
}
