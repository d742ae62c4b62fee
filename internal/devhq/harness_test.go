package devhq

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are those of a small HQ whose shop stands still.
func options(t testing.TB) Options {
	t.Helper()
	return Options{DataDir: t.TempDir(), Seed: 1, Customers: 20}
}

// begin starts an HQ, which is closed at the end of the test.
func begin(t testing.TB, o Options) *HQ {
	t.Helper()
	h, err := Start(t.Context(), o)
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

// pause stops the shop.
func pause(t testing.TB, h *HQ) {
	t.Helper()
	if err := h.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// messages returns how many messages the stream holds.
func messages(t testing.TB, h *HQ) uint64 {
	t.Helper()
	state, err := h.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state.Msgs
}

// client calls the API as a server does.
type client struct {
	t   testing.TB
	url string
	key string
}

func (h *HQ) client(t testing.TB) client {
	return client{t, h.APIURL(), h.APIKey(KeyOptions{ServerID: "s1"})}
}

// call makes a call, decodes the data of a successful answer into data, and
// returns the status and the message.
func (c client) call(method, path, body string, data any) (status int, message string) {
	c.t.Helper()
	var answer struct {
		Success bool
		Message string
		Data    json.RawMessage
	}
	status = c.raw(method, path, body, &answer)
	if answer.Success != (status == http.StatusOK) {
		c.t.Fatalf("%s %s: status %d and success %v", method, path, status, answer.Success)
	}
	if data != nil && answer.Success {
		if err := json.Unmarshal(answer.Data, data); err != nil {
			c.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return status, answer.Message
}

// raw makes a call and decodes the whole answer.
func (c client) raw(method, path, body string, answer any) (status int) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.key != "" {
		r.Header.Set("Authorization", "Bearer "+c.key)
	}
	response := do(c.t, r)
	if response.Header.Get("X-Request-Id") == "" {
		c.t.Errorf("%s %s: the answer has no request id", method, path)
	}
	if err := json.Unmarshal(response.body, answer); err != nil {
		c.t.Fatalf("%s %s: %v in %q", method, path, err, response.body)
	}
	return response.StatusCode
}

// response is an answer whose body was read.
type response struct {
	*http.Response
	body []byte
}

// do makes a request and reads the answer.
func do(t testing.TB, r *http.Request) response {
	t.Helper()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := readAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	return response{answer, body}
}

func readAll(answer *http.Response) ([]byte, error) {
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("never: %s", what)
		}
	}
}
