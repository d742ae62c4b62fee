package hq_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	natsjwt "github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

// user is the NATS user of a session.
type user struct {
	seed, jwt string
	creds     []byte
	pair      nkeys.KeyPair
}

func newUser(t testing.TB, name string, subjects ...string) user {
	t.Helper()
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	claims := natsjwt.NewUserClaims(public)
	claims.Name = name
	claims.Expires = 4102444800
	claims.Sub.Allow.Add(subjects...)
	token, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := natsjwt.FormatUserConfig(token, seed)
	if err != nil {
		t.Fatal(err)
	}
	return user{string(seed), token, creds, pair}
}

func TestCredential_HasServerSessionAndCompanies(t *testing.T) {
	u := newUser(t, "server1",
		"dbchange.*.*.c2.*.PUBLIC.>", "dbchange.*.*.c1.*.PUBLIC.>", "dbchange.*.*.c1.*.PUBLIC.>", "eds.notify.s1.>", "_INBOX.>")
	std := base64.StdEncoding.EncodeToString(u.creds)
	for _, text := range []string{std, base64.RawURLEncoding.EncodeToString(u.creds), std[:40] + "\n" + std[40:]} {
		c, err := hq.ParseCredential(text)
		if err != nil {
			t.Fatal(err)
		}
		got := []any{c.ServerID(), c.SessionID(), c.CompanyIDs(), c.Expiry().Unix()}
		if diff := cmp.Diff([]any{"server1", "s1", []string{"c1", "c2"}, int64(4102444800)}, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestCredential_OptionAuthenticates(t *testing.T) {
	u := newUser(t, "server1")
	c, err := hq.ParseCredential(base64.StdEncoding.EncodeToString(u.creds))
	if err != nil {
		t.Fatal(err)
	}
	var o nats.Options
	if err := c.Option()(&o); err != nil {
		t.Fatal(err)
	}
	if token, err := o.UserJWT(); token != u.jwt || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	nonce := []byte("nonce")
	for range 2 {
		signature, err := o.SignatureCB(nonce)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.pair.Verify(nonce, signature); err != nil {
			t.Error(err)
		}
	}
	o = nats.Options{}
	if err := hq.Anonymous().Option()(&o); err != nil || o.UserJWT != nil {
		t.Errorf("anonymous: %v", err)
	}
}

func TestParseCredential_ReturnsFatalErrorsWithoutSecrets(t *testing.T) {
	good, other := newUser(t, "a"), newUser(t, "b")
	encode := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	for name, text := range map[string]string{
		"empty":           "",
		"not base64":      "SECRET!",
		"not creds":       encode([]byte("SECRET")),
		"no seed":         encode([]byte(good.jwt)),
		"another's seed":  encode([]byte(strings.ReplaceAll(string(good.creds), good.seed, other.seed))),
		"a damaged jwt":   encode([]byte(strings.Replace(string(good.creds), good.jwt[20:30], "AAAAAAAAAA", 1))),
		"a nameless user": encode(newUser(t, "").creds),
	} {
		_, err := hq.ParseCredential(text)
		if err == nil || fault.Of(err) != fault.Fatal {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, secret := range []string{"SECRET", good.seed, other.seed, good.jwt} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestCredential_IsNeverShown(t *testing.T) {
	u := newUser(t, "server1")
	c, err := hq.ParseCredential(base64.StdEncoding.EncodeToString(u.creds))
	if err != nil {
		t.Fatal(err)
	}
	session := hq.Session{ID: "s1", Credential: c}
	hidden := struct{ c hq.Credential }{c}
	text, err := json.Marshal(session)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "session", session, "credential", c, "hidden", hidden)
	shown := log.String() + fmt.Sprintf("%s %v %+v %#v %v %+v %#v %q %x %v",
		text, session, session, session, hidden, hidden, hidden, c, c, &session)
	for _, secret := range []string{u.seed, u.jwt, fmt.Sprintf("%x", u.seed)} {
		if strings.Contains(shown, secret) {
			t.Errorf("shown: %s", shown)
		}
	}
}
