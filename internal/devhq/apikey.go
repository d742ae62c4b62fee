package devhq

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// KeyOptions describes an API key to issue.
type KeyOptions struct {
	ServerID  string        // id of the server that the key is for
	Companies []string      // companies that the key may read; none means all
	Life      time.Duration // time until the key expires; 0 means ten years, and a negative value creates an expired key
}

// keyClaims holds the claims of an API key, which is a JWT signed by HQ (HS256).
type keyClaims struct {
	Issuer    string   `json:"iss"` // URL of the API
	Subject   string   `json:"sub"` // id of the server
	ID        string   `json:"jti"`
	IssuedAt  int64    `json:"iat"`
	ExpiresAt int64    `json:"exp"`
	Companies []string `json:"companyIds,omitempty"`
}

const (
	keyHeader  = `{"alg":"HS256","typ":"JWT"}`
	keyLife    = 10 * 365 * 24 * time.Hour
	secretSize = 32
)

// keyring issues and checks API keys and signed URLs, with a secret that only this HQ knows.
type keyring struct{ secret []byte }

func loadKeyring(s *store) (*keyring, error) {
	secret, err := s.secret("api", func() ([]byte, error) {
		secret := make([]byte, secretSize)
		_, err := rand.Read(secret)
		return secret, err
	})
	return &keyring{secret}, err
}

func (k *keyring) sign(text string) []byte {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// issue returns a new API key.
func (k *keyring) issue(issuer string, o KeyOptions, now time.Time) string {
	life := o.Life
	if life == 0 {
		life = keyLife
	}
	claims, err := json.Marshal(keyClaims{
		Issuer: issuer, Subject: o.ServerID, ID: rand.Text(),
		IssuedAt: now.Unix(), ExpiresAt: now.Add(life).Unix(), Companies: slices.Clone(o.Companies),
	})
	if err != nil {
		panic(err) // strings and integers always encode
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(keyHeader)) + "." + encode(claims)
	return text + "." + encode(k.sign(text))
}

// check verifies that HQ issued the API key and that the key has not expired. It returns the
// claims.
func (k *keyring) check(key string, now time.Time) (keyClaims, error) {
	var claims keyClaims
	cut := strings.LastIndexByte(key, '.')
	if strings.Count(key, ".") != 2 {
		return claims, errors.New("the API key is malformed: it is not a JWT")
	}
	signature, err := base64.RawURLEncoding.DecodeString(key[cut+1:])
	if err != nil {
		return claims, errors.New("the API key is malformed: its signature is not base64url")
	}
	if !hmac.Equal(signature, k.sign(key[:cut])) {
		return claims, errors.New("the API key was not issued by this HQ")
	}
	text, err := base64.RawURLEncoding.DecodeString(key[strings.IndexByte(key, '.')+1 : cut])
	if err != nil {
		return claims, errors.New("the API key is malformed: its claims are not base64url")
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return claims, errors.New("the API key is malformed: its claims are not JSON")
	}
	if expiry := time.Unix(claims.ExpiresAt, 0).UTC(); !now.Before(expiry) {
		return claims, fmt.Errorf("the API key expired at %s", expiry.Format(time.RFC3339))
	}
	return claims, nil
}
