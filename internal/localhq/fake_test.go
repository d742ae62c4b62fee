package localhq

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeShop is a source of two companies whose every piece of work is one
// change of the table order.
type fakeShop struct {
	mu     sync.Mutex
	made   int
	rows   map[string][]fakeRow
	closed bool
}

type fakeRow struct{ company, location, text string }

func newFakeShop() *fakeShop {
	return &fakeShop{rows: map[string][]fakeRow{"order": nil, "part": nil, "vendor": nil}}
}

func (f *fakeShop) do(_ context.Context, publish func(message) error) error {
	f.mu.Lock()
	f.made++
	n := f.made
	f.mu.Unlock()
	return publish(fakeMessage(n))
}

func fakeMessage(n int) message {
	return message{
		subject: "dbchange.order.UPDATE.c1.l1.PUBLIC.v1", id: fmt.Sprintf("change-%09d", n),
		data: fmt.Appendf(nil, `{"operation":"UPDATE","table":"order","id":"change-%09d","after":{"id":"o1","pad":%q}}`, n, strings.Repeat("x", 1400)),
	}
}

func (f *fakeShop) evolve(_ context.Context, publish func(message) error) (string, error) {
	return "a new column", publish(message{subject: "dbchange.order.UPDATE.c1.l1.PUBLIC.v2", id: "evolved", data: []byte(`{}`)})
}

func (f *fakeShop) latestSchemas() map[string]json.RawMessage {
	return map[string]json.RawMessage{"Order": json.RawMessage(`{"table":"order","modelVersion":"v1"}`)}
}

func (f *fakeShop) schema(object, version string) (json.RawMessage, bool) {
	if object != "Order" || version != "v1" {
		return nil, false
	}
	return json.RawMessage(`{"table":"order","modelVersion":"v1"}`), true
}

func (f *fakeShop) tables() []string    { return []string{"order", "part", "vendor"} }
func (f *fakeShop) companies() []string { return []string{"c1", "c2"} }

func (f *fakeShop) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

// fakeClock is the time of every snapshot of a fakeShop.
var fakeClock = cdc.Timestamp{Wall: time.Date(2024, 3, 4, 5, 6, 7, 89, time.UTC).UnixNano(), Logical: 12}

type fakeSnapshot struct{ rowsOf map[string][]fakeRow }

func (f *fakeShop) snapshot() snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := fakeSnapshot{make(map[string][]fakeRow)}
	for name, rows := range f.rows {
		s.rowsOf[name] = slices.Clone(rows)
	}
	return s
}

func (s fakeSnapshot) clock() cdc.Timestamp { return fakeClock }

func (s fakeSnapshot) rows(table string, companies, locations []string) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for _, r := range s.rowsOf[table] {
			if len(companies) > 0 && !slices.Contains(companies, r.company) || len(locations) > 0 && !slices.Contains(locations, r.location) {
				continue
			}
			if !yield(json.RawMessage(r.text)) {
				return
			}
		}
	}
}

// begin starts an HQ over f, which is closed at the end of the test.
func begin(t testing.TB, o Options, f *fakeShop) *HQ {
	t.Helper()
	h, err := start(t.Context(), o, func(context.Context, Options) (source, error) { return f, nil })
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

func options(t testing.TB) Options {
	t.Helper()
	return Options{DataDir: t.TempDir()}
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
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
