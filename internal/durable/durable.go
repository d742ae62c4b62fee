// Package durable writes files such that a power cut leaves the old or the new,
// never a part.
package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Replace puts what write writes in the place of the file at path, with mode
// 0600. The temporary file lies beside it, and its name is temporary's, of which
// "*" is replaced by something unique, as os.CreateTemp has it. After a power cut
// one may be left.
func Replace(path, temporary string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporary)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	// Closed first: a file that is open can't be renamed everywhere.
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in dir durable: what was created, renamed and removed
// there. Windows has no way to ask for it, and orders renames itself.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
