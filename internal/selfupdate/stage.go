package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// Staged is a verified program that Stage has unpacked beside the installed one. Swap can
// install it.
type Staged struct {
	obtained
	u    *Updater
	plan Plan
}

// Plan returns what Swap will do.
func (s *Staged) Plan() Plan { return s.plan }

// Discard removes the staged program. It has no effect after a successful Swap.
func (s *Staged) Discard() error { return os.RemoveAll(s.dir) }

// Stage downloads a version, verifies it, unpacks it, and checks the version that the program
// prints. It does not touch the running program. The caller must call Swap or Discard on the
// result.
func (u *Updater) Stage(ctx context.Context, version string) (*Staged, error) {
	plan, err := u.Plan(version)
	if err != nil {
		return nil, err
	}
	u.sweep()
	o, err := u.obtain(ctx, plan.To, u.o.Platform, u.dir())
	if err != nil {
		return nil, err
	}
	s := &Staged{obtained: o, u: u, plan: plan}
	running, err := sumFile(u.target)
	if err == nil && running == s.sum {
		err = fmt.Errorf("%w: %s is the same program", ErrCurrent, plan.To)
	}
	if err != nil {
		return nil, errors.Join(err, s.Discard())
	}
	return s, nil
}

// Download downloads a release for the platform p, verifies it, and writes its program to path.
// It replaces an existing file. If p is this platform, Download also runs the program to check
// its version.
func (u *Updater) Download(ctx context.Context, version string, p Platform, path string) error {
	version, err := ParseVersion(version)
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	// The path must be absolute, because the program runs in another directory.
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("write %s: it is a directory; give the name of a file", path)
	}
	o, err := u.obtain(ctx, version, p, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	if err := os.Rename(o.program, path); err != nil {
		return fmt.Errorf("install the program: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// obtained is a verified program in a separate temporary directory.
type obtained struct {
	dir, program string
	sum          string // SHA-256 of the program, in hexadecimal
}

// obtain creates a temporary directory in parent, and writes the verified program of a release
// to it.
func (u *Updater) obtain(ctx context.Context, version string, p Platform, parent string) (obtained, error) {
	defer u.fetch.http.CloseIdleConnections()
	dir, err := os.MkdirTemp(parent, u.scratchPattern())
	if err != nil {
		return obtained{}, fmt.Errorf("download a release: %w", err)
	}
	o := obtained{dir: dir, program: filepath.Join(dir, p.Program())}
	if o.sum, err = u.fill(ctx, version, p, o); err != nil {
		return obtained{}, errors.Join(err, os.RemoveAll(dir))
	}
	return o, nil
}

// fill downloads and verifies a release, writes its program to o.program, and returns the
// program's checksum.
func (u *Updater) fill(ctx context.Context, version string, p Platform, o obtained) (string, error) {
	archive, err := os.Create(filepath.Join(o.dir, p.Archive()))
	if err != nil {
		return "", fmt.Errorf("download a release: %w", err)
	}
	// The archive stays open throughout, so that the unpacked archive is the verified one.
	defer archive.Close()
	if err := u.download(ctx, version, p, archive); err != nil {
		return "", err
	}
	u.o.Observe(Progress{Doing: "unpack " + p.Program()})
	unpack := &unpacker{bounds: u.bounds, want: p.Program(), to: o.program}
	if err := unpack.unpack(archive); err != nil {
		return "", err
	}
	if p != u.o.Platform {
		return unpack.sum, nil
	}
	u.o.Observe(Progress{Doing: "check the program's version"})
	is, err := u.askVersion(ctx, o.program)
	if err != nil {
		return "", fmt.Errorf("the program of release %s does not work: %w", version, err)
	}
	if is != version {
		return "", fmt.Errorf("%w: the program of release %s prints %s", ErrWrongVersion, version, is)
	}
	return unpack.sum, nil
}

// download downloads an archive and its signature, and verifies the archive.
func (u *Updater) download(ctx context.Context, version string, p Platform, archive *os.File) error {
	address, name := u.archiveURL(version, p), p.Archive()
	signature, err := os.Create(archive.Name() + signatureSuffix)
	if err != nil {
		return fmt.Errorf("download a release: %w", err)
	}
	defer signature.Close()
	// Download the signature first, because it is small: if the release does not exist, this
	// fails fast.
	err = u.fetch.get(ctx, name+signatureSuffix, address+signatureSuffix, u.bounds.signature, signature)
	if err == nil {
		err = u.fetch.get(ctx, name, address, u.bounds.archive, archive)
	}
	if errors.Is(err, ErrNoRelease) {
		err = fmt.Errorf("%w: version %s for %s", err, version, p)
		if page := u.page(); page != "" {
			err = fmt.Errorf("%w; see %s", err, page)
		}
	}
	if err != nil {
		return err
	}
	u.o.Observe(Progress{Doing: "verify the signature"})
	text, err := os.ReadFile(signature.Name())
	if err == nil {
		err = rewind(archive)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	if err := u.o.Keys.verify(archive, text, u.now()); err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	return nil
}

// staleAfter is the age from which a temporary directory is considered abandoned.
const staleAfter = 24 * time.Hour

// sweep removes abandoned temporary directories of earlier upgrades. It ignores a directory that
// cannot be removed. On Windows, for example, a directory that contains a running program cannot be
// removed.
func (u *Updater) sweep() {
	left, err := filepath.Glob(filepath.Join(u.dir(), u.scratchPattern()))
	if err != nil {
		return // the path of the directory is not a valid pattern
	}
	for _, path := range left {
		info, err := os.Lstat(path)
		if err != nil || u.now().Sub(info.ModTime()) < staleAfter {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			u.o.Logger.Debug("a temporary directory of an earlier upgrade cannot be removed", "path", path, "error", err)
		}
	}
}
