package devhq

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

// addr returns the host and port of a URL.
func addr(t *testing.T, text string) string {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

func TestHQ_KeepsEverythingOverARestart(t *testing.T) {
	o := options(t)
	o.Rate = 2000
	h := begin(t, o)
	eventually(t, "the shop works", func() bool { return messages(t, h) > 200 })
	pause(t, h)
	have := shopNow(t, h)
	stored := messages(t, h)
	c := h.client(t)
	unused, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	used, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	c.call("GET", "/v3/eds/internal/enroll/"+used, "", nil)
	session, creds := c.open(sessionBody)
	readsFromConsumer(t, h, dial(t, h, creds), "eds-s1", "c1")
	job, before := c.export(`{"tables":["order"]}`)
	var end struct{ URL string }
	c.call("POST", "/v3/eds/internal/"+session, `{}`, &end)
	if status := upload(t, end.URL, logType, "log"); status != http.StatusOK {
		t.Fatal(status)
	}

	o.HTTPAddr, o.NATSAddr, o.Rate = addr(t, h.APIURL()), addr(t, h.NATSURL()), 0
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	again := begin(t, o)
	if diff := cmp.Diff([]string{h.APIURL(), o.NATSAddr}, []string{again.APIURL(), addr(t, again.NATSURL())}); diff != "" {
		t.Errorf("the addresses changed: %s", diff)
	}
	have.checkAgainst(again)
	if got := messages(t, again); got != stored+1 { // the stored messages, and the one that readsFromConsumer has published
		t.Errorf("the stream holds %d messages, want %d", got, stored+1)
	}
	consumers, err := again.Consumers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(consumers) != 1 || consumers["eds-s1"] == nil || consumers["eds-s1"].Delivered.Consumer != 1 {
		t.Errorf("consumers are %v", consumers)
	}
	dial(t, again, creds) // the credential is still valid
	for code, want := range map[string]int{unused: 200, used: 404} {
		if status, message := c.call("GET", "/v3/eds/internal/enroll/"+code, "", nil); status != want {
			t.Errorf("enrol with %s: %d %s, want %d", code, status, message, want)
		}
	}
	if diff := cmp.Diff(shopRows(again, "order", nil, nil), downloadRows(t, c.completed(job).Tables["order"].URLs)); diff != "" {
		t.Error(diff)
	}
	if got := fetch(t, before.Tables["order"].URLs[0], ""); got.StatusCode != http.StatusOK {
		t.Errorf("a URL from before the restart: %d", got.StatusCode)
	}
	sessions, err := again.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	logs, err := again.Logs()
	if err != nil {
		t.Fatal(err)
	}
	if len(sessions) != 1 || sessions[0].ID != session || len(logs) != 1 || logs[0].SessionID != session {
		t.Errorf("sessions are %+v, logs %+v", sessions, logs)
	}
}

func TestStartSession_RefusesASecondServerAfterARestart(t *testing.T) {
	o := options(t)
	o.SessionGrace = time.Hour
	h := begin(t, o)
	_, creds := h.client(t).open(sessionBody)
	o.HTTPAddr, o.NATSAddr = addr(t, h.APIURL()), addr(t, h.NATSURL())
	conn := dial(t, h, creds, nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	again := begin(t, o)
	c := again.client(t)
	start := func() int {
		status, _ := c.call("POST", "/v3/eds/internal", sessionBody, nil)
		return status
	}
	if got := start(); got != http.StatusConflict {
		t.Errorf("a second server right after the restart: %d", got)
	}
	eventually(t, "the first one is back", conn.IsConnected)
	age(t, again)
	if got := start(); got != http.StatusConflict {
		t.Errorf("a second server beside the first: %d", got)
	}
	again.StopNATS()
	if got := start(); got != http.StatusConflict {
		t.Errorf("a second server while NATS is stopped: %d", got)
	}
	conn.Close()
	if err := again.StartNATS(); err != nil {
		t.Fatal(err)
	}
	if got := start(); got != http.StatusConflict {
		t.Errorf("a second server right after NATS is back: %d", got)
	}
	age(t, again)
	if got := start(); got != http.StatusOK {
		t.Errorf("a second server when the first has been gone for a while: %d", got)
	}
}

// age moves the start of sessions and of NATS back by a day.
func age(t *testing.T, h *HQ) {
	t.Helper()
	sessions, err := h.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		s.Started = s.Started.Add(-24 * time.Hour)
		if err := put(h.store, bucketSessions, s.ID, s); err != nil {
			t.Fatal(err)
		}
	}
	h.broker.mu.Lock()
	defer h.broker.mu.Unlock()
	h.broker.started = h.broker.started.Add(-24 * time.Hour)
}

func TestStart_FailsInADirectoryInUse(t *testing.T) {
	o := options(t)
	begin(t, o)
	h, err := Start(t.Context(), o)
	if err == nil {
		h.Close()
		t.Fatal("a second HQ started in the same directory")
	}
	if !strings.Contains(err.Error(), "another HQ is using it") {
		t.Error(err)
	}
}

func TestStart_ReportsAPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, set := range map[string]func(*Options, string){
		"HTTP": func(o *Options, addr string) { o.HTTPAddr = addr },
		"NATS": func(o *Options, addr string) { o.NATSAddr = addr },
	} {
		o := options(t)
		set(&o, taken.Addr().String())
		h, err := Start(t.Context(), o)
		if err == nil {
			h.Close()
			t.Fatalf("%s started on a port in use", name)
		}
		if !strings.Contains(err.Error(), taken.Addr().String()) || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExport_ContinuesAfterARestart(t *testing.T) {
	o := options(t)
	h := begin(t, o)
	// HQ was closed before it ran this export.
	j := &exportJob{ID: newID(), History: h.shop.History(), Created: time.Now(), Tables: map[string]exportTable{
		"order": {Status: statusPending},
		"part":  {Status: statusCompleted, Cursor: "7"},
	}}
	old := &exportJob{
		ID: newID(), History: h.shop.History(), Created: time.Now().Add(-2 * jobLife),
		Tables: map[string]exportTable{"order": {Status: statusPending}},
	}
	for _, j := range []*exportJob{j, old} {
		if err := put(h.store, bucketJobs, j.ID, j); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	again := begin(t, o)
	c := again.client(t)
	response := c.completed(j.ID)
	if diff := cmp.Diff(tableResponse{Status: statusCompleted, URLs: []string{}, Cursor: "7"}, response.Tables["part"]); diff != "" {
		t.Errorf("the completed table: %s", diff)
	}
	if diff := cmp.Diff(shopRows(again, "order", nil, nil), downloadRows(t, response.Tables["order"].URLs)); diff != "" {
		t.Error(diff)
	}
	if status, _ := c.call("GET", "/v3/export/bulk/"+old.ID, "", nil); status != http.StatusNotFound {
		t.Errorf("an expired export: %d", status)
	}
}

func TestStart_AfterKillBeginsNewStream(t *testing.T) {
	o := options(t)
	h, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := os.ReadFile(filepath.Join(o.DataDir, "shop", "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	have := shopNow(t, h)
	if _, err := h.Work(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	job, _ := h.client(t).export(`{"tables":["order"]}`)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	// After a kill, the snapshot from the start would have been left.
	if err := os.WriteFile(filepath.Join(o.DataDir, "shop", "snapshot"), saved, 0o600); err != nil {
		t.Fatal(err)
	}

	again := begin(t, o)
	have.checkAgainst(again)
	if state, err := again.StreamState(t.Context()); err != nil || state.LastSeq != 0 {
		t.Errorf("the stream is %+v, %v, want a new one", state, err)
	}
	if status, message := again.client(t).call("GET", "/v3/export/bulk/"+job, "", nil); status != http.StatusNotFound {
		t.Errorf("an export of lost changes: %d %s", status, message)
	}
	if _, err := again.Work(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	follow(newReader(t, again), have, messages(t, again))
	have.checkAgainst(again)
}

func TestClose_ReturnsTheFailure(t *testing.T) {
	h, err := Start(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.shop.Close(); err != nil { // the shop then fails, as with a full disk
		t.Fatal(err)
	}
	h.SetRate(100)
	select {
	case <-h.Done():
	case <-time.After(30 * time.Second):
		t.Error("HQ still runs without a shop")
	}
	if err := h.Close(); err == nil || !strings.Contains(err.Error(), "work in the shop") {
		t.Errorf("Close returned %v", err)
	}
}

func TestHQ_URLsHaveTheConfiguredHost(t *testing.T) {
	o := options(t)
	o.HTTPAddr, o.NATSAddr = "localhost:0", ":0"
	h := begin(t, o)
	for _, got := range []string{h.APIURL(), h.NATSURL()} {
		if u, err := url.Parse(got); err != nil || u.Hostname() != "localhost" || u.Port() == "0" {
			t.Errorf("a URL is %s, %v", got, err)
		}
	}
	h.client(t).export(`{"tables":["company"]}`)
}
