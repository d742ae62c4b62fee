package e2e_test

import (
	"bytes"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// alwaysSecret matches texts that no log may contain: seeds and credentials of NATS, and signatures
// of upload URLs.
var alwaysSecret = regexp.MustCompile(`\bS[UAO][A-Z2-7]{50,}\b|BEGIN (NATS USER JWT|USER NKEY SEED)|[?&]signature=[^*&" ]`)

// secrets are the secrets that the world's processes know.
func (w *world) secrets() []string {
	secrets := []string{w.key}
	if u, err := url.Parse(w.url); err == nil {
		if password, ok := u.User.Password(); ok {
			secrets = append(secrets, password)
		}
	}
	return secrets
}

// keepSecrets expects no secret in anything that the world's processes leave behind: output, logs,
// crash reports, and messages to HQ.
func (w *world) keepSecrets(outputs []*process) {
	w.t.Helper()
	for _, p := range outputs {
		w.holdsNoSecret("the output of a server", []byte(p.output()))
	}
	for _, dir := range []string{
		filepath.Join(w.data, "logs"), filepath.Join(w.data, "crash"), filepath.Join(w.data, "dlq"),
		filepath.Join(w.hqDir, "logs"),
	} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil // it does not exist, or no longer
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			if zipped, err := gzip.NewReader(bytes.NewReader(text)); err == nil {
				if text, err = io.ReadAll(zipped); err != nil {
					w.t.Errorf("%s: %v", path, err)
				}
			}
			w.holdsNoSecret(path, text)
			return nil
		})
		if err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) holdsNoSecret(what string, text []byte) {
	w.t.Helper()
	for _, secret := range w.secrets() {
		if secret != "" && bytes.Contains(text, []byte(secret)) {
			w.t.Errorf("%s holds a secret", what)
		}
	}
	if found := alwaysSecret.Find(text); found != nil {
		w.t.Errorf("%s holds %.12q", what, found)
	}
}

// TestKeepSecrets_FindsSecrets shows that the search can find secrets.
func TestKeepSecrets_FindsSecrets(t *testing.T) {
	for _, text := range []string{
		"-----BEGIN USER NKEY SEED------", "SU" + strings.Repeat("A2", 28), `"url":"http://x/y?expires=1&signature=abc"`,
	} {
		if !alwaysSecret.MatchString(text) {
			t.Errorf("%q is not found", text)
		}
	}
}
