package selfupdate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestUpgrade_IsStagedSwappedAndCommitted(t *testing.T) {
	w := newWorld(t)
	var did []string
	w.options.Observe = func(p Progress) { did = append(did, p.Doing) }
	u := w.updater()
	staged, err := u.Stage(t.Context(), "v"+newer)
	if err != nil {
		t.Fatal(err)
	}
	if got := version(t, w.target); got != running {
		t.Errorf("staging put %s in place", got)
	}
	want := []string{
		"download eds_Linux_x86_64.tar.gz.sig", "download eds_Linux_x86_64.tar.gz", "verify the signature", "unpack eds",
		"check the program's version",
	}
	if diff := cmp.Diff(want, did); diff != "" {
		t.Error(diff)
	}
	if err := staged.Swap(); err != nil {
		t.Fatal(err)
	}
	status, err := u.Recover()
	if err != nil || status.State != Probation || status.From != running || status.To != newer || status.Began.IsZero() {
		t.Errorf("%+v, %v", status, err)
	}
	if got := version(t, w.target) + " " + version(t, u.Old()); got != newer+" "+running {
		t.Errorf("in place, and kept: %s", got)
	}
	if info, err := os.Stat(w.target); err != nil || info.Mode() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := u.Stage(t.Context(), "2.0.0"); !errors.Is(err, ErrOnProbation) {
		t.Errorf("another upgrade meanwhile: %v", err)
	}
	if err := u.Commit(); err != nil {
		t.Fatal(err)
	}
	if status, err := u.Recover(); err != nil || status != (Status{}) {
		t.Errorf("after it: %+v, %v", status, err)
	}
	if got := fmt.Sprint(w.listing()); got != "[eds eds.old]" {
		t.Errorf("the directory holds %s", got)
	}
}

func TestSwap_FollowsASymbolicLink(t *testing.T) {
	w := newWorld(t)
	link := filepath.Join(t.TempDir(), "eds")
	if err := os.Symlink(w.target, link); err != nil {
		t.Fatal(err)
	}
	w.options.Executable = link
	w.upgrade()
	if to, err := os.Readlink(link); err != nil || to != w.target {
		t.Errorf("%q, %v", to, err)
	}
	if got := version(t, link); got != newer {
		t.Errorf("the link starts %s", got)
	}
}

func TestStage_RefusesWrongArchives(t *testing.T) {
	other := newKey(t, "Somebody", 0)
	good := func(w *world) []byte { return w.archive }
	for name, c := range map[string]struct {
		arrange func(w *world)
		is      error
		says    string
	}{
		"tampered archive": {func(w *world) {
			w.publish(newer, append(bytes.Clone(good(w)), 0), sign(w.t, w.key, good(w)))
		}, ErrBadSignature, "changed or damaged"},
		"tampered signature": {func(w *world) {
			signature := sign(w.t, w.key, good(w))
			signature[len(signature)-1] ^= 1
			w.publish(newer, good(w), signature)
		}, ErrBadSignature, "changed or damaged"},
		"no signature at all": {func(w *world) { w.publish(newer, good(w), []byte("<html>sorry</html>")) }, ErrBadSignature, ""},
		"empty signature":     {func(w *world) { w.publish(newer, good(w), nil) }, ErrBadSignature, ""},
		"unknown key":         {func(w *world) { w.publish(newer, good(w), sign(w.t, other, good(w))) }, ErrUnknownKey, "trusted is"},
		"expired key": {func(w *world) {
			w.key = newKey(w.t, "Old", 30*time.Minute)
			w.options.Keys = trusting(w.t, w.key)
			w.release(newer, good(w))
		}, ErrExpiredKey, "install a newer eds"},
		"revoked key": {func(w *world) {
			w.release(newer, good(w))
			if err := w.key.GetEntity().Revoke(0, "lost", nil); err != nil {
				w.t.Fatal(err)
			}
			w.options.Keys = trusting(w.t, w.key)
		}, ErrRevokedKey, ""},
		"cut archive that was signed so": {func(w *world) { w.release(newer, good(w)[:len(good(w))-9]) }, nil, "unexpected EOF"},
		"truncated on its way": {func(w *world) {
			archive, signature := good(w), sign(w.t, w.key, good(w))
			w.answer = func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, ".sig") {
					_, _ = rw.Write(signature)
					return
				}
				rw.Header().Set("Content-Length", fmt.Sprint(len(archive)))
				_, _ = rw.Write(archive[:20])
			}
		}, io.ErrUnexpectedEOF, "download eds_Linux_x86_64.tar.gz"},
		"another version": {
			func(w *world) { w.release(newer, packTar(w.t, entry{name: "eds", text: says("1.2.9")})) }, ErrWrongVersion,
			"1.2.9",
		},
		"no version": {
			func(w *world) { w.release(newer, packTar(w.t, entry{name: "eds", text: says("hello world")})) }, nil,
			`unexpected output`,
		},
		"crash at version": {func(w *world) {
			w.release(newer, packTar(w.t, entry{name: "eds", text: "#!/bin/sh\necho no such library >&2\nexit 3\n"}))
		}, nil, `exit status 3: "no such library"`},
		"not a program": {
			func(w *world) { w.release(newer, packTar(w.t, entry{name: "eds", text: "\x7fELF of another machine"})) }, nil,
			"exec format error",
		},
		"no such release": {func(w *world) { w.files = nil }, ErrNoRelease, "/releases"},
		"the same program": {func(w *world) {
			w.release(newer, packTar(w.t, entry{name: "eds", text: says(newer)}))
			if err := os.WriteFile(w.target, []byte(says(newer)), 0o755); err != nil {
				w.t.Fatal(err)
			}
		}, ErrCurrent, "same program"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.arrange(w)
			before := version(t, w.target)
			u := w.updater()
			if c.is == ErrExpiredKey {
				u.now = func() time.Time { return time.Now().Add(time.Hour) }
			}
			_, err := u.Stage(t.Context(), newer)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v with %q", err, c.is, c.says)
			}
			if got := fmt.Sprint(w.listing()); got != "[eds]" || version(t, w.target) != before {
				t.Errorf("the directory holds %s", got)
			}
		})
	}
}

func TestStage_GivesUpOnAProgramThatPrintsNoVersion(t *testing.T) {
	for name, program := range map[string]string{
		"hangs":              "#!/bin/sh\nexec sleep 600\n",
		"never ends to talk": "#!/bin/sh\nexec yes\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.release(newer, packTar(t, entry{name: "eds", text: program}))
			u := w.updater()
			u.bounds.patience = 50 * time.Millisecond
			if _, err := u.Stage(t.Context(), newer); err == nil || !strings.Contains(err.Error(), "prints nothing for 50ms") {
				t.Error(err)
			}
			w.untouched()
		})
	}
}

func TestStage_RunsTheProgramWithAnEmptyEnvironment(t *testing.T) {
	t.Setenv("SM_APIKEY", "secret")
	w := newWorld(t)
	w.release(
		newer,
		packTar(t, entry{name: "eds", text: "#!/bin/sh\nif [ -n \"$SM_APIKEY\" ]; then echo leaked; else echo " + newer + "; fi\n"}),
	)
	w.upgrade()
}

func TestStage_BoundsTheArchive(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	for name, c := range map[string]struct {
		arrange func(w *world, u *Updater)
		says    string
	}{
		"archive":   {func(_ *world, u *Updater) { u.bounds.archive = 10 }, "larger than 10 bytes"},
		"signature": {func(_ *world, u *Updater) { u.bounds.signature = 10 }, "larger than 10 bytes"},
		"program is a bomb": {
			func(w *world, _ *Updater) { w.release(newer, packTar(w.t, entry{name: "eds", text: zeros})) },
			"unpacks to more",
		},
		"another file is a bomb": {func(w *world, _ *Updater) {
			w.release(newer, packTar(w.t, entry{name: "LICENSE", text: zeros}, entry{name: "eds", text: says(newer)}))
		}, "unpacks to more"},
		"without a length": {func(w *world, u *Updater) {
			u.bounds.signature = 10
			w.answer = func(rw http.ResponseWriter, _ *http.Request) {
				for range 100 {
					_, _ = rw.Write([]byte(zeros))
				}
			}
		}, "larger than 10 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			u := w.updater()
			u.bounds.program, u.bounds.unpacked = 64<<10, 256<<10
			c.arrange(w, u)
			if _, err := u.Stage(t.Context(), newer); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			w.untouched()
		})
	}
}

func TestUnpack_RefusesUnexpectedEntries(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		says    string
	}{
		"slip":              {[]entry{{name: "PROGRAM", text: "x"}, {name: "../../evil", text: "x"}}, "is outside of it"},
		"absolute":          {[]entry{{name: "/etc/evil", text: "x"}, {name: "PROGRAM", text: "x"}}, "is outside of it"},
		"backslashes":       {[]entry{{name: `..\evil`, text: "x"}, {name: "PROGRAM", text: "x"}}, "is outside of it"},
		"link":              {[]entry{{name: "PROGRAM", link: "/bin/sh"}}, "neither a file nor a directory"},
		"link to elsewhere": {[]entry{{name: "docs", link: "/"}, {name: "PROGRAM", text: "x"}}, "neither a file nor a directory"},
		"twice":             {[]entry{{name: "PROGRAM", text: "x"}, {name: "./PROGRAM", text: "y"}}, "twice"},
		"directory":         {[]entry{{name: "PROGRAM/"}}, "is a directory"},
		"empty":             {[]entry{{name: "PROGRAM"}}, "is empty"},
		"without":           {[]entry{{name: "LICENSE", text: "x"}}, "it does not contain PROGRAM"},
		"in a directory":    {[]entry{{name: "bin/PROGRAM", text: "x"}}, "it does not contain PROGRAM"},
	} {
		for _, p := range []Platform{{"darwin", "arm64"}, {"windows", "amd64"}} {
			t.Run(name+" "+p.OS, func(t *testing.T) {
				w := newWorld(t)
				program := func(s string) string { return strings.ReplaceAll(s, "PROGRAM", p.Program()) }
				entries := make([]entry, len(c.entries))
				for i, e := range c.entries {
					entries[i] = e
					entries[i].name = program(e.name)
				}
				u := w.updater()
				w.options.Platform = p // where releases are published
				if p.OS == "windows" {
					w.release(newer, packZip(t, entries...))
				} else {
					w.release(newer, packTar(t, entries...))
				}
				to := filepath.Join(w.dir, "downloaded")
				if err := u.Download(t.Context(), newer, p, to); err == nil || !strings.Contains(err.Error(), program(c.says)) {
					t.Errorf("%v, want %q", err, program(c.says))
				}
				w.untouched()
			})
		}
	}
}

func TestUnpack_RefusesHardLinks(t *testing.T) {
	w := newWorld(t)
	w.release(newer, packTar(t, entry{name: "eds", link: "/bin/sh", hard: true}))
	if _, err := w.updater().Stage(t.Context(), newer); err == nil {
		t.Error("no error")
	}
	w.untouched()
}

func TestDownload_WorksForAnyPlatform(t *testing.T) {
	for _, p := range []Platform{{"linux", "amd64"}, {"linux", "arm64"}, {"windows", "arm64"}} {
		w := newWorld(t)
		u := w.updater()
		w.options.Platform = p
		program := entry{name: p.Program(), text: says(newer)}
		if p.OS == "windows" {
			w.release(newer, packZip(t, entry{name: "LICENSE", text: "MIT"}, program))
		} else {
			w.release(newer, packTar(t, entry{name: "docs/"}, entry{name: "docs/x", text: "x"}, program))
		}
		to := filepath.Join(t.TempDir(), "saved")
		if err := u.Download(t.Context(), newer, p, to); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		if got := version(t, to); got != newer {
			t.Errorf("%s: %s", p, got)
		}
		entries, err := os.ReadDir(filepath.Dir(to))
		if err != nil || len(entries) != 1 {
			t.Errorf("%s: beside it: %v, %v", p, entries, err)
		}
		w.untouched()
	}
}

func TestDownload_RefusesADirectory(t *testing.T) {
	w := newWorld(t)
	u := w.updater()
	if err := u.Download(t.Context(), newer, w.options.Platform, t.TempDir()); err == nil ||
		!strings.Contains(err.Error(), "give the name of a file") {
		t.Error(err)
	}
	if err := u.Download(t.Context(), newer, Platform{"plan9", "amd64"}, "x"); err == nil ||
		!strings.Contains(err.Error(), "want linux") {
		t.Error(err)
	}
}

func TestStage_SweepsOldTemporaryDirectories(t *testing.T) {
	w := newWorld(t)
	u := w.updater()
	var left [2]string
	for i := range left {
		dir, err := os.MkdirTemp(w.dir, u.scratchPattern())
		if err != nil {
			t.Fatal(err)
		}
		left[i] = filepath.Base(dir)
	}
	old := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(filepath.Join(w.dir, left[0]), old, old); err != nil {
		t.Fatal(err)
	}
	staged, err := u.Stage(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Discard(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{left[1], "eds"}, w.listing()); diff != "" {
		t.Error(diff)
	}
}

func TestStage_WaitsForAProgramThatIsOpenForWriting(t *testing.T) {
	w := newWorld(t)
	u := w.updater()
	held, err := os.OpenFile(w.target, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	u.bounds.patience = time.Minute
	answer := make(chan string)
	go func() {
		got, err := u.askVersion(t.Context(), w.target)
		answer <- fmt.Sprint(got, err)
	}()
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got != running+"<nil>" {
		t.Error(got)
	}
}

func TestUnpack_RefusesABomb(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	for _, p := range []Platform{{"darwin", "amd64"}, {"windows", "amd64"}} {
		for name, entries := range map[string][]entry{
			"the program": {{name: p.Program(), text: zeros}},
			"beside it":   {{name: p.Program(), text: "x"}, {name: "LICENSE", text: zeros}},
		} {
			w := newWorld(t)
			u := w.updater()
			u.bounds.program, u.bounds.unpacked = 64<<10, 256<<10
			pack := packTar
			if p.OS == "windows" {
				pack = packZip
			}
			w.options.Platform = p // where releases are published
			w.release(newer, pack(t, entries...))
			if err := u.Download(t.Context(), newer, p, filepath.Join(w.dir, "saved")); !errors.Is(err, errBomb) {
				t.Errorf("%s, %s: %v", p, name, err)
			}
			w.untouched()
		}
	}
}

// FuzzUnpack checks that whatever an archive holds, at most the one file is made,
// and no more of it than there may be.
func FuzzUnpack(f *testing.F) {
	for _, e := range [][]entry{
		{{name: "eds", text: says(newer)}}, {{name: "docs/"}, {name: "../eds", text: "x"}}, {{name: "eds", link: "/bin/sh"}},
	} {
		f.Add(packTar(f, e...), false)
		f.Add(packZip(f, e...), true)
	}
	f.Fuzz(func(t *testing.T, archive []byte, zip bool) {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.tar.gz")
		if zip {
			path = filepath.Join(dir, "a.zip")
		}
		if err := os.WriteFile(path, archive, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		out := filepath.Join(dir, "out")
		if err := os.Mkdir(out, 0o700); err != nil {
			t.Fatal(err)
		}
		u := &unpacker{bounds: bounds{program: 1000, unpacked: 2000}, want: "eds", to: filepath.Join(out, "program")}
		err = u.unpack(file)
		entries, readErr := os.ReadDir(out)
		if readErr != nil || len(entries) > 1 || err == nil && len(entries) != 1 {
			t.Fatalf("%v: it made %v, %v", err, entries, readErr)
		}
		if err != nil {
			return
		}
		info, err := os.Lstat(u.to)
		if err != nil || info.Mode() != 0o755 || info.Size() == 0 || info.Size() > 1000 {
			t.Errorf("%v, %v", info, err)
		}
	})
}
