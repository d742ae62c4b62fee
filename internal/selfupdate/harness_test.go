package selfupdate

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/gopenpgp/v3/crypto"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/retry"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

// newKey makes a key that signs.
func newKey(t *testing.T, name string, life time.Duration) *crypto.Key {
	t.Helper()
	key, err := crypto.PGP().
		KeyGeneration().
		AddUserId(name, "releases@example.com").
		Lifetime(int32(life / time.Second)).
		New().
		GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, key *crypto.Key, data []byte) []byte {
	t.Helper()
	signer, err := crypto.PGP().Sign().SigningKey(key).Detached().New()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(data, crypto.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func trusting(t *testing.T, keys ...*crypto.Key) *Keys {
	t.Helper()
	var text strings.Builder
	for _, k := range keys {
		armored, err := k.GetArmoredPublicKey()
		if err != nil {
			t.Fatal(err)
		}
		text.WriteString(armored + "\n")
	}
	parsed, err := ParseKeys([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// entry is one of an archive.
type entry struct {
	name, text string
	link       string // not "": a symbolic link
	hard       bool   // a hard one
}

func packTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: 0o644, Size: int64(len(e.text)), Linkname: e.link}
		switch {
		case e.hard:
			h.Typeflag = tar.TypeLink
		case e.link != "":
			h.Typeflag = tar.TypeSymlink
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packZip(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(0o644)
		switch {
		case e.link != "":
			h.SetMode(fs.ModeSymlink | 0o777)
		case strings.HasSuffix(e.name, "/"):
			h.SetMode(fs.ModeDir | 0o755)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.text + e.link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// says is a program that says its version.
func says(version string) string { return "#!/bin/sh\necho " + version + "\n" }

// world is a machine with a program on it, and a server with releases.
type world struct {
	t       *testing.T
	dir     string // of the program
	target  string
	key     *crypto.Key
	options Options
	archive []byte // of the release that is requested

	mu       sync.Mutex
	files    map[string][]byte // by path; guarded by mu
	requests []string          // guarded by mu
	answer   http.HandlerFunc  // with the files where not nil
}

const (
	running = "1.2.3"
	newer   = "1.3.0"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), key: newKey(t, "Releases", 0), files: make(map[string][]byte)}
	w.target = filepath.Join(w.dir, "eds")
	if err := os.WriteFile(w.target, []byte(says(running)), 0o755); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(server.Close)
	w.options = Options{
		Executable: w.target, Version: running, Platform: Platform{"linux", "amd64"}, Releases: server.URL + "/releases/download",
		Keys: trusting(t, w.key), HTTP: server.Client(),
	}
	w.release(newer, packTar(t, entry{name: "LICENSE", text: "MIT"}, entry{name: "eds", text: says(newer)}))
	return w
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.requests = append(w.requests, r.URL.Path)
	text, ok := w.files[r.URL.Path]
	answer := w.answer
	w.mu.Unlock()
	switch {
	case answer != nil:
		answer(rw, r)
	case ok:
		_, _ = rw.Write(text)
	default:
		http.NotFound(rw, r)
	}
}

// release publishes an archive and the signature of it.
func (w *world) release(version string, archive []byte) {
	w.t.Helper()
	w.publish(version, archive, sign(w.t, w.key, archive))
}

func (w *world) publish(version string, archive, signature []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	path := "/releases/download/v" + version + "/" + w.options.Platform.Archive()
	w.archive, w.files[path], w.files[path+".sig"] = archive, archive, signature
}

// updater returns one that is quick to give up.
func (w *world) updater() *Updater {
	w.t.Helper()
	u, err := New(w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	u.fetch.backoff = retry.Backoff{Min: time.Microsecond, Max: time.Microsecond}
	return u
}

// version starts a program and returns what it says.
func version(t *testing.T, program string) string {
	t.Helper()
	said, err := exec.CommandContext(t.Context(), program, "version").Output()
	if err != nil {
		t.Fatalf("%s does not start: %v", program, err)
	}
	return strings.TrimSpace(string(said))
}

// listing returns the names in the program's directory.
func (w *world) listing() []string {
	w.t.Helper()
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// untouched fails the test where there is anything but the program that ran before.
func (w *world) untouched() {
	w.t.Helper()
	if got := fmt.Sprint(w.listing()); got != "[eds]" {
		w.t.Errorf("the directory holds %s", got)
	}
	if got := version(w.t, w.target); got != running {
		w.t.Errorf("the program in place is %s", got)
	}
}

func (w *world) upgrade() *Updater {
	w.t.Helper()
	u := w.updater()
	staged, err := u.Stage(w.t.Context(), newer)
	if err == nil {
		err = staged.Swap()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}
