package hq_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

func TestParseKey_ReadsIssuerAndExpiry(t *testing.T) {
	for claims, want := range map[string]struct {
		Issuer string
		Expiry time.Time
	}{
		`{"iss":"https://api.x","exp":1700000000}`:    {"https://api.x", time.Unix(1700000000, 0).UTC()},
		`{"exp":1700000000.75,"sub":["any",{"a":1}]}`: {"", time.Unix(1700000000, 0).UTC()},
		`{}`: {},
	} {
		for _, text := range []string{jwt(claims), "  " + jwt(claims) + "\n"} {
			key, err := hq.ParseKey(text)
			if err != nil {
				t.Errorf("%s: %v", claims, err)
				continue
			}
			got := want
			got.Issuer, got.Expiry = key.Issuer(), key.Expiry()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", claims, diff)
			}
		}
	}
}

func TestParseKey_HidesMalformedKeys(t *testing.T) {
	for text, problem := range map[string]hq.KeyProblem{
		"":                                 hq.KeyMissing,
		" \n":                              hq.KeyMissing,
		"SECRET":                           hq.KeyMalformed,
		"SECRET.SECRET":                    hq.KeyMalformed,
		"SECRET.!!.SECRET":                 hq.KeyMalformed,
		"SECRET.U0VDUkVU.SECRET":           hq.KeyMalformed,
		"a.b.c.SECRET":                     hq.KeyMalformed,
		jwt(`["SECRET"]`):                  hq.KeyMalformed,
		jwt(`{"iss":{"SECRET":1}}`):        hq.KeyMalformed,
		jwt(`{"exp":"SECRET"}`):            hq.KeyMalformed,
		jwt(`{"exp":1e999}`):               hq.KeyMalformed,
		jwt(`{"exp":-1}`):                  hq.KeyMalformed,
		jwt(`{"exp":9223372036854775807}`): hq.KeyMalformed,
		strings.Replace(jwt(`{}`), ".", ".\u00e9", 1): hq.KeyMalformed,
	} {
		_, err := hq.ParseKey(text)
		var e *hq.Unauthorized
		if !errors.As(err, &e) || e.Problem != problem || fault.Of(err) != fault.Fatal || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCheck_FindsAnExpiredKey(t *testing.T) {
	key := parseKey(t, `{"exp":1700000000}`)
	at := time.Unix(1700000000, 0)
	if err := key.Check(at.Add(-time.Second)); err != nil {
		t.Error(err)
	}
	err := key.Check(at)
	var e *hq.Unauthorized
	if !errors.As(err, &e) || e.Problem != hq.KeyExpired || !strings.Contains(err.Error(), "it expired at 2023-11-14T22:13:20Z") {
		t.Errorf("got %v", err)
	}
	if err := parseKey(t, `{}`).Check(at); err != nil {
		t.Error(err)
	}
	if err := (hq.Key{}).Check(at); !errors.As(err, &e) || e.Problem != hq.KeyMissing {
		t.Errorf("got %v", err)
	}
}

func TestBaseURL_PrefersTheFlagThenTheIssuer(t *testing.T) {
	for _, c := range []struct{ flag, issuer, want string }{
		{"", "", hq.DefaultURL},
		{"", "https://shopmonkey.io", hq.DefaultURL},
		{"", "https://shopmonkey.io/", hq.DefaultURL},
		{"", "https://edge-api.shopmonkey.cloud", "https://edge-api.shopmonkey.cloud"},
		{"", "http://localhost:3101/", "http://localhost:3101"},
		{"", "some issuer", hq.DefaultURL},
		{"", "file:///etc", hq.DefaultURL},
		{"http://127.0.0.1:9/base/", "https://x", "http://127.0.0.1:9/base"},
	} {
		key := parseKey(t, `{"iss":"`+c.issuer+`"}`)
		if got, err := hq.BaseURL(c.flag, key); got != c.want || err != nil {
			t.Errorf("BaseURL(%q, %q) = %q, %v", c.flag, c.issuer, got, err)
		}
	}
	for _, flag := range []string{"localhost:3101", "ftp://x", "https://", "https://u:p@x", "https://x?y", "::"} {
		if got, err := hq.BaseURL(flag, hq.Key{}); err == nil || fault.Of(err) != fault.Fatal {
			t.Errorf("BaseURL(%q) = %q, %v", flag, got, err)
		}
	}
}

func TestEnrollURL_PrefersTheFlagThenTheCode(t *testing.T) {
	for code, want := range map[string]string{
		"P1": "https://api.shopmonkey.cloud", "S1": "https://sandbox-api.shopmonkey.cloud",
		"E1": "https://edge-api.shopmonkey.cloud", "L1": "http://localhost:3101",
	} {
		if got, err := hq.EnrollURL("", code); got != want || err != nil {
			t.Errorf("%s: %q, %v", code, got, err)
		}
		if got, err := hq.EnrollURL("http://localhost:9", code); got != "http://localhost:9" || err != nil {
			t.Errorf("%s: %q, %v", code, got, err)
		}
	}
	for _, code := range []string{"", "X1", "1P"} {
		if got, err := hq.EnrollURL("", code); err == nil {
			t.Errorf("%q: %q", code, got)
		}
	}
}

func TestServers_PrefersTheFlagThenTheAPI(t *testing.T) {
	for _, c := range []struct{ server, base, want string }{
		{"", hq.DefaultURL, "nats://connect.nats.shopmonkey.pub"},
		{"", "http://localhost:3101", "nats://localhost:4222"},
		{"", "http://127.0.0.1:3101", "nats://localhost:4222"},
		{"nats://a,nats://b", "http://localhost:3101", "nats://a,nats://b"},
	} {
		if got := hq.Servers(c.server, c.base); got != c.want {
			t.Errorf("Servers(%q, %q) = %q, want %q", c.server, c.base, got, c.want)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, claims := range []string{`{}`, `{"iss":"https://x","exp":1700000000}`, `{"exp":1e5}`, `[]`, ``} {
		f.Add(jwt(claims))
	}
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := hq.ParseKey(text)
		if err != nil {
			if !errors.As(err, new(*hq.Unauthorized)) || !key.IsZero() {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if key.IsZero() || key.String() != "[redacted]" {
			t.Fatalf("%q is no key, and no error", text)
		}
		if _, err := hq.BaseURL("", key); err != nil {
			t.Fatal(err)
		}
		_ = key.Check(time.Now())
	})
}
