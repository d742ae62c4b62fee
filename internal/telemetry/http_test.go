package telemetry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

var thisBuild = build.Info{Version: "1.2.3", Commit: "abc", GoVersion: "go1"}

// serve runs a server until the test ends, or stop is called, and returns its URL.
func serve(t *testing.T, h *telemetry.Health, metrics prometheus.Gatherer) (url string, stop func()) {
	t.Helper()
	if metrics == nil {
		metrics = prometheus.NewRegistry()
	}
	s, err := telemetry.Listen(t.Context(), telemetry.HTTPOptions{
		Host: "127.0.0.1", Health: h, Metrics: metrics, Build: thisBuild,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return "http://" + s.Addr().String(), stop
}

// answer is what a request is answered with, but for times.
type answer struct {
	Code int
	Body string
}

func request(t *testing.T, method, url string) (answer, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, string(body)}, response.Header
}

// report is the body of / and /ready.
type report struct {
	Status  string
	Reasons []struct{ Condition, Message string }
	Version string
	Uptime  *int64 `json:"uptimeSeconds"`
}

func health(t *testing.T, url string) (int, report) {
	t.Helper()
	got, header := request(t, http.MethodGet, url)
	var r report
	if err := json.Unmarshal([]byte(got.Body), &r); err != nil {
		t.Fatal(err)
	}
	if header.Get("Content-Type") != "application/json" || r.Version != "1.2.3" || r.Uptime == nil {
		t.Errorf("%v: %s", header, got.Body)
	}
	return got.Code, r
}

func TestHTTP_ServesHealth(t *testing.T) {
	h := telemetry.NewHealth()
	url, _ := serve(t, h, nil)
	type codes struct {
		Health, Ready int
		Status        string
	}
	now := func() codes {
		health1, r := health(t, url+"/")
		ready, r2 := health(t, url+"/ready")
		if diff := cmp.Diff(r.Reasons, r2.Reasons); diff != "" {
			t.Error(diff)
		}
		return codes{health1, ready, r.Status}
	}
	for _, step := range []struct {
		do   func()
		want codes
	}{
		{func() {}, codes{200, 503, "starting"}},
		{h.Ready, codes{200, 200, "ok"}},
		{func() { h.Set("destination", errors.New("dial tcp: refused")) }, codes{503, 503, "unhealthy"}},
		{func() { h.Set("destination", nil) }, codes{200, 200, "ok"}},
		{h.ShutDown, codes{503, 503, "shutting down"}},
	} {
		step.do()
		if diff := cmp.Diff(step.want, now()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestHealth_SortsReasonsAndMasksSecrets(t *testing.T) {
	h := telemetry.NewHealth()
	h.Set("source", errors.New("no servers"))
	h.Set("destination", errors.New("dial postgres://u:SECRET@h/db: refused"))
	h.Set("gone", errors.New("x"))
	h.Set("gone", nil)
	url, _ := serve(t, h, nil)
	_, got := health(t, url+"/")
	want := []struct{ Condition, Message string }{{"destination", "dial postgres://u:***@h/db: refused"}, {"source", "no servers"}}
	if diff := cmp.Diff(want, got.Reasons); diff != "" {
		t.Error(diff)
	}
}

func TestHealth_KeepsTheTimeOfAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := telemetry.NewHealth()
		began := time.Now().UTC()
		h.Set("destination", errors.New("first"))
		<-time.After(time.Minute)
		h.Set("destination", errors.New("second"))
		want := telemetry.Report{
			Status:  telemetry.Unhealthy,
			Reasons: []telemetry.Reason{{Condition: "destination", Message: "second", Since: began}}, Warnings: []telemetry.Reason{},
		}
		if diff := cmp.Diff(want, h.Report()); diff != "" {
			t.Error(diff)
		}
		h.Set("destination", nil)
		h.Set("destination", errors.New("third"))
		if got := h.Report().Reasons[0].Since; !got.Equal(began.Add(time.Minute)) {
			t.Errorf("since %v", got)
		}
	})
}

func TestHealth_ReportHasEmptyLists(t *testing.T) {
	url, _ := serve(t, telemetry.NewHealth(), nil)
	if got, _ := request(t, http.MethodGet, url); !strings.Contains(got.Body, `"reasons": []`) ||
		!strings.Contains(got.Body, `"warnings": []`) {
		t.Error(got.Body)
	}
}

func TestHealth_WarningsDoNotCount(t *testing.T) {
	h := telemetry.NewHealth()
	h.Ready()
	h.Warn("nats", "nats://u:SECRET@h is not encrypted")
	h.Warn("hq", "x")
	h.Warn("hq", "")
	url, _ := serve(t, h, nil)
	for _, path := range []string{"/", "/ready"} {
		got, _ := request(t, http.MethodGet, url+path)
		if got.Code != http.StatusOK || !strings.Contains(got.Body, `"message": "nats://u:***@h is not encrypted"`) ||
			strings.Contains(got.Body, `"hq"`) {
			t.Errorf("%s: %d %s", path, got.Code, got.Body)
		}
	}
	if r := h.Report(); r.Status != telemetry.OK || len(r.Reasons) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestHTTP_IsReadOnly(t *testing.T) {
	url, _ := serve(t, telemetry.NewHealth(), nil)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, "SHUTDOWN"} {
		for _, path := range []string{"/", "/ready", "/metrics", "/other"} {
			got, header := request(t, method, url+path)
			if got.Code != http.StatusMethodNotAllowed || header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d", method, path, got.Code)
			}
		}
	}
	if got, _ := request(t, http.MethodHead, url+"/"); got != (answer{200, ""}) {
		t.Errorf("HEAD: %+v", got)
	}
	for _, path := range []string{"/other", "/debug/pprof/", "/control/shutdown"} {
		if got, _ := request(t, http.MethodGet, url+path); got.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.Code)
		}
	}
}

func TestHTTP_ServesMetrics(t *testing.T) {
	r := telemetry.NewRegistry(thisBuild, telemetry.NewHealth())
	const want = `
# HELP eds_build_info Always 1; the labels describe the build.
# TYPE eds_build_info gauge
eds_build_info{commit="abc",goversion="go1",version="1.2.3"} 1
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "eds_build_info"); err != nil {
		t.Error(err)
	}
	url, _ := serve(t, telemetry.NewHealth(), r)
	got, header := request(t, http.MethodGet, url+"/metrics")
	for _, name := range []string{"eds_build_info", "go_goroutines", "process_start_time_seconds"} {
		if !strings.Contains(got.Body, "\n"+name) {
			t.Errorf("no %s among the metrics", name)
		}
	}
	if got.Code != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
		t.Errorf("%d, %v", got.Code, header)
	}
}

func TestListen_NamesAPortInUse(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	port := other.Addr().(*net.TCPAddr).Port
	_, err = telemetry.Listen(t.Context(), telemetry.HTTPOptions{Host: "127.0.0.1", Port: port})
	want := fmt.Sprintf("listen on port %d for health and metrics: another program uses it; "+
		"give a free port with --port, or 0 for any", port)
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestListen_OnAllInterfacesByDefault(t *testing.T) {
	for host, want := range map[string]bool{"": true, "127.0.0.1": false} {
		s, err := telemetry.Listen(t.Context(), telemetry.HTTPOptions{Host: host, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Addr().IP.IsUnspecified(); got != want {
			t.Errorf("host %q listens on %v", host, s.Addr())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// slow is a collector that waits.
type slow struct{ entered, leave chan struct{} }

func (slow) Describe(chan<- *prometheus.Desc) {}

func (s slow) Collect(chan<- prometheus.Metric) {
	s.entered <- struct{}{}
	<-s.leave
}

func TestHTTP_WaitsForOpenRequests(t *testing.T) {
	r := prometheus.NewRegistry()
	collector := slow{make(chan struct{}), make(chan struct{})}
	r.MustRegister(collector)
	url, stop := serve(t, telemetry.NewHealth(), r)
	codes := make(chan int)
	go func() {
		got, _ := request(t, http.MethodGet, url+"/metrics")
		codes <- got.Code
	}()
	<-collector.entered
	ended := make(chan struct{})
	go func() { stop(); close(ended) }()
	// The port is released before the request is answered.
	address := strings.TrimPrefix(url, "http://")
	for {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	select {
	case <-ended:
		t.Error("the server ended before its request did")
	default:
	}
	close(collector.leave)
	if code := <-codes; code != 200 {
		t.Errorf("answered %d", code)
	}
	<-ended
}

func TestHTTP_RefusesHugeHeaders(t *testing.T) {
	url, _ := serve(t, telemetry.NewHealth(), nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		// The server hangs up half-way.
		_, _ = io.Copy(conn, io.MultiReader(strings.NewReader("GET / HTTP/1.1\r\nHost: x\r\nX: "), bytes.NewReader(make([]byte, 1<<20))))
	}()
	status, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(status, "431") && !strings.Contains(status, "400") {
		t.Errorf("%q, %v", status, err)
	}
}

func TestHealth_IsInTheMetrics(t *testing.T) {
	h := telemetry.NewHealth()
	h.Set("stream", errors.New("changes are missing"))
	h.Warn("scope", "only some rows were imported")
	url, _ := serve(t, h, telemetry.NewRegistry(thisBuild, h))
	got, _ := request(t, http.MethodGet, url+"/metrics")
	for _, want := range []string{
		`eds_health_condition{condition="scope",severity="warning"} 1`, `eds_health_condition{condition="stream",severity="error"} 1`,
	} {
		if !strings.Contains(got.Body, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}
