package snowflake

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// Users are the credentials of the users that may log in.
type Users struct {
	Passwords map[string]string         // of users
	Keys      map[string]*rsa.PublicKey // of users
	Tokens    map[string]string         // programmatic access tokens, by user
	OAuth     string                    // the only valid OAuth token; "" for none
}

// login handles a login request. It opens a session if the credentials are valid.
func (s *Server) login(query url.Values, raw []byte) any {
	var in struct {
		Data struct {
			User          string         `json:"LOGIN_NAME"`
			Password      string         `json:"PASSWORD"`
			Authenticator string         `json:"AUTHENTICATOR"`
			Token         string         `json:"TOKEN"`
			Parameters    map[string]any `json:"SESSION_PARAMETERS"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return failed(err)
	}
	d := in.Data
	if err := s.users.check(d.Authenticator, d.User, d.Password, d.Token); err != nil {
		return failed(err)
	}
	opened, err := s.engine.Open(Place{query.Get("databaseName"), query.Get("schemaName"), query.Get("warehouse"), query.Get("roleName")})
	if err != nil {
		return failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins++
	token := fmt.Sprintf("token-%d", s.logins)
	s.sessions[token] = &openSession{Session: opened, files: make(map[string][]byte)}
	s.parameters = d.Parameters
	return succeeded(map[string]any{
		"token": token, "masterToken": "master-" + token, "validityInSeconds": 3600, "masterValidityInSeconds": 14400,
		"sessionId": s.logins, "parameters": []any{},
	})
}

func (u Users) check(authenticator, user, password, token string) error {
	refused := &Error{390100, "08001", "Incorrect username or password was specified."}
	switch strings.ToUpper(authenticator) {
	case "", "SNOWFLAKE":
		if want, ok := u.Passwords[user]; ok && want == password {
			return nil
		}
	case "PROGRAMMATIC_ACCESS_TOKEN":
		if want, ok := u.Tokens[user]; ok && want == token {
			return nil
		}
		refused = &Error{394400, "08001", "Programmatic access token is invalid."}
	case "OAUTH":
		if u.OAuth != "" && token == u.OAuth {
			return nil
		}
		refused = &Error{390303, "08001", "Invalid OAuth access token."}
	case "SNOWFLAKE_JWT":
		for name, key := range u.Keys {
			if signed(token, key) && subject(token) == strings.ToUpper(name) {
				return nil
			}
		}
		refused = &Error{390144, "08001", "JWT token is invalid."}
	}
	return refused
}

// subject returns the user in the subject of a JSON web token. The subject has the form
// account.user. If the token is malformed, it returns "".
func subject(token string) string {
	parts := strings.Split(token, ".")
	var claims struct {
		Subject string `json:"sub"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[min(1, len(parts)-1)])
	if err != nil || json.Unmarshal(raw, &claims) != nil {
		return ""
	}
	_, user, _ := strings.Cut(claims.Subject, ".")
	return user
}

// signed reports whether a JSON web token was signed with the private key that belongs to the
// public key.
func signed(token string, key *rsa.PublicKey) bool {
	at := strings.LastIndexByte(token, '.')
	if at < 0 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	if err != nil {
		return false
	}
	sum := sha256.Sum256([]byte(token[:at]))
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
}
