package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shopmonkeyus/eds/internal/durable"
)

// Swap puts the staged program in place, on probation, and keeps the old one.
// Where it fails the old one is in place, as before.
func (s *Staged) Swap() error {
	u := s.u
	standing, err := u.Recover()
	if err != nil {
		return err
	}
	if standing.State == Probation {
		return fmt.Errorf("%w: %s", ErrOnProbation, standing.To)
	}
	old, err := sumFile(u.target)
	if err != nil {
		return fmt.Errorf("look at the program that runs: %w", err)
	}
	n := note{From: s.plan.From, To: s.plan.To, FromSum: old, ToSum: s.sum, Began: u.now().UTC()}
	if err := u.step("note the upgrade", func() error { return u.writeNote(n) }); err != nil {
		return fmt.Errorf("note the upgrade in %s: %w", u.notePath(), err)
	}
	if err := u.replace(s.program); err != nil {
		return errors.Join(fmt.Errorf("put %s in the place of %s: %w", s.plan.To, s.plan.From, err), u.undo())
	}
	return s.Discard()
}

// undo makes a swap that failed one that never was.
func (u *Updater) undo() error {
	p, n, err := u.phase()
	if err == nil && p == onTrial {
		err = u.putBack(n)
	}
	if err == nil {
		_, err = u.Recover()
	}
	return err
}

// replace keeps the program in place under its second name, and puts another in
// its place.
func (u *Updater) replace(program string) error {
	keep := u.linkOld
	if u.aside {
		keep = u.renameOld
	}
	if err := keep(); err != nil {
		return err
	}
	return u.putInPlace(program)
}

func (u *Updater) putInPlace(program string) error {
	if err := u.step("put the new program in place", func() error { return os.Rename(program, u.target) }); err != nil {
		return err
	}
	return u.step("make the names durable", func() error { return durable.SyncDir(u.dir()) })
}

// linkOld gives the program in place its second name beside the first.
func (u *Updater) linkOld() error {
	dir, err := os.MkdirTemp(u.dir(), u.scratchPattern())
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	second := filepath.Join(dir, filepath.Base(u.Old()))
	if err := u.step("copy the old program", func() error { return linkOrCopy(u.target, second) }); err != nil {
		return err
	}
	if err := u.step("keep the old program", func() error { return os.Rename(second, u.Old()) }); err != nil {
		return err
	}
	return u.step("make the old program durable", func() error { return durable.SyncDir(u.dir()) })
}

// renameOld renames the program in place, which leaves none there.
func (u *Updater) renameOld() error {
	if err := u.step("make room for the old program", func() error { return u.moveAway(u.Old()) }); err != nil {
		return err
	}
	return u.step("rename the old program", func() error { return os.Rename(u.target, u.Old()) })
}

// moveAway frees a name, even where what has it runs and so can't be removed. It is
// swept up later.
func (u *Updater) moveAway(path string) error {
	dir, err := os.MkdirTemp(u.dir(), u.scratchPattern())
	if err != nil {
		return err
	}
	err = os.Rename(path, filepath.Join(dir, filepath.Base(path)))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	_ = os.RemoveAll(dir) // fails for what runs
	return err
}

// linkOrCopy makes to another name of the file from, or, where that can't be, a copy.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return copyProgram(in, to)
}

func copyProgram(in io.Reader, to string) error {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = errors.Join(out.Chmod(0o755), out.Sync())
	}
	return errors.Join(err, out.Close())
}

// Rollback puts the old program in place again, and notes why. It ends a probation;
// without one it goes back to the program before the last upgrade, once that has
// been asked for its version. The standing is Reverted then.
func (u *Updater) Rollback(ctx context.Context, reason string) error {
	standing, err := u.Recover()
	if err != nil {
		return err
	}
	if standing.State == Reverted {
		return nil
	}
	if _, err := os.Stat(u.Old()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is nothing at %s", ErrNoOld, u.Old())
	}
	if err := u.writable(); err != nil {
		return err
	}
	n, err := u.readNote()
	if err != nil {
		return err
	}
	if n == nil {
		if n, err = u.noteBack(ctx); err != nil {
			return err
		}
	}
	if n.Reason = reason; n.Reason == "" {
		n.Reason = "asked for"
	}
	if err := u.step("note the reason", func() error { return u.writeNote(*n) }); err != nil {
		return fmt.Errorf("note in %s why to go back: %w", u.notePath(), err)
	}
	return u.putBack(n)
}

// noteBack returns the note of an upgrade that nobody has doubted until now.
func (u *Updater) noteBack(ctx context.Context) (*note, error) {
	version, err := u.askVersion(ctx, u.Old())
	if err != nil {
		return nil, fmt.Errorf("go back to %s: %w", u.Old(), err)
	}
	n := &note{From: version, To: u.o.Version, Began: u.now().UTC()}
	if n.FromSum, err = sumFile(u.Old()); err == nil {
		n.ToSum, err = sumFile(u.target)
	}
	if err != nil {
		return nil, fmt.Errorf("go back to %s: %w", u.Old(), err)
	}
	if n.FromSum == n.ToSum {
		return nil, fmt.Errorf("%w: %s is the program that is in place", ErrNoOld, u.Old())
	}
	return n, nil
}

// putBack puts the old program in place, and keeps it under its second name too.
func (u *Updater) putBack(n *note) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("go back to %s: %w", n.From, err)
		}
	}()
	sum, err := sumFile(u.Old())
	if err != nil {
		return err
	}
	if sum != n.FromSum {
		return fmt.Errorf("%w: %s has been changed since", ErrNoOld, u.Old())
	}
	dir, err := os.MkdirTemp(u.dir(), u.scratchPattern())
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	again := filepath.Join(dir, filepath.Base(u.target))
	if err := u.step("copy the old program", func() error { return linkOrCopy(u.Old(), again) }); err != nil {
		return err
	}
	if u.aside {
		if err := u.step("make room for the old program", func() error { return u.moveAway(u.target) }); err != nil {
			return err
		}
	}
	return u.putInPlace(again)
}
