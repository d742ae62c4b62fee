package hq_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// jwt returns an unsigned JWT with the given claims.
func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + ".c2lnbmF0dXJl"
}

func parseKey(t testing.TB, claims string) hq.Key {
	t.Helper()
	key, err := hq.ParseKey(jwt(claims))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// seen is a request as HQ received it.
type seen struct {
	Method, Path, Authorization, ContentType, Agent, Body string
}

// fake is an HQ without a network. It answers requests with a function, and records them.
type fake struct {
	t       testing.TB
	answer  func(n int, w http.ResponseWriter, r *http.Request)
	broken  func(n int) error // error of the connection for the n-th request
	seen    []seen
	at      []time.Duration // times of the requests, relative to the first
	started time.Time
}

func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(f.seen) == 0 {
		f.started = time.Now()
	}
	f.at = append(f.at, time.Since(f.started))
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	f.seen = append(f.seen, seen{
		r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"),
		r.Header.Get("Content-Type"), r.Header.Get("User-Agent"), string(body),
	})
	n := len(f.seen)
	if f.broken != nil {
		if err := f.broken(n); err != nil {
			return nil, err
		}
	}
	w := httptest.NewRecorder()
	f.answer(n, w, r)
	response := w.Result()
	response.Request = r
	return response, nil
}

// answering returns a client of an HQ that answers every request with the same body.
func answering(t testing.TB, status int, body string) (*hq.Client, *fake) {
	f := &fake{t: t, answer: func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "req-1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}}
	return f.client(parseKey(t, `{}`)), f
}

func (f *fake) client(key hq.Key) *hq.Client {
	return hq.New(hq.Options{BaseURL: "https://hq.test", Key: key, Version: "1.2.3", HTTP: &http.Client{Transport: f}})
}

// down returns an HQ that answers with the given status before its n-th request.
func down(t testing.TB, n, status int, header ...string) *fake {
	return &fake{t: t, answer: func(i int, w http.ResponseWriter, _ *http.Request) {
		if i >= n {
			_, _ = io.WriteString(w, `{"success":true,"data":{"jobId":"j"}}`)
			return
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}}
}

func TestClient_RetriesWhileHQIsDown(t *testing.T) {
	for _, status := range []int{408, 429, 502, 503, 504} {
		synctest.Test(t, func(t *testing.T) {
			f := down(t, 4, status)
			job, err := f.client(hq.Key{}).StartExport(t.Context(), hq.ExportRequest{})
			if err != nil || job != "j" || len(f.seen) != 4 {
				t.Errorf("%d: %q, %v, %d requests", status, job, err, len(f.seen))
			}
			for i := 2; i < len(f.at); i++ {
				if f.at[i]-f.at[i-1] < f.at[i-1]-f.at[i-2]-f.at[1] {
					t.Errorf("%d: the waits do not grow: %v", status, f.at)
				}
			}
		})
	}
}

func TestClient_DoesNotRetryOtherRefusals(t *testing.T) {
	for status, class := range map[int]fault.Class{
		400: fault.Fatal, 404: fault.Fatal, 409: fault.Fatal, 422: fault.Fatal, 500: fault.Transient, 501: fault.Transient,
	} {
		c, f := answering(t, status, `{"success":false,"message":"so not"}`)
		_, err := c.StartExport(t.Context(), hq.ExportRequest{})
		want := fmt.Sprintf(`start an export: hq answers "so not" with %d %s (request req-1)`, status, http.StatusText(status))
		if err == nil || err.Error() != want || len(f.seen) != 1 || fault.Of(err) != class {
			t.Errorf("%d requests, class %v, error %v; want %s", len(f.seen), fault.Of(err), err, want)
		}
	}
}

func TestClient_RetriesConnectionErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := down(t, 1, 0)
		f.broken = func(n int) error {
			if n < 4 {
				return errors.New("connection refused")
			}
			return nil
		}
		if _, err := f.client(hq.Key{}).StartExport(t.Context(), hq.ExportRequest{}); err != nil || len(f.seen) != 4 {
			t.Errorf("%v after %d requests", err, len(f.seen))
		}
	})
}

func TestClient_HonoursRetryAfter(t *testing.T) {
	for name, value := range map[string]func() string{
		"seconds": func() string { return "7" },
		"a date":  func() string { return time.Now().Add(7 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := down(t, 2, 429, "Retry-After", value())
			if _, err := f.client(hq.Key{}).StartExport(t.Context(), hq.ExportRequest{}); err != nil {
				t.Fatal(err)
			}
			if waited := f.at[1]; waited < 7*time.Second || waited > 8*time.Second {
				t.Errorf("%s: waited %v", name, waited)
			}
		})
	}
}

func TestClient_BoundsRetryAfter(t *testing.T) {
	for _, asked := range []string{"2147483647", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		synctest.Test(t, func(t *testing.T) {
			f := down(t, 2, 429, "Retry-After", asked)
			if _, err := f.client(hq.Key{}).Patient().StartExport(t.Context(), hq.ExportRequest{}); err != nil {
				t.Fatal(err)
			}
			if waited := f.at[1]; waited < 9*time.Minute || waited > 10*time.Minute {
				t.Errorf("%s: waited %v", asked, waited)
			}
		})
	}
}

func TestClient_GivesUpUnlessItIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := down(t, 1_000_000, 503)
		began := time.Now()
		_, err := f.client(hq.Key{}).StartExport(t.Context(), hq.ExportRequest{})
		if err == nil || fault.Of(err) != fault.Transient || time.Since(began) > 30*time.Second || len(f.seen) < 4 {
			t.Errorf("gave up after %v and %d requests with %v", time.Since(began), len(f.seen), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := down(t, 200, 503)
		began := time.Now()
		_, err := f.client(hq.Key{}).Patient().StartExport(t.Context(), hq.ExportRequest{})
		if err != nil || time.Since(began) < 30*time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestClient_BeginsNoWaitLongerThanItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := down(t, 2, 429, "Retry-After", "3600")
		began := time.Now()
		_, err := f.client(hq.Key{}).StartExport(t.Context(), hq.ExportRequest{})
		if err == nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestClient_EndsACallWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := down(t, 1_000_000, 503)
		ctx, cancel := contextFor(t, time.Hour)
		defer cancel()
		_, err := f.client(hq.Key{}).Patient().StartExport(ctx, hq.ExportRequest{})
		if !errors.Is(err, errEnded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestClient_RetriesIfThereIsNoResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := down(t, 1, 0)
		transport := roundTrip(func(r *http.Request) (*http.Response, error) {
			if len(f.seen) < 2 {
				f.seen = append(f.seen, seen{})
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return f.RoundTrip(r)
		})
		c := hq.New(hq.Options{BaseURL: "https://hq.test", HTTP: &http.Client{Transport: transport}}).Patient()
		if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err != nil {
			t.Error(err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestUnauthorized_SaysWhy(t *testing.T) {
	day := 24 * time.Hour
	for want, key := range map[string]hq.Key{
		"there is no api key":                           {},
		"the api key has expired":                       parseKey(t, fmt.Sprintf(`{"exp":%d}`, time.Now().Add(-day).Unix())),
		"hq refuses the api key":                        parseKey(t, fmt.Sprintf(`{"exp":%d}`, time.Now().Add(day).Unix())),
		"it was revoked, or belongs to another environ": parseKey(t, `{}`),
	} {
		for _, status := range []int{401, 403} {
			_, f := answering(t, status, `{"success":false,"message":"no"}`)
			_, err := f.client(key).StartExport(t.Context(), hq.ExportRequest{})
			var e *hq.Unauthorized
			if !errors.As(err, &e) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "req-1") ||
				fault.Of(err) != fault.Fatal || len(f.seen) != 1 {
				t.Errorf("%d: %v, want %q", status, err, want)
			}
		}
	}
}

func TestClient_ReportsUnexpectedResponses(t *testing.T) {
	for body, want := range map[string]string{
		`<html>Bad gateway</html>`:           `start an export: decode hq's response (request req-1): `,
		`{"success":true}`:                   `it has no data`,
		`{"success":true,"data":null}`:       `it has no data`,
		`{"success":true,"data":{}}`:         `hq's response has no job id`,
		`{"success":true,"data":{"jobId":7}`: `decode hq's response`,
		`{"success":false}`:                  `hq answers 200 OK (request req-1)`,
		`{"success":false,"message":"a\nb"}`: `hq answers "a b" (request req-1)`,
		``:                                   `decode hq's response`,
	} {
		c, _ := answering(t, 200, body)
		if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	c, _ := answering(t, 500, `<html>oh</html>`)
	want := "start an export: hq answers 500 Internal Server Error (request req-1)"
	if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); fmt.Sprint(err) != want {
		t.Error(err)
	}
	c, _ = answering(t, 200, `{"data":{"jobId":"lenient","more":1},"new":[]}`)
	if job, err := c.StartExport(t.Context(), hq.ExportRequest{}); job != "lenient" || err != nil {
		t.Errorf("%q, %v", job, err)
	}
}

func TestPresent_IsNeverAheadOfHQ(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for behind, want := range map[time.Duration]time.Duration{90 * time.Second: 90 * time.Second, -time.Hour: 0} {
			f := down(t, 1, 0)
			inner := f.answer
			f.answer = func(n int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", time.Now().Add(-behind).UTC().Format(http.TimeFormat))
				inner(n, w, r)
			}
			c := f.client(hq.Key{})
			if _, err := c.StartExport(t.Context(), hq.ExportRequest{}); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(c.Present()); got < want || got > want+time.Second {
				t.Errorf("hq is %v behind: the present is %v ago", behind, got)
			}
		}
	})
}

// Nor does eds fall back if the server demands TLS only at the second attempt.
func TestKey_IsNeverShown(t *testing.T) {
	const secret = "c2lnbmF0dXJl"
	key := parseKey(t, `{"iss":"https://hq.test"}`)
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	config := struct {
		Key    hq.Key
		hidden hq.Key
	}{key, key}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("x", "key", key, "config", config, "end", hq.SessionEnd{URL: secret}, "enrolment", hq.Enrolment{Token: secret})
	shown := fmt.Sprintf("%s %v %+v %#v %q %x %v", text, config, config, config, key, key, &config) + log.String() +
		fmt.Sprintf("%v %+v %#v", hq.SessionEnd{URL: secret}, hq.SessionEnd{URL: secret}, hq.SessionEnd{URL: secret}) +
		fmt.Sprintf("%v %+v %#v", hq.Enrolment{Token: secret}, hq.Enrolment{Token: secret}, hq.Enrolment{Token: secret})
	if strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprintf("%x", secret)) {
		t.Errorf("shown: %s", shown)
	}
}
