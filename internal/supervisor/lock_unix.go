//go:build unix

package supervisor

import (
	"errors"
	"os"
	"syscall"
)

// lock opens the file at path and locks it until the file is closed. If lock fails, the result
// held reports whether another process holds the lock.
func lock(path string) (f *os.File, held bool, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Is(err, syscall.EWOULDBLOCK), errors.Join(err, f.Close())
	}
	return f, false, nil
}
