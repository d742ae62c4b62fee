// Package durable replaces files such that a power cut leaves the old or the new one, never a part.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// Replace replaces the file at path, with mode 0600, by the output of write. It writes a temporary
// file beside it, with a unique name from the pattern temporary, like os.CreateTemp. After a power
// cut that file may remain.
func Replace(path, temporary string, write func(io.Writer) error) error {
	r, err := Prepare(path, temporary)
	if err != nil {
		return err
	}
	defer r.Discard()
	return r.Put(write)
}

// Replacement is a temporary file that will replace another.
type Replacement struct {
	path string
	file *os.File // nil once it is in place or removed
}

// Prepare creates the temporary file of Replace. Discard must follow.
func Prepare(path, temporary string) (*Replacement, error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return nil, err
	}
	return &Replacement{path, f}, nil
}

// Reserve allocates n bytes on the disk, so that a later Put has the space.
func (r *Replacement) Reserve(n int) error {
	_, err := r.file.WriteAt(make([]byte, n), 0)
	return errors.Join(err, r.file.Sync())
}

// Put writes the content and renames the temporary file to its path.
func (r *Replacement) Put(write func(io.Writer) error) error {
	if err := write(r.file); err != nil {
		return err
	}
	size, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	// It is closed first: some systems cannot rename an open file.
	if err := errors.Join(r.file.Truncate(size), r.file.Sync(), r.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(r.file.Name(), r.path); err != nil {
		return err
	}
	r.file = nil
	return SyncDir(filepath.Dir(r.path))
}

// Discard removes the temporary file. After Put has succeeded it does nothing.
func (r *Replacement) Discard() {
	if r.file == nil {
		return
	}
	_ = r.file.Close() // closed twice if Put has closed it
	_ = os.Remove(r.file.Name())
	r.file = nil
}

// Existing returns the directory at path or, if there is none, the nearest existing one above it,
// in which it would be created. It is an error if something else has one of the names.
func Existing(path string) (string, error) {
	for {
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			return path, nil
		case err == nil:
			return "", &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
		case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path:
			return "", err
		}
		if _, err := os.Lstat(path); err == nil { // a dangling link
			return "", &fs.PathError{Op: "mkdir", Path: path, Err: syscall.EEXIST}
		}
		path = filepath.Dir(path)
	}
}

// maxLinks bounds the symbolic links of a path.
const maxLinks = 255

// Resolve returns an absolute path without symbolic links, even if it does not exist or a link
// dangles, for example because a file system is not mounted. It returns a path that cannot be
// resolved unchanged.
func Resolve(path string) string {
	whole := filepath.Clean(path)
	for range maxLinks {
		link, rest := firstLink(whole)
		if link == "" {
			return whole
		}
		target, err := os.Readlink(link)
		if err != nil {
			return whole
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		whole = filepath.Join(target, rest)
	}
	return filepath.Clean(path)
}

// firstLink returns the part of path that leads to its first symbolic link, and the rest; "" if
// there is none.
func firstLink(path string) (link, rest string) {
	for end := len(filepath.VolumeName(path)) + 1; end <= len(path); end++ {
		if end < len(path) && !os.IsPathSeparator(path[end]) {
			continue
		}
		info, err := os.Lstat(path[:end])
		if err != nil {
			return "", ""
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return path[:end], path[end:]
		}
	}
	return "", ""
}

// SyncDir makes the names in dir durable: created, renamed and removed ones. Windows has no call
// for it, and orders renames itself.
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
