package devhq

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
)

const sessionBody = `{"version":"1.2.3","hostname":"host","ipAddress":"10.0.0.1","machineId":"m","serverId":"s1","unknown":[1],
"osinfo":{"host":{"hostname":"host"},"num_cpu":2,"go_version":"go1.26"},
"driver":{"id":"postgres","name":"PostgreSQL","description":"d","url":"postgres://user:***@host/db"}}`

// open starts a session and returns its id and credential.
func (c client) open(body string) (id string, creds []byte) {
	c.t.Helper()
	var got sessionResponse
	if status, message := c.call("POST", "/v3/eds/internal", body, &got); status != http.StatusOK {
		c.t.Fatalf("start a session: %d %s", status, message)
	}
	creds, err := base64.StdEncoding.DecodeString(got.Credential)
	if err != nil {
		c.t.Fatal(err)
	}
	return got.SessionID, creds
}

// dial connects to NATS with a credential.
func dial(t testing.TB, h *HQ, creds []byte, options ...nats.Option) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(h.NATSURL(), append(options, nats.UserCredentialBytes(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestSession_HasThePermissionsOfTheProtocol(t *testing.T) {
	h := begin(t, options(t))
	id, creds := h.client(t).open(sessionBody)
	token, err := jwt.ParseDecoratedJWT(creds)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Name != "s1" {
		t.Errorf("the user's name is %q, want the server's id", claims.Name)
	}
	companies := h.Shop().Companies()
	if len(companies) != 3 {
		t.Fatalf("the shop has %d companies", len(companies))
	}
	want := jwt.Permissions{
		Sub: jwt.Permission{Allow: jwt.StringList{
			"dbchange.*.*." + companies[0] + ".*.PUBLIC.>", "dbchange.*.*." + companies[1] + ".*.PUBLIC.>",
			"dbchange.*.*." + companies[2] + ".*.PUBLIC.>", "eds.notify." + id + ".>", "_INBOX.>",
		}},
		Pub: jwt.Permission{Allow: jwt.StringList{
			"$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.>", "$JS.API.CONSUMER.MSG.NEXT.dbchange.>", "$JS.ACK.dbchange.>",
			"eds.client." + id + ".>", "_INBOX.>",
		}},
	}
	if diff := cmp.Diff(want, claims.Permissions); diff != "" {
		t.Error(diff)
	}
}

func TestSession_ReadsOnlyItsCompanies(t *testing.T) {
	h := begin(t, options(t))
	all := h.Shop().Companies()
	c := client{t, h.APIURL(), h.APIKey(KeyOptions{ServerID: "s1", Companies: all[1:]})}
	foreign := fmt.Sprintf(`{"serverId":"s1","companyIds":[%q,%q]}`, all[0], all[1])
	if status, message := c.call("POST", "/v3/eds/internal", foreign, nil); status != http.StatusForbidden {
		t.Errorf("a session for a foreign company: %d %s", status, message)
	}
	c.open(`{"serverId":"s1"}`)
	c.open(fmt.Sprintf(`{"serverId":"s2","companyIds":[%q]}`, all[2]))
	c.open(`{"serverId":"s3","companyIds":["*"]}`)
	sessions, err := h.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, s := range sessions {
		got = append(got, s.Companies)
	}
	if diff := cmp.Diff([][]string{all[1:], all[2:], all[1:]}, got); diff != "" {
		t.Error(diff)
	}
}

func TestStartSession_RefusesASecondServer(t *testing.T) {
	o := options(t)
	o.SessionGrace = time.Hour
	h := begin(t, o)
	c := h.client(t)
	_, creds := c.open(sessionBody)
	refused := func(when string) {
		t.Helper()
		if status, message := c.call("POST", "/v3/eds/internal", sessionBody, nil); status != http.StatusConflict || message == "" {
			t.Errorf("a second server %s: %d %s", when, status, message)
		}
	}
	refused("before the first has connected")
	conn := dial(t, h, creds)
	age(t, h)
	refused("while the first is connected")
	conn.Close()
	refused("right after the first disconnected")
	c.open(strings.Replace(sessionBody, `"s1"`, `"s2"`, 1)) // start a session of a server with another id
}

func TestStartSession_ReplacesALostSession(t *testing.T) {
	o := options(t)
	o.SessionGrace = time.Millisecond
	h := begin(t, o)
	c := h.client(t)
	first, creds := c.open(sessionBody)
	dial(t, h, creds).Close()
	eventually(t, "the server can start again", func() bool {
		status, _ := c.call("POST", "/v3/eds/internal", sessionBody, nil)
		return status == http.StatusOK
	})
	sessions, err := h.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	if s := sessions[0]; len(sessions) != 2 || s.ID != first || !s.Lost || s.Ended.IsZero() {
		t.Errorf("sessions are %+v", sessions)
	}
}

func TestEndSession_LetsTheServerStartAgain(t *testing.T) {
	o := options(t)
	o.SessionGrace = time.Hour
	h := begin(t, o)
	c := h.client(t)
	id, _ := c.open(sessionBody)
	var urls struct{ URL, ErrorURL string }
	for range 2 { // a repetition changes nothing
		if status, message := c.call("POST", "/v3/eds/internal/"+id, `{"errored":true}`, &urls); status != http.StatusOK {
			t.Fatalf("end: %d %s", status, message)
		}
	}
	if urls.URL == "" || urls.ErrorURL == "" || urls.URL == urls.ErrorURL {
		t.Errorf("upload URLs are %+v", urls)
	}
	c.open(sessionBody)
	if status, _ := c.call("POST", "/v3/eds/internal/unknown", `{}`, nil); status != http.StatusNotFound {
		t.Errorf("end of an unknown session: %d", status)
	}

	sessions, err := h.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	want := Session{
		ID: id, ServerID: "s1", Companies: h.Shop().Companies(), Version: "1.2.3", Hostname: "host", IPAddress: "10.0.0.1", MachineID: "m",
		OSInfo:  json.RawMessage(`{"host":{"hostname":"host"},"num_cpu":2,"go_version":"go1.26"}`),
		Driver:  &SessionDriver{"postgres", "PostgreSQL", "d", "postgres://user:***@host/db"},
		Errored: true,
	}
	if diff := cmp.Diff(want, sessions[0], cmpopts.IgnoreFields(Session{}, "User", "Started", "Ended")); diff != "" {
		t.Error(diff)
	}
}

func TestLogs_ReturnsUploads(t *testing.T) {
	h := begin(t, options(t))
	c := h.client(t)
	id, _ := c.open(sessionBody)
	var offer struct{ URL string }
	if status, message := c.call("POST", "/v3/eds/internal/"+id+"/log", `{}`, &offer); status != http.StatusOK {
		t.Fatalf("ask for an upload URL: %d %s", status, message)
	}
	var end struct{ URL, ErrorURL string }
	c.call("POST", "/v3/eds/internal/"+id, `{"errored":false}`, &end)

	if got := upload(t, offer.URL, logType, "first"); got != http.StatusOK {
		t.Errorf("upload: %d", got)
	}
	if got := upload(t, end.ErrorURL, logType, "second"); got != http.StatusOK {
		t.Errorf("upload: %d", got)
	}
	if got := upload(t, offer.URL, "text/plain", "x"); got != http.StatusForbidden {
		t.Errorf("upload of another type: %d", got)
	}
	if got := upload(t, strings.Replace(offer.URL, "/log-", "/log-x", 1), logType, "x"); got != http.StatusForbidden {
		t.Errorf("upload to another path: %d", got)
	}
	if got := upload(t, offer.URL, logType, strings.Repeat("x", maxLog+1)); got != http.StatusRequestEntityTooLarge {
		t.Errorf("upload of too much: %d", got)
	}

	logs, err := h.Logs()
	if err != nil {
		t.Fatal(err)
	}
	type stored struct {
		Session string
		Errored bool
		Text    string
		InURL   bool
	}
	var got []stored
	for i, l := range logs {
		text, err := os.ReadFile(l.File)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, stored{l.SessionID, l.Errored, string(text), strings.Contains([]string{offer.URL, end.ErrorURL}[i], l.Path+"?")})
	}
	if diff := cmp.Diff([]stored{{id, false, "first", true}, {id, true, "second", true}}, got); diff != "" {
		t.Error(diff)
	}
}

func upload(t *testing.T, url, contentType, body string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = readAll(response)
	return response.StatusCode
}

func TestOpen_AllowsClientsWithoutCredential(t *testing.T) {
	o := options(t)
	h := begin(t, o)
	if conn, err := nats.Connect(h.NATSURL()); err == nil {
		conn.Close()
		t.Error("an HQ that is not open let a client in without a credential")
	}
	o = options(t)
	o.Open = true
	h = begin(t, o)
	conn, err := nats.Connect(h.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	readsFromConsumer(t, h, conn, "eds-dev", "*")
}

func TestNotify_ReachesOnlyItsSession(t *testing.T) {
	h := begin(t, options(t))
	one, creds := h.client(t).open(sessionBody)
	_, otherCreds := h.client(t).open(strings.Replace(sessionBody, `"s1"`, `"s2"`, 1))
	refused := make(chan error, 1)
	other := dial(t, h, otherCreds, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if _, err := other.SubscribeSync("eds.notify." + one + ".>"); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; !strings.Contains(err.Error(), "permissions violation") {
		t.Errorf("subscribe to another session: %v", err)
	}

	conn := dial(t, h, creds)
	sub, err := conn.SubscribeSync("eds.notify." + one + ".>")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := h.Notify(t.Context(), one, "ping", map[string]string{"subject": "_INBOX.x"}); err != nil {
		t.Fatal(err)
	}
	msg, err := sub.NextMsgWithContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"action":"ping","data":{"subject":"_INBOX.x"}}`, string(msg.Data)); diff != "" {
		t.Error(diff)
	}
}

func TestCredential_Expires(t *testing.T) {
	o := options(t)
	o.CredentialLife = time.Second
	h := begin(t, o)
	_, creds := h.client(t).open(sessionBody)
	conn := dial(t, h, creds, nats.NoReconnect())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	closed := conn.StatusChanged(nats.CLOSED)
	select {
	case <-closed:
	case <-ctx.Done():
		t.Error("the connection outlived its credential")
	}
}
