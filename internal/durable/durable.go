// Package durable writes files such that a power cut leaves the old or the new,
// never a part.
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

// Replace puts what write writes in the place of the file at path, with mode
// 0600. The temporary file lies beside it, and its name is temporary's, of which
// "*" is replaced by something unique, as os.CreateTemp has it. After a power cut
// one may be left.
func Replace(path, temporary string, write func(io.Writer) error) error {
	r, err := Prepare(path, temporary)
	if err != nil {
		return err
	}
	defer r.Discard()
	return r.Put(write)
}

// Replacement is the temporary file that is to replace another.
type Replacement struct {
	path string
	file *os.File // nil once it is in place, or removed
}

// Prepare makes the temporary file of Replace. Discard must follow.
func Prepare(path, temporary string) (*Replacement, error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return nil, err
	}
	return &Replacement{path, f}, nil
}

// Reserve takes room for n bytes on the disk, so that Put finds it.
func (r *Replacement) Reserve(n int) error {
	_, err := r.file.WriteAt(make([]byte, n), 0)
	return errors.Join(err, r.file.Sync())
}

// Put writes the content and puts it in the place of the file.
func (r *Replacement) Put(write func(io.Writer) error) error {
	if err := write(r.file); err != nil {
		return err
	}
	size, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	// Closed first: a file that is open can't be renamed everywhere.
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
	_ = r.file.Close() // again, if Put has
	_ = os.Remove(r.file.Name())
	r.file = nil
}

// Existing returns the directory at path or, if there is none, the nearest above it that
// exists, in which it would be made. That something else stands in the way is an error.
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
		if _, err := os.Lstat(path); err == nil { // a link to nothing
			return "", &fs.PathError{Op: "mkdir", Path: path, Err: syscall.EEXIST}
		}
		path = filepath.Dir(path)
	}
}

// maxLinks is how many symbolic links a path may lead through.
const maxLinks = 255

// Resolve returns an absolute path without symbolic links, also if it does not exist or
// a link leads to nothing, as to a file system that is not mounted. A path that cannot be
// resolved is returned as it is.
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

// firstLink returns the part of path that leads to its first symbolic link, and what
// follows; "" if there is none.
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
