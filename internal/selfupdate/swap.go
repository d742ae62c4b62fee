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

// Swap installs the staged program, puts it on probation, and keeps the old program. If Swap
// fails, the old program is still installed.
func (s *Staged) Swap() error {
	u := s.u
	status, err := u.Recover()
	if err != nil {
		return err
	}
	if status.State == Probation {
		return fmt.Errorf("%w: %s", ErrOnProbation, status.To)
	}
	old, err := sumFile(u.target)
	if err != nil {
		return fmt.Errorf("read the running program: %w", err)
	}
	j := upgradeJournal{From: s.plan.From, To: s.plan.To, FromSum: old, ToSum: s.sum, Began: u.now().UTC()}
	if err := u.step("write the journal", func() error { return u.writeJournal(j) }); err != nil {
		return fmt.Errorf("write the journal %s: %w", u.journalPath(), err)
	}
	if err := u.replace(s.program); err != nil {
		return errors.Join(fmt.Errorf("replace %[2]s with %[1]s: %[3]w", s.plan.To, s.plan.From, err), u.undo())
	}
	return s.Discard()
}

// undo reverts a failed swap.
func (u *Updater) undo() error {
	p, j, err := u.phase()
	if err == nil && p == onProbation {
		err = u.restore(j)
	}
	if err == nil {
		_, err = u.Recover()
	}
	return err
}

// replace keeps the installed program under the path of Old, and installs the given program.
func (u *Updater) replace(program string) error {
	keep := u.linkOld
	if u.renameFirst {
		keep = u.renameOld
	}
	if err := keep(); err != nil {
		return err
	}
	return u.install(program)
}

func (u *Updater) install(program string) error {
	if err := u.step("install the new program", func() error { return os.Rename(program, u.target) }); err != nil {
		return err
	}
	return u.step("make the names durable", func() error { return durable.SyncDir(u.dir()) })
}

// linkOld gives the installed program a second name: the path of Old.
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

// renameOld renames the installed program to the path of Old. Until the new program is
// installed, no program has the installed name.
func (u *Updater) renameOld() error {
	if err := u.step("free the name", func() error { return u.moveAway(u.Old()) }); err != nil {
		return err
	}
	return u.step("rename the old program", func() error { return os.Rename(u.target, u.Old()) })
}

// moveAway moves the file at path into a temporary directory, so that another file can take its
// path. On Windows, a running program cannot be removed, but it can be moved. A later sweep removes
// the moved program.
func (u *Updater) moveAway(path string) error {
	dir, err := os.MkdirTemp(u.dir(), u.scratchPattern())
	if err != nil {
		return err
	}
	err = os.Rename(path, filepath.Join(dir, filepath.Base(path)))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	_ = os.RemoveAll(dir) // fails for a running program
	return err
}

// linkOrCopy creates a hard link to a file. If no link can be created, it copies the file. The
// first argument is the path of the file, and the second argument is the path of the link or
// copy.
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

// Rollback restores the old program, and records the reason. If an upgrade is on probation,
// Rollback ends the probation. Otherwise it restores the program from before the last upgrade,
// but first checks that this program prints its version. The state is then Reverted.
func (u *Updater) Rollback(ctx context.Context, reason string) error {
	status, err := u.Recover()
	if err != nil {
		return err
	}
	if status.State == Reverted {
		return nil
	}
	if _, err := os.Stat(u.Old()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s does not exist", ErrNoOld, u.Old())
	}
	if err := u.writable(); err != nil {
		return err
	}
	j, err := u.readJournal()
	if err != nil {
		return err
	}
	if j == nil {
		if j, err = u.settledJournal(ctx); err != nil {
			return err
		}
	}
	if j.Reason = reason; j.Reason == "" {
		j.Reason = "requested"
	}
	if err := u.step("write the reason", func() error { return u.writeJournal(*j) }); err != nil {
		return fmt.Errorf("write the reason of the rollback to %s: %w", u.journalPath(), err)
	}
	return u.restore(j)
}

// settledJournal returns a new journal, for the rollback of an upgrade whose journal was
// already removed.
func (u *Updater) settledJournal(ctx context.Context) (*upgradeJournal, error) {
	version, err := u.askVersion(ctx, u.Old())
	if err != nil {
		return nil, fmt.Errorf("go back to %s: %w", u.Old(), err)
	}
	j := &upgradeJournal{From: version, To: u.o.Version, Began: u.now().UTC()}
	if j.FromSum, err = sumFile(u.Old()); err == nil {
		j.ToSum, err = sumFile(u.target)
	}
	if err != nil {
		return nil, fmt.Errorf("go back to %s: %w", u.Old(), err)
	}
	if j.FromSum == j.ToSum {
		return nil, fmt.Errorf("%w: %s is the installed program", ErrNoOld, u.Old())
	}
	return j, nil
}

// restore installs the old program, and also keeps it at the path of Old.
func (u *Updater) restore(j *upgradeJournal) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("go back to %s: %w", j.From, err)
		}
	}()
	sum, err := sumFile(u.Old())
	if err != nil {
		return err
	}
	if sum != j.FromSum {
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
	if u.renameFirst {
		if err := u.step("free the name", func() error { return u.moveAway(u.target) }); err != nil {
			return err
		}
	}
	return u.install(again)
}
