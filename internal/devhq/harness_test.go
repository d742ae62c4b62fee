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

// options returns the options of a small HQ whose shop makes no changes by itself.
func options(t testing.TB) Options {
	t.Helper()
	return Options{DataDir: t.TempDir(), Seed: 1, Customers: 20}
}

// begin starts an HQ and closes it at the end of the test.
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

// pause pauses the shop.
func pause(t testing.TB, h *HQ) {
	t.Helper()
	if err := h.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// messages returns the number of messages in the stream.
func messages(t testing.TB, h *HQ) uint64 {
	t.Helper()
	state, err := h.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state.Msgs
}

// client calls the API as a server would.
type client struct {
	t   testing.TB
	url string
	key string
}

func (h *HQ) client(t testing.TB) client {
	return client{t, h.APIURL(), h.APIKey(KeyOptions{ServerID: "s1"})}
}

// call makes a call, and decodes the data of a successful response into data. It returns the
// status and the message of the response.
func (c client) call(method, path, body string, data any) (status int, message string) {
	c.t.Helper()
	var response struct {
		Success bool
		Message string
		Data    json.RawMessage
	}
	status = c.raw(method, path, body, &response)
	if response.Success != (status == http.StatusOK) {
		c.t.Fatalf("%s %s: status %d and success %v", method, path, status, response.Success)
	}
	if data != nil && response.Success {
		if err := json.Unmarshal(response.Data, data); err != nil {
			c.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return status, response.Message
}

// raw makes a call, and decodes a response that has no envelope into the parameter into.
func (c client) raw(method, path, body string, into any) (status int) {
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
		c.t.Errorf("%s %s: the response has no request id", method, path)
	}
	if err := json.Unmarshal(response.body, into); err != nil {
		c.t.Fatalf("%s %s: %v in %q", method, path, err, response.body)
	}
	return response.StatusCode
}

// response is an HTTP response whose body was read.
type response struct {
	*http.Response
	body []byte
}

// do makes a request and reads the response.
func do(t testing.TB, r *http.Request) response {
	t.Helper()
	raw, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := readAll(raw)
	if err != nil {
		t.Fatal(err)
	}
	return response{raw, body}
}

func readAll(r *http.Response) ([]byte, error) {
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}

// eventually waits until the condition holds.
func eventually(t testing.TB, condition string, holds func() bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("timed out: %s", condition)
		}
	}
}
