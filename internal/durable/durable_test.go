package durable_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/shopmonkeyus/eds/internal/durable"
)

func TestReplace_IsAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.WriteString(w, s)
			return err
		}
	}
	for _, want := range []string{"first", "second"} {
		if err := durable.Replace(path, ".state-*", text(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	broken := errors.New("no more")
	err := durable.Replace(path, ".state-*", func(w io.Writer) error {
		return errors.Join(text("half of the thi")(w), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("a failed write: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "second" {
		t.Errorf("after a failed write: %q, %v", got, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestExisting_FindsTheNearestDirectory(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink(filepath.Join(dir, "none"), link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir: dir, filepath.Join(dir, "a"): dir, filepath.Join(dir, "a", "b", "c"): dir,
		file: "", filepath.Join(file, "a"): "", link: "", filepath.Join(link, "a"): "",
	} {
		if got, err := durable.Existing(path); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
}

func TestSyncDir_FailsOnAMissingDirectory(t *testing.T) {
	if err := durable.SyncDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestResolve_FollowsLinksToNothing(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(elements ...string) string { return filepath.Join(append([]string{dir}, elements...)...) }
	for _, err := range []error{
		os.MkdirAll(in("real", "below"), 0o700), os.Symlink("real", in("link")), os.Symlink(in("link", "below"), in("twice")),
		os.Symlink(in("unmounted", "data"), in("dangling")), os.Symlink("loop", in("loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		in("real", "below"): in("real", "below"), in("link"): in("real"), in("twice", "x", "y"): in("real", "below", "x", "y"),
		in("link", "..", "a"):     in("a"),
		in("dangling", "shop.db"): in("unmounted", "data", "shop.db"), in("no", "such"): in("no", "such"), in("loop", "a"): in("loop", "a"),
		"/": "/",
	} {
		if got := durable.Resolve(path); got != want {
			t.Errorf("Resolve(%s) = %s, want %s", path, got, want)
		}
	}
}
