package eventhub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// KeyName and Key are the name and the value of a shared access key that may send to every hub.
const (
	KeyName = "sender"
	Key     = "c2VjcmV0IHdpdGggKyBhbmQgLyBpbiBpdA/+6w=="
)

// ListenKeyName is the name of a shared access key that may only read. Its value is Key.
const ListenKeyName = "listener"

// claimsOf returns the claims of a shared access key, or nil if there is no key with this name.
func claimsOf(keyName string) []string {
	switch keyName {
	case KeyName:
		return []string{"Send", "Listen"}
	case ListenKeyName:
		return []string{"Listen"}
	}
	return nil
}

// checkSignature checks a token of the form
//
//	SharedAccessSignature sr=audience&sig=...&se=expiry&skn=key
//
// The field sig is an HMAC of the field sr, as escaped in the token, and the field se.
// checkSignature returns the claims of the key, or a description of the problem.
func checkSignature(token, audience string) (claims []string, problem string) {
	text, ok := strings.CutPrefix(token, "SharedAccessSignature ")
	fields, err := url.ParseQuery(text)
	if !ok || err != nil {
		return nil, "malformed token"
	}
	if claims = claimsOf(fields.Get("skn")); claims == nil {
		return nil, "no such key"
	}
	_, escaped, _ := strings.Cut("&"+text, "&sr=")
	escaped, _, _ = strings.Cut(escaped, "&")
	sum := hmac.New(sha256.New, []byte(Key))
	_, _ = sum.Write([]byte(escaped + "\n" + fields.Get("se"))) // a hash never fails
	signature, err := base64.StdEncoding.DecodeString(fields.Get("sig"))
	if err != nil || !hmac.Equal(signature, sum.Sum(nil)) {
		return nil, "invalid signature"
	}
	expiry, err := strconv.ParseInt(fields.Get("se"), 10, 64)
	if err != nil || time.Unix(expiry, 0).Before(time.Now()) {
		return nil, "expired token"
	}
	if !strings.EqualFold(fields.Get("sr"), audience) {
		return nil, "another audience"
	}
	return claims, ""
}
