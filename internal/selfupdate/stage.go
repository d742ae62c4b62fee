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

// Staged is a verified program that waits beside the one that runs.
type Staged struct {
	obtained
	u    *Updater
	plan Plan
}

// Plan returns what Swap will do.
func (s *Staged) Plan() Plan { return s.plan }

// Discard removes what was staged. After Swap it does no harm.
func (s *Staged) Discard() error { return os.RemoveAll(s.dir) }

// Stage downloads a version, verifies it, unpacks it and asks it for its version.
// The program that runs is not touched. The caller swaps or discards what it gets.
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
		err = fmt.Errorf("%w: %s is the very same program", ErrCurrent, plan.To)
	}
	if err != nil {
		return nil, errors.Join(err, s.Discard())
	}
	return s, nil
}

// Download puts the verified program of a release for any platform at path,
// replacing what is there. It is run, and asked for its version, where it is for
// this platform.
func (u *Updater) Download(ctx context.Context, version string, p Platform, path string) error {
	version, err := ParseVersion(version)
	if err != nil {
		return err
	}
	if err := p.Check(); err != nil {
		return err
	}
	// Absolute, because the program is run in another directory.
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("write %s: it is a directory; name the file", path)
	}
	o, err := u.obtain(ctx, version, p, filepath.Dir(path))
	if err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	if err := os.Rename(o.program, path); err != nil {
		return fmt.Errorf("put the program in place: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// obtained is a verified program in a directory of its own.
type obtained struct {
	dir, program string
	sum          string // SHA-256
}

// obtain makes a directory in parent with a verified program in it.
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

// fill puts the program of a release where it is to be, and returns its sum.
func (u *Updater) fill(ctx context.Context, version string, p Platform, o obtained) (string, error) {
	archive, err := os.Create(filepath.Join(o.dir, p.Archive()))
	if err != nil {
		return "", fmt.Errorf("download a release: %w", err)
	}
	// One open file from the download to the end, so that what is unpacked is what was verified.
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
	u.o.Observe(Progress{Doing: "ask the program for its version"})
	is, err := u.askVersion(ctx, o.program)
	if err != nil {
		return "", fmt.Errorf("the program of release %s does not work: %w", version, err)
	}
	if is != version {
		return "", fmt.Errorf("%w: release %s says that it is %s", ErrWrongVersion, version, is)
	}
	return unpack.sum, nil
}

// download fetches an archive and verifies it.
func (u *Updater) download(ctx context.Context, version string, p Platform, archive *os.File) error {
	address, name := u.archiveURL(version, p), p.Archive()
	signature, err := os.Create(archive.Name() + signatureSuffix)
	if err != nil {
		return fmt.Errorf("download a release: %w", err)
	}
	defer signature.Close()
	// The small one first: it tells soon whether there is such a release.
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

// staleAfter is the age at which a directory that an upgrade left behind is of no
// upgrade that still runs.
const staleAfter = 24 * time.Hour

// sweep removes what upgrades left behind that were killed. What can't be removed,
// as on Windows a program that still runs, harms nobody where it is.
func (u *Updater) sweep() {
	left, err := filepath.Glob(filepath.Join(u.dir(), u.scratchPattern()))
	if err != nil {
		return // a directory with a name like a pattern: nothing is found there
	}
	for _, path := range left {
		info, err := os.Lstat(path)
		if err != nil || u.now().Sub(info.ModTime()) < staleAfter {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			u.o.Logger.Debug("what an earlier upgrade left can not be removed", "path", path, "error", err)
		}
	}
}
