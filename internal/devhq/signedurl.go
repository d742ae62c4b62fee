package devhq

import (
	"crypto/hmac"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// urlLife is how long a signed URL is valid.
const urlLife = 12 * time.Hour

// signedURL returns a URL that permits requests with the given method and path without an API key.
// The URL expires after urlLife. It works like a presigned URL of an object store.
func (k *keyring) signedURL(base, method, path string, now time.Time) string {
	expires := strconv.FormatInt(now.Add(urlLife).Unix(), 10)
	query := url.Values{"expires": {expires}, "signature": {k.urlSignature(method, path, expires)}}
	return base + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// checkURL returns an error if HQ did not sign the URL for this request, or if the URL has
// expired.
func (k *keyring) checkURL(r *http.Request, now time.Time) error {
	query := r.URL.Query()
	expires := query.Get("expires")
	if !hmac.Equal([]byte(query.Get("signature")), []byte(k.urlSignature(r.Method, r.URL.Path, expires))) {
		return httpErrorf(http.StatusForbidden, "the signature does not match the request")
	}
	at, err := strconv.ParseInt(expires, 10, 64)
	if err != nil || now.Unix() >= at {
		return httpErrorf(http.StatusForbidden, "the URL has expired")
	}
	return nil
}

func (k *keyring) urlSignature(method, path, expires string) string {
	return hex.EncodeToString(k.sign("url\n" + method + "\n" + path + "\n" + expires))
}
