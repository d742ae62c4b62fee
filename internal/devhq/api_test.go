package devhq

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/schema"
)

func TestEnroll_TakesACodeOnce(t *testing.T) {
	h := begin(t, options(t))
	code, err := h.NewEnrolment("c1")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(code, "L") {
		t.Errorf("the code %q does not begin with an L", code)
	}
	anonymous := client{t, h.APIURL(), ""}
	var got struct{ Token, ServerID string }
	if status, message := anonymous.call("GET", "/v3/eds/internal/enroll/"+code, "", &got); status != http.StatusOK {
		t.Fatalf("enrol: %d %s", status, message)
	}
	claims, err := h.keys.check(got.Token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	want := keyClaims{Issuer: h.APIURL(), Subject: got.ServerID, Companies: []string{"c1"}}
	claims.ID, claims.IssuedAt, claims.ExpiresAt = "", 0, 0
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{code, "Lunknown", "x"} {
		if status, _ := anonymous.call("GET", "/v3/eds/internal/enroll/"+bad, "", nil); status != http.StatusNotFound {
			t.Errorf("enrol with %q: %d, want 404", bad, status)
		}
	}
}

func TestAPI_RequiresAValidKey(t *testing.T) {
	h := begin(t, options(t))
	good := h.APIKey(KeyOptions{ServerID: "s1"})
	foreign := (&keyring{secret: []byte("another")}).issue(h.APIURL(), KeyOptions{ServerID: "s1"}, time.Now())
	expired := h.APIKey(KeyOptions{ServerID: "s1", Life: -time.Hour})
	calls := []struct{ method, path string }{
		{"POST", "/v3/eds/internal"},
		{"POST", "/v3/eds/internal/x"},
		{"POST", "/v3/eds/internal/x/log"},
		{"GET", "/v3/schema"},
		{"GET", "/v3/schema/Order/v1"},
		{"POST", "/v3/export/bulk"},
		{"GET", "/v3/export/bulk/x"},
	}
	for _, bad := range []struct{ name, key, message string }{
		{"none", "", "the API key is missing"},
		{"not a JWT", "secret", "malformed"},
		{"no claims", "a..b", "malformed"},
		{"changed", good[:len(good)-4] + "AAAA", "not issued by this HQ"},
		{"foreign", foreign, "not issued by this HQ"},
		{"expired", expired, "expired at "},
	} {
		for _, call := range calls {
			status, message := client{t, h.APIURL(), bad.key}.call(call.method, call.path, "{}", nil)
			if status != http.StatusUnauthorized || !strings.Contains(message, bad.message) {
				t.Errorf("%s %s with a key that is %s: %d %q", call.method, call.path, bad.name, status, message)
			}
		}
	}
}

func TestSchemas_HaveNoEnvelope(t *testing.T) {
	h := begin(t, options(t))
	c := h.client(t)
	var latest map[string]json.RawMessage
	if status := c.raw("GET", "/v3/schema", "", &latest); status != http.StatusOK {
		t.Fatal(status)
	}
	want := h.Shop().LatestSchemas()
	if len(want) < 14 {
		t.Errorf("the shop has %d tables", len(want))
	}
	if diff := cmp.Diff(want, latest); diff != "" {
		t.Error(diff)
	}
	for object, text := range want {
		table, err := schema.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		var version json.RawMessage
		if status := c.raw("GET", "/v3/schema/"+object+"/"+table.Version, "", &version); status != http.StatusOK {
			t.Fatal(status)
		}
		if diff := cmp.Diff(string(text), string(version)); diff != "" {
			t.Error(diff)
		}
	}
	if status, message := c.call("GET", "/v3/schema/Order/unknown", "", nil); status != http.StatusNotFound || message == "" {
		t.Errorf("an unknown version: %d %q", status, message)
	}
}

func TestAPI_RefusesUnknownCallsAndBodies(t *testing.T) {
	c := begin(t, options(t)).client(t)
	for _, call := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v3/unknown", "", 404},
		{"DELETE", "/v3/schema", "", 404},
		{"POST", "/v3/eds/internal", "{", 400},
		{"POST", "/v3/eds/internal", `{"serverId":7}`, 400},
		{"POST", "/v3/eds/internal", `{"pad":"` + strings.Repeat("x", maxBody) + `"}`, 400},
		{"POST", "/v3/export/bulk", `{"tables":["nothing"]}`, 400},
		{"GET", "/v3/export/bulk/unknown", "", 404},
	} {
		if status, message := c.call(call.method, call.path, call.body, nil); status != call.status || message == "" {
			t.Errorf("%s %s: %d %q, want %d", call.method, call.path, status, message, call.status)
		}
	}
}

func TestDisturb_AppliesFaults(t *testing.T) {
	h := begin(t, options(t))
	c := h.client(t)
	h.Disturb(func(r *http.Request) Fault {
		if r.URL.Path == "/v3/schema" {
			return Refuse(http.StatusTooManyRequests, 1500*time.Millisecond)
		}
		return nil
	})
	r, err := http.NewRequestWithContext(t.Context(), "GET", h.APIURL()+"/v3/schema", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := do(t, r); got.StatusCode != http.StatusTooManyRequests || got.Header.Get("Retry-After") != "2" {
		t.Errorf("%d, Retry-After %q", got.StatusCode, got.Header.Get("Retry-After"))
	}
	if status, message := c.call("POST", "/v3/export/bulk", "", nil); status != http.StatusOK {
		t.Errorf("an undisturbed call: %d %s", status, message)
	}
	h.Disturb(func(*http.Request) Fault { return Cut(5) })
	r.Header.Set("Authorization", "Bearer "+c.key)
	if response, err := http.DefaultClient.Do(r); err == nil {
		body, err := readAll(response)
		if err == nil || len(body) > 5 {
			t.Errorf("a cut response was read as %q, %v", body, err)
		}
	}
	h.Disturb(nil)
	if status := c.raw("GET", "/v3/schema", "", &map[string]any{}); status != http.StatusOK {
		t.Errorf("a call after the faults: %d", status)
	}
}
