package hq

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Credential authenticates one session to HQ's NATS. It is kept in memory only. Printing or
// encoding it in any way yields "[redacted]".
type Credential struct {
	secret    *natsSecret // nil if the credential is anonymous
	serverID  string
	sessionID string
	companies []string
	expiry    time.Time
}

type natsSecret struct {
	jwt  string
	seed []byte
}

// Anonymous returns the credential for a NATS server that requires no authentication. Its server
// id is "dev", and it covers every company.
func Anonymous() Credential {
	return Credential{serverID: "dev", companies: []string{"*"}}
}

// ParseCredential parses the base64 form of a NATS creds file, which contains a user JWT and its
// seed. Errors contain no part of either.
func ParseCredential(text string) (Credential, error) {
	fail := func(why string) (Credential, error) {
		return Credential{}, fault.Mark(fault.Fatal, errors.New("read the credential for nats: "+why))
	}
	file, err := decodeBase64(text)
	if err != nil {
		return fail("it is not base64")
	}
	token, err := jwt.ParseDecoratedJWT(file)
	if err != nil {
		return fail("it has no user jwt")
	}
	claims, err := jwt.DecodeUserClaims(strings.TrimSpace(token))
	if err != nil {
		return fail("its user jwt is not valid")
	}
	pair, err := jwt.ParseDecoratedUserNKey(file)
	if err != nil {
		return fail("it has no user seed")
	}
	defer pair.Wipe()
	if public, err := pair.PublicKey(); err != nil || public != claims.Subject {
		return fail("its seed and its jwt belong to different users")
	}
	seed, err := pair.Seed()
	if err != nil {
		return fail("its user seed is not valid")
	}
	c := Credential{secret: &natsSecret{jwt: strings.TrimSpace(token), seed: slices.Clone(seed)}, serverID: claims.Name}
	if claims.Expires > 0 {
		c.expiry = time.Unix(claims.Expires, 0).UTC()
	}
	c.readSubjects(claims.Sub.Allow)
	if c.serverID == "" {
		return fail("its user has no name, which should be the server's id")
	}
	return c, nil
}

// decodeBase64 decodes the standard and the URL-safe alphabet of base64, with or without padding.
// It ignores white space.
func decodeBase64(text string) ([]byte, error) {
	text = strings.Join(strings.Fields(text), "")
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	if text == "" {
		return nil, errors.New("it is empty")
	}
	return base64.RawStdEncoding.DecodeString(text)
}

// readSubjects sets companies and sessionID from the subjects that the credential allows eds to
// subscribe to: dbchange.*.*.<company>.*.PUBLIC.> and eds.notify.<session>.>.
func (c *Credential) readSubjects(allowed []string) {
	for _, subject := range allowed {
		// A subject may be followed by a space and a queue group.
		subject, _, _ = strings.Cut(subject, " ")
		tokens := strings.Split(subject, ".")
		switch {
		case len(tokens) >= 4 && tokens[0] == "dbchange" && tokens[3] != ">":
			if !slices.Contains(c.companies, tokens[3]) {
				c.companies = append(c.companies, tokens[3])
			}
		case len(tokens) >= 3 && tokens[0] == "eds" && tokens[1] == "notify" && tokens[2] != "*" && tokens[2] != ">":
			c.sessionID = tokens[2]
		}
	}
	slices.Sort(c.companies)
}

// ServerID returns the id of this server, which is the name of the credential's NATS user.
func (c Credential) ServerID() string { return c.serverID }

// SessionID returns the id of the session that the credential is for, or "" if the credential names
// no session.
func (c Credential) SessionID() string { return c.sessionID }

// CompanyIDs returns the sorted ids of the companies whose changes may be read. The id "*" means
// every company.
func (c Credential) CompanyIDs() []string { return slices.Clone(c.companies) }

// Expiry returns the time at which the credential expires, or the zero time if it never does.
func (c Credential) Expiry() time.Time { return c.expiry }

// Option returns the option that authenticates a connection opened by nats.Connect.
func (c Credential) Option() nats.Option {
	s := c.secret
	if s == nil {
		return func(*nats.Options) error { return nil }
	}
	return nats.UserJWT(func() (string, error) { return s.jwt, nil }, s.sign)
}

// sign signs nonce, the server's challenge.
func (s *natsSecret) sign(nonce []byte) ([]byte, error) {
	pair, err := nkeys.FromSeed(s.seed)
	if err != nil {
		return nil, fmt.Errorf("sign the challenge of nats: %w", err)
	}
	defer pair.Wipe()
	return pair.Sign(nonce)
}

func (c Credential) String() string               { return redacted }
func (c Credential) GoString() string             { return redacted }
func (c Credential) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (c Credential) LogValue() slog.Value         { return slog.StringValue(redacted) }
