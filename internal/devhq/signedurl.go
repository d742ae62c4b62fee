package devhq

import (
	"crypto/hmac"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// urlLife is the time until a signed URL expires.
const urlLife = 12 * time.Hour

// signedURL returns a URL for method on path that needs no key and expires after urlLife, like the
// presigned URLs of an object store.
func (k *keyring) signedURL(base, method, path string, now time.Time) string {
	expires := strconv.FormatInt(now.Add(urlLife).Unix(), 10)
	query := url.Values{"expires": {expires}, "signature": {k.urlSignature(method, path, expires)}}
	return base + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// checkURL returns an error if the request's URL was not signed for it or has expired.
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
