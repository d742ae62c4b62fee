package e2e_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ProtonMail/gopenpgp/v3/crypto"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/selfupdate"
)

func TestWorker_IsRestartedAndReportedAfterKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serve()
	session := w.session(p, "")
	w.applied(p, 100)
	if err := syscall.Kill(p.worker(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.session(p, session)
	w.drain(p)
	p.stop()
	w.equal()
	for _, s := range sessions(t, w) {
		if want := s.ID == session; s.Errored != want || s.Lost || s.Ended.IsZero() {
			t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
		}
	}
	logs, err := w.hq.Logs()
	if err != nil {
		t.Fatal(err)
	}
	reported := false
	for _, l := range logs {
		reported = reported || l.Errored && l.SessionID == session
	}
	if !reported {
		t.Errorf("the crash was not reported; the logs are %+v", logs)
	}
	if left, _ := filepath.Glob(filepath.Join(w.data, "crash", "*.json")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

func TestWorker_FinishesWhenItsParentEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	p := w.serve()
	session := w.session(p, "")
	w.applied(p, 100)
	worker := p.worker()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker ends", func() bool { return syscall.Kill(worker, 0) != nil }, p.output)
	for _, s := range sessions(t, w) {
		if s.ID == session && (s.Ended.IsZero() || s.Errored || s.Lost) {
			t.Errorf("session %s: errored %v, lost %v, ended %v", s.ID, s.Errored, s.Lost, s.Ended)
		}
	}
	p = w.serve()
	w.drain(p)
	p.stop()
	w.equal()
}

func TestWorker_HasNoSecretsOnItsCommandLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{})
	w.imports()
	p := w.serve("--api-key", w.key)
	w.session(p, "")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.worker()))
	if err != nil {
		t.Fatal(err)
	}
	if args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"); len(args) != 2 || args[1] != "worker" {
		t.Errorf("the worker runs as %q", args)
	}
	p.stop()
}

// releases serves releases, signed by a key of their own.
type releases struct {
	url, keyFile string
	files        map[string][]byte
	sign         func([]byte) []byte
}

func newReleases(t *testing.T) *releases {
	t.Helper()
	pgp := crypto.PGP()
	key, err := pgp.KeyGeneration().AddUserId("eds test", "test@example.com").New().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.GetArmoredPublicKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &releases{keyFile: filepath.Join(t.TempDir(), "key.asc"), files: make(map[string][]byte)}
	if err := os.WriteFile(r.keyFile, []byte(public), 0o600); err != nil {
		t.Fatal(err)
	}
	r.sign = func(data []byte) []byte {
		signer, err := pgp.Sign().SigningKey(key).Detached().New()
		if err != nil {
			t.Fatal(err)
		}
		signature, err := signer.Sign(data, crypto.Armor)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		file, ok := r.files[request.URL.Path]
		if !ok {
			http.NotFound(w, request)
			return
		}
		_, _ = w.Write(file)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// release adds a version whose program has the given content.
func (r *releases) release(t *testing.T, version string, program []byte) {
	t.Helper()
	var archive bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&archive, gzip.NoCompression) // programs with the race detector are large
	if err != nil {
		t.Fatal(err)
	}
	tarred := tar.NewWriter(zipped)
	platform := selfupdate.ThisPlatform()
	for _, err := range []error{
		tarred.WriteHeader(&tar.Header{Name: platform.Program(), Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}),
		func() error { _, err := io.Copy(tarred, bytes.NewReader(program)); return err }(),
		tarred.Close(), zipped.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	path := "/v" + version + "/" + platform.Archive()
	r.files[path], r.files[path+".sig"] = archive.Bytes(), r.sign(archive.Bytes())
}

// TestUpgrade_ByHQ makes HQ request a version that fails, and one that works.
func TestUpgrade_ByHQ(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.program = filepath.Join(t.TempDir(), "eds")
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "eds")
	build := exec.Command("go", "build", "-race", "-tags", tags, "-ldflags",
		"-s -w -linkmode=internal -X github.com/shopmonkeyus/eds/internal/cli.version=1.0.2", "-o", good, "github.com/shopmonkeyus/eds")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	next, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	r := newReleases(t)
	r.release(t, "1.0.1", []byte("#!/bin/sh\ncase $1 in version) echo 1.0.1;; *) exit 7;; esac\n"))
	r.release(t, "1.0.2", next)

	w.imports()
	p := w.serve("--key", r.keyFile, "--releases-url", r.url)
	session := w.session(p, "")
	w.notify(session, "upgrade", map[string]any{"version": "1.0.1"})
	want(t, w.received(p, session, "upgrade-status", 1), "success", true)
	want(t, w.received(p, session, "upgrade-response", 1), "success", true)

	session = w.session(p, session)
	failed := w.received(p, session, "upgrade-response", 1)
	want(t, failed, "success", false)
	want(t, failed, "version", "1.0.1")

	w.notify(session, "upgrade", map[string]any{"version": "1.0.2"})
	want(t, w.received(p, session, "upgrade-response", 1+1), "success", true)
	session = w.session(p, session)
	version := ""
	for _, s := range sessions(t, w) {
		if s.ID == session {
			version = s.Version
		}
	}
	if version != "1.0.2" {
		t.Errorf("after the upgrade the server is %q\n%s", version, p.output())
	}
	w.drain(p)
	p.stop()
	w.equal()
}

// TestServer_StopsWhileItWaits stops a server that has not reached the stream.
func TestServer_StopsWhileItWaits(t *testing.T) {
	t.Parallel()
	refuse := func(status int) func(*devhq.HQ) {
		return func(h *devhq.HQ) {
			h.Disturb(func(r *http.Request) devhq.Fault {
				if r.URL.Path == "/v3/eds/internal" {
					return devhq.Refuse(status, 0)
				}
				return nil
			})
		}
	}
	for waiting, disturb := range map[string]func(*devhq.HQ){
		"hq does not answer; trying again":                        refuse(http.StatusServiceUnavailable),
		"another server runs with this id; waiting for it to end": refuse(http.StatusConflict),
		"waiting for NATS, and trying again":                      (*devhq.HQ).StopNATS,
	} {
		t.Run(waiting, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t), devhq.Options{})
			disturb(w.hq)
			p := w.serve()
			eventually(t, "it waits", func() bool { return strings.Contains(p.output(), waiting) }, p.output)
			p.stop()
			all, err := w.hq.Sessions()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if s.Errored || s.Ended.IsZero() {
					t.Errorf("session %s: errored %v, ended %v", s.ID, s.Errored, s.Ended)
				}
			}
		})
	}
}
