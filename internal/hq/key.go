package hq

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

const (
	// DefaultURL is the default address of HQ's API.
	DefaultURL = "https://api.shopmonkey.cloud"
	// DefaultServer is the default address of HQ's NATS.
	DefaultServer = "nats://connect.nats.shopmonkey.pub"

	sandboxURL   = "https://sandbox-api.shopmonkey.cloud"
	edgeURL      = "https://edge-api.shopmonkey.cloud"
	legacyIssuer = "https://shopmonkey.io"
	localServer  = "nats://localhost:4222"
	redacted     = "[redacted]"
)

// Key is an API key. Printing or encoding it in any way yields "[redacted]".
type Key struct {
	secret *string // a pointer, so that no printing verb reaches it
	issuer string
	expiry time.Time
}

// ParseKey parses an API key, which is a JWT. It does not verify the signature; only HQ can. If
// the key is missing or malformed, the error is an *Unauthorized that contains no part of the key.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Key{}, unauthorized(KeyMissing, "", nil)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return Key{}, unauthorized(KeyMalformed, fmt.Sprintf("this one has %d", len(parts)), nil)
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c > '~' {
			return Key{}, unauthorized(KeyMalformed, "it has a character that is invalid in a key", nil)
		}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return Key{}, unauthorized(KeyMalformed, "its second part is not base64", nil)
	}
	var claims struct {
		Issuer string      `json:"iss"`
		Expiry json.Number `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return Key{}, unauthorized(KeyMalformed, "its second part is not a set of claims", nil)
	}
	k := Key{secret: &text, issuer: claims.Issuer}
	if claims.Expiry != "" {
		if k.expiry, err = numericDate(string(claims.Expiry)); err != nil {
			return Key{}, unauthorized(KeyMalformed, "its expiry is not a time", nil)
		}
	}
	return k, nil
}

// maxDate is the last second of the year 9999, the latest time that RFC 3339 can express.
const maxDate = 253402300799

// numericDate parses a NumericDate (RFC 7519 section 2) and drops its fraction.
func numericDate(text string) (time.Time, error) {
	whole, _, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || seconds < 0 || seconds > maxDate {
		return time.Time{}, errors.New("not a numeric date")
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// IsZero reports whether k is the zero Key, which contains no API key.
func (k Key) IsZero() bool { return k.secret == nil }

// Issuer returns the claim iss, or "" if the key has none.
func (k Key) Issuer() string { return k.issuer }

// Expiry returns the time at which the key expires, or the zero time if it never does.
func (k Key) Expiry() time.Time { return k.expiry }

// Check returns an *Unauthorized if the key is missing or has expired at the given time.
func (k Key) Check(now time.Time) error {
	switch {
	case k.IsZero():
		return unauthorized(KeyMissing, "", nil)
	case !k.expiry.IsZero() && !now.Before(k.expiry):
		detail := fmt.Sprintf("it expired at %s, now is %s", k.expiry.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		return unauthorized(KeyExpired, detail, nil)
	}
	return nil
}

func (k Key) reveal() string { return *k.secret }

func (k Key) String() string               { return redacted }
func (k Key) GoString() string             { return redacted }
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (k Key) LogValue() slog.Value         { return slog.StringValue(redacted) }

// BaseURL returns the address of HQ's API. That is apiURL (--api-url), if set; otherwise the
// issuer of the key, if it is an address; otherwise DefaultURL.
func BaseURL(apiURL string, key Key) (string, error) {
	if apiURL != "" {
		return parseBase(apiURL)
	}
	issuer := strings.TrimRight(key.issuer, "/")
	if issuer == legacyIssuer {
		return DefaultURL, nil
	}
	if base, err := parseBase(issuer); err == nil {
		return base, nil
	}
	return DefaultURL, nil
}

func parseBase(raw string) (string, error) {
	u, err := url.Parse(strings.TrimRight(strings.TrimSpace(raw), "/"))
	valid := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
	if !valid || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fault.Mark(fault.Fatal, errors.New("the address of hq's api must be like https://host or http://host:port"))
	}
	return u.String(), nil
}

// EnrollURL returns the address of the HQ that issued an enrolment code. That is apiURL, if set;
// otherwise the address that the first letter of the code selects.
func EnrollURL(apiURL, code string) (string, error) {
	if apiURL != "" {
		return parseBase(apiURL)
	}
	if code == "" {
		return "", fault.Mark(fault.Fatal, errors.New("there is no enrolment code"))
	}
	switch code[0] {
	case 'P', 'p':
		return DefaultURL, nil
	case 'S', 's':
		return sandboxURL, nil
	case 'E', 'e':
		return edgeURL, nil
	case 'L', 'l':
		return "http://localhost:3101", nil
	}
	return "", fault.Mark(fault.Fatal, errors.New("this is not an enrolment code: they begin with P, S, E or L"))
}

// Servers returns the comma-separated addresses of HQ's NATS servers. The first argument is the
// value of --server. If it is empty, Servers returns the default for the API at baseURL.
func Servers(server, baseURL string) string {
	switch {
	case server != "":
		return server
	case Local(baseURL):
		return localServer
	}
	return DefaultServer
}

// Redacted removes users, passwords and tokens from a comma-separated list of NATS addresses.
func Redacted(servers string) string {
	list := strings.Split(servers, ",")
	for i, server := range list {
		if at := strings.LastIndexByte(server, '@'); at >= 0 {
			scheme, _, _ := strings.Cut(server, "://")
			list[i] = scheme + "://" + server[at+1:]
		}
	}
	return strings.Join(list, ",")
}

// Local reports whether the host of the given URL is this machine.
func Local(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && loopback(u.Hostname())
}
