package webhook

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

func TestMain(m *testing.M) { sinktest.Main(m) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func openURL(t testing.TB, raw string) (*Sink, error) {
	t.Helper()
	s, err := sinktest.Open(t, Driver(), raw, sink.Env{})
	if err != nil {
		return nil, err
	}
	return s.(*Sink), nil
}

func mustOpen(t testing.TB, raw string) *Sink {
	t.Helper()
	s, err := openURL(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func payload(n int) string {
	return fmt.Sprintf(`{"operation":"UPDATE","id":"ev%d","table":"order","key":["k"],"after":{"id":"k","n":%d},"mvccTimestamp":"%d"}`, n,
		n, n)
}

func run(t testing.TB, first, last int) *change.Batch {
	t.Helper()
	var events []*cdc.Event
	for n := first; n <= last; n++ {
		events = append(events, sinktest.Event(t, n, payload(n)))
	}
	return sinktest.Batch(events...)
}

func payloads(first, last int) (all []string) {
	for n := first; n <= last; n++ {
		all = append(all, payload(n))
	}
	return all
}

func TestConformance(t *testing.T) {
	e := newReceiver(t)
	sinktest.Run(t, sinktest.Config{
		Driver: Driver(),
		URL: func(testing.TB) string {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.count++
			return fmt.Sprintf("%s/%d?secret=%s&gzip=true", e.URL, e.count, secret)
		},
		Faulty: func(t testing.TB, raw string, env sink.Env) (sink.Sink, sinktest.Faults) {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			proxy := sinktest.NewProxy(t, u.Host)
			u.Host = proxy.Addr()
			s, err := Driver().Open(t.Context(), u, env)
			if err != nil {
				t.Fatal(err)
			}
			return s, proxy
		},
		History: func(t testing.TB, raw string) []sinktest.Stored {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			var all []sinktest.Stored
			for i, line := range e.taken(u.Path) {
				all = append(all, sinktest.Stored{Place: fmt.Sprint(i), Event: []byte(line)})
			}
			return all
		},
		Duplicates: true,
	})
}

// TestRequest_OnTheWire pins the format of requests, on which authors of endpoints rely.
func TestRequest_OnTheWire(t *testing.T) {
	e := newReceiver(t)
	u, err := url.Parse(e.URL + "/in?tenant=a+b&eds-secret=" + secret + "&eds-header=X-Team:%20shop&eds-secret-header=X-Team:two")
	if err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, u.String())
	s.now = func() time.Time { return time.Unix(1712345678, 0) }
	if err := s.Apply(t.Context(), run(t, 7, 8)); err != nil {
		t.Fatal(err)
	}
	r := e.requests[0]
	got := []string{
		r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"),
		r.Header.Get("Webhook-Signature"), strings.Join(r.Header["X-Team"], "|"), r.UserAgent(),
	}
	// openssl dgst -sha256 -mac hmac computes the same signature.
	want := []string{
		"POST", "/in?tenant=a+b", "application/x-ndjson", "eds_7-8_3a44644c1722122ff2d5e9a0", "1712345678",
		"v1,SL3aaxpA068+xOOuNSXzjfy7K/MX/MVNiHcIMuIdQJ8=", "shop|two", "eds",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(payloads(7, 8), e.taken("/in")); diff != "" {
		t.Error(diff)
	}
}

func mustSecret(t testing.TB) []byte {
	t.Helper()
	key, err := parseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestSign_MatchesTheStandard uses the example from the Standard Webhooks libraries.
func TestSign_MatchesTheStandard(t *testing.T) {
	got := sign(mustSecret(t), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestApply_SameBatchHasTheSameID(t *testing.T) {
	e := newReceiver(t)
	for range 2 {
		s := mustOpen(t, e.url(""))
		for _, b := range []*change.Batch{run(t, 1, 3), run(t, 4, 6)} {
			if err := s.Apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(e.ids) != 4 || e.ids[0] != e.ids[2] || e.ids[1] != e.ids[3] || e.ids[0] == e.ids[1] {
		t.Errorf("the ids are %q", e.ids)
	}
}

func TestApply_ClassifiesResponses(t *testing.T) {
	e := newReceiver(t)
	s := mustOpen(t, e.url(""))
	status, after := 0, ""
	e.answer = func(w http.ResponseWriter, body []byte) bool {
		w.Header().Set("Retry-After", after)
		w.WriteHeader(status)
		_, _ = w.Write(body) // an endpoint's response may repeat a rejected change
		return false
	}
	for _, c := range []struct {
		status int
		after  string
		class  fault.Class
		wait   time.Duration
	}{
		{408, "", fault.Transient, 0},
		{425, "", fault.Transient, 0},
		{429, "7", fault.Transient, 7 * time.Second},
		{429, "99999999", fault.Transient, 10 * time.Minute},
		{429, "9999999999", fault.Transient, 10 * time.Minute},
		{503, "nonsense", fault.Transient, 0},
		{503, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), fault.Transient, 0},
		{500, "", fault.Transient, 0},
		{400, "", fault.Fatal, 0},
		{401, "", fault.Fatal, 0},
		{404, "", fault.Fatal, 0},
		{410, "", fault.Fatal, 0},
		{501, "", fault.Fatal, 0},
		{304, "", fault.Fatal, 0},
		{413, "", fault.Poison, 0},
		{422, "", fault.Poison, 0},
	} {
		status, after = c.status, c.after
		err := s.Apply(t.Context(), run(t, 1, 1))
		if err == nil || fault.Of(err) != c.class || fault.RetryAfter(err) != c.wait || strings.Contains(err.Error(), "ev1") {
			t.Errorf("%d: %v, wait %v: %v", c.status, fault.Of(err), fault.RetryAfter(err), err)
		}
	}
	if lines := e.taken("/in"); lines != nil {
		t.Errorf("it accepted %q", lines)
	}
}

func TestApply_HalvesAnOversizedRequest(t *testing.T) {
	e := newReceiver(t)
	s := mustOpen(t, e.url("&rows=20"))
	e.answer = func(w http.ResponseWriter, body []byte) bool {
		if bytes.Count(body, []byte("\n")) > 3 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return false
		}
		return true
	}
	if err := s.Apply(t.Context(), run(t, 1, 50)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(payloads(1, 50), e.taken("/in")); diff != "" {
		t.Error(diff)
	}
}

func TestApply_BoundsRequests(t *testing.T) {
	e := newReceiver(t)
	most := 0
	e.answer = func(_ http.ResponseWriter, body []byte) bool {
		most = max(most, len(body))
		return true
	}
	s := mustOpen(t, e.url("&rows=7&bytes=400"))
	if err := s.Apply(t.Context(), run(t, 1, 50)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(payloads(1, 50), e.taken("/in")); diff != "" || most > 400 || most < 200 {
		t.Errorf("up to %d bytes a request: %s", most, diff)
	}
	if l := s.Limits(); l != (sink.Limits{Rows: 7, Bytes: 400, Stable: true}) {
		t.Errorf("its limits are %+v", l)
	}
}

// TestRequest_BodyIsNotReusedWhileRead matters because a client may still read a body after the
// response, and may close a reader more than once.
func TestRequest_BodyIsNotReusedWhileRead(t *testing.T) {
	s := mustOpen(t, "http://127.0.0.1:1/in")
	first := s.body(run(t, 1, 3).Events)
	sent, again := first.reader(), first.reader()
	for range 2 {
		if err := sent.Close(); err != nil {
			t.Error(err)
		}
	}
	s.reuse(first)
	second := s.body(run(t, 4, 6).Events)
	if got, err := io.ReadAll(again); string(got) != strings.Join(payloads(1, 3), "\n")+"\n" || err != nil {
		t.Errorf("a body became, while it was read, %s, %v", got, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	s.reuse(first)
	third := s.body(run(t, 7, 9).Events)
	if &third.text[0] != &first.text[0] || &third.text[0] == &second.text[0] {
		t.Error("unused memory is not reused")
	}
}

func TestApply_FollowsRedirectsWithinAHost(t *testing.T) {
	e := newReceiver(t)
	elsewhere := newReceiver(t)
	to := ""
	e.answer = func(w http.ResponseWriter, _ []byte) bool {
		if to == "" {
			return true
		}
		w.Header().Set("Location", to)
		to = ""
		w.WriteHeader(http.StatusTemporaryRedirect)
		return false
	}
	s := mustOpen(t, e.url(""))
	to = "/other"
	if err := s.Apply(t.Context(), run(t, 1, 3)); err != nil {
		t.Error(err)
	}
	to = elsewhere.URL + "/in"
	if err := s.Apply(t.Context(), run(t, 4, 6)); fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "another host") {
		t.Errorf("got %v: %v", fault.Of(err), err)
	}
	if len(elsewhere.requests) != 0 || len(e.taken("/other")) != 3 {
		t.Errorf("another host got %d requests, the other path %d changes", len(elsewhere.requests), len(e.taken("/other")))
	}
}

func TestApply_TimesOut(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	defer close(release)
	s := mustOpen(t, server.URL+"?timeout=100ms")
	if err := s.Apply(t.Context(), run(t, 1, 1)); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("got %v: %v", fault.Of(err), err)
	}
}
