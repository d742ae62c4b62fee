package server

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

func startHQ(t *testing.T, o devhq.Options) *devhq.HQ {
	t.Helper()
	o.DataDir, o.Customers = t.TempDir(), 2
	h, err := devhq.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// run runs a server that has no destination until the test ends. AwaitLog waits for a
// message in its log.
func run(t *testing.T, h *devhq.HQ, health *telemetry.Health, crashes ...agent.Crash) (awaitLog func(message string)) {
	t.Helper()
	awaitLog, _ = start(t, h, func(c *Config) { c.Health, c.Crashes = health, crashes })
	return awaitLog
}

// start runs a server with a changed configuration until the test ends or stop is called.
func start(t *testing.T, h *devhq.HQ, change func(c *Config)) (awaitLog func(message string), stop func()) {
	t.Helper()
	return startUntil(t, t.Context(), h, change)
}

// startUntil is start of a server that also stops when until ends.
func startUntil(t *testing.T, until context.Context, h *devhq.HQ, change func(c *Config)) (awaitLog func(message string), stop func()) {
	t.Helper()
	log := &logMessages{messages: make(chan string, 1000)}
	c := serverConfig(serverOptions(t, h))
	c.Logger = slog.New(log)
	change(&c)
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(until)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, t.Context()) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return func(message string) {
		for m := range log.messages {
			if m == message {
				return
			}
		}
	}, stop
}

// logMessages is the handler of a log that sends its messages to a channel.
type logMessages struct{ messages chan string }

func (l *logMessages) Enabled(context.Context, slog.Level) bool { return true }
func (l *logMessages) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logMessages) WithGroup(string) slog.Handler            { return l }

func (l *logMessages) Handle(_ context.Context, r slog.Record) error {
	l.messages <- r.Message
	return nil
}

// TestServer_ReportsEveryCrash: HQ waits for the end of the first crash's session, has
// forgotten that of the second one, and the third one left none. The first report fails.
func TestServer_ReportsEveryCrash(t *testing.T) {
	h := startHQ(t, devhq.Options{SessionGrace: time.Hour})
	key, err := hq.ParseKey(h.APIKey(devhq.KeyOptions{ServerID: "s"}))
	if err != nil {
		t.Fatal(err)
	}
	client := hq.New(hq.Options{BaseURL: h.APIURL(), Key: key})
	defer client.Close()
	open, err := client.StartSession(t.Context(), hq.SessionStart{})
	if err != nil {
		t.Fatal(err)
	}
	refused := false
	h.Disturb(func(r *http.Request) devhq.Fault {
		if strings.HasSuffix(r.URL.Path, open.ID) && !refused {
			refused = true
			return devhq.Refuse(http.StatusInternalServerError, 0)
		}
		return nil
	})
	var forgotten []string
	crash := func(session string) agent.Crash {
		return agent.Crash{Session: session, Kind: "panic", Stderr: "panic: " + session, Forget: func() error {
			forgotten = append(forgotten, session)
			return nil
		}}
	}
	awaitLog := run(t, h, telemetry.NewHealth(), crash(open.ID), crash("long-ago"), crash(""))
	awaitLog("another server runs with this id; waiting for it to end")
	for range 3 {
		awaitLog("a crash was reported to hq")
	}
	if diff := cmp.Diff([]string{open.ID, "long-ago", ""}, forgotten); diff != "" {
		t.Error(diff)
	}
	logs, err := h.Logs()
	if err != nil {
		t.Fatal(err)
	}
	type sent struct{ OfTheCrash, Errored bool }
	var got []sent
	for _, l := range logs {
		got = append(got, sent{l.SessionID == open.ID, l.Errored})
	}
	if diff := cmp.Diff([]sent{{true, true}, {false, false}, {false, false}}, got); diff != "" {
		t.Error(diff)
	}
}

// TestServer_ReplacesAnExpiredCredential: NATS does not accept what HQ hands out.
func TestServer_ReplacesAnExpiredCredential(t *testing.T) {
	h := startHQ(t, devhq.Options{CredentialLife: -time.Hour})
	awaitLog := run(t, h, telemetry.NewHealth())
	awaitLog("the session ended; beginning another")
	awaitLog("the session began")
}

func TestServer_IsUnhealthyUntilHQAnswers(t *testing.T) {
	h := startHQ(t, devhq.Options{})
	h.Disturb(func(*http.Request) devhq.Fault { return devhq.Refuse(http.StatusServiceUnavailable, 0) })
	health := telemetry.NewHealth()
	awaitLog := run(t, h, health)
	awaitLog("hq does not answer; trying again")
	if r := health.Report(); r.Status != telemetry.Unhealthy || len(r.Reasons) != 1 || r.Reasons[0].Condition != "session" {
		t.Errorf("%+v", r)
	}
	h.Disturb(nil)
	awaitLog("the stream is not followed")
	if r := health.Report(); r.Status == telemetry.Unhealthy {
		t.Errorf("%+v", r)
	}
}

// TestServer_EndsASessionThatHQStartsWhileItStops: HQ has started the session and sends its
// response late.
func TestServer_EndsASessionThatHQStartsWhileItStops(t *testing.T) {
	for name, test := range map[string]struct {
		session int // whose start is slow
		renew   time.Duration
	}{"the first": {1, time.Hour}, "a renewal": {2, time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			h := startHQ(t, devhq.Options{})
			started, answer := make(chan struct{}), make(chan struct{})
			var starts atomic.Int64
			h.Disturb(func(r *http.Request) devhq.Fault {
				if r.Method != http.MethodPost || r.URL.Path != "/v3/eds/internal" || starts.Add(1) != int64(test.session) {
					return nil
				}
				return func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						recorded := httptest.NewRecorder()
						next.ServeHTTP(recorded, r)
						close(started)
						<-answer
						w.WriteHeader(recorded.Code)
						_, _ = w.Write(recorded.Body.Bytes())
					})
				}
			})
			until, end := context.WithCancel(t.Context())
			_, stop := startUntil(t, until, h, func(c *Config) { c.Options.RenewInterval = test.renew })
			<-started
			end()
			close(answer)
			stop()
			sessions, err := h.Sessions()
			if err != nil || len(sessions) != test.session {
				t.Errorf("%d sessions, %v", len(sessions), err)
			}
			for _, s := range sessions {
				if s.Ended.IsZero() || s.Errored {
					t.Errorf("session %+v", s)
				}
			}
		})
	}
}
