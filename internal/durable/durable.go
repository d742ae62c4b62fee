// Package durable replaces files atomically: after a power cut, a file has either its old or its
// new content, never a part of either.
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

// Replace replaces the file at path with the output of write. The new file has mode 0600. Replace
// first writes a temporary file in the same directory. The second argument is the pattern for the
// unique name of that file, as in os.CreateTemp. A power cut may leave the temporary file behind.
func Replace(path, temporary string, write func(io.Writer) error) error {
	r, err := Prepare(path, temporary)
	if err != nil {
		return err
	}
	defer r.Discard()
	return r.Put(write)
}

// Replacement is a temporary file that will replace another file.
type Replacement struct {
	path string
	file *os.File // nil once the file is renamed or removed
}

// Prepare creates the temporary file for a later Put. The parameters are the same as those of
// Replace. The caller must call Discard.
func Prepare(path, temporary string) (*Replacement, error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return nil, err
	}
	return &Replacement{path, f}, nil
}

// Reserve allocates n bytes on disk, so that a later Put of up to n bytes does not run out of
// space.
func (r *Replacement) Reserve(n int) error {
	_, err := r.file.WriteAt(make([]byte, n), 0)
	return errors.Join(err, r.file.Sync())
}

// Put writes the content and renames the temporary file to the path of the file to replace.
func (r *Replacement) Put(write func(io.Writer) error) error {
	if err := write(r.file); err != nil {
		return err
	}
	size, err := r.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	// Close the file before the rename, because some systems cannot rename an open file.
	if err := errors.Join(r.file.Truncate(size), r.file.Sync(), r.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(r.file.Name(), r.path); err != nil {
		return err
	}
	r.file = nil
	return SyncDir(filepath.Dir(r.path))
}

// Discard removes the temporary file. If Put has succeeded, Discard does nothing.
func (r *Replacement) Discard() {
	if r.file == nil {
		return
	}
	_ = r.file.Close() // an error is expected if Put has already closed the file
	_ = os.Remove(r.file.Name())
	r.file = nil
}

// Existing returns path if it is a directory. If path does not exist, Existing returns the nearest
// directory above it that exists. It is an error if path, or one of its parents, exists but is not
// a directory.
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

// maxLinks is the maximum number of symbolic links that Resolve follows.
const maxLinks = 255

// Resolve replaces all symbolic links in an absolute path. The path need not exist, and links may
// dangle, for example because a file system is not mounted. If a path cannot be resolved, Resolve
// returns it unchanged.
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

// firstLink splits path after its first symbolic link, and returns both parts. If path has no
// symbolic link, it returns "" and "".
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

// SyncDir makes the creation, renaming and removal of files in dir durable. On Windows it does
// nothing, because Windows has no call for this, and keeps renames in order by itself.
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
