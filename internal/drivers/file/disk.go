package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/shopmonkeyus/eds/internal/durable"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// disk is the part of a file system that the sinks use. Names are relative to the destination's
// directory, with slashes, and cannot leave it. Its methods are safe for concurrent use. Only
// synced data must survive a crash: a file's content after its Sync, its name after syncDir of its
// directory.
type disk interface {
	// ensure creates the directory if it is missing, reopens it if its path now names another one,
	// and reports whether it did either.
	ensure() (replaced bool, err error)
	// exists reports whether the directory exists.
	exists() (bool, error)
	// probeDir returns nil if the directory exists, else a disk in a new temporary directory where
	// it would be created. end removes that one.
	probeDir() (d disk, end func() error, err error)
	create(name string) (file, error) // must not exist yet
	open(name string) (file, error)   // for writing; must exist
	rename(from, to string) error     // replaces a file
	remove(name string) error         // a file or an empty directory
	mkdir(name string) error
	syncDir(name string) error
	stat(name string) (fs.FileInfo, error)
	readDir(name string) ([]fs.DirEntry, error)
	readFile(name string) ([]byte, error)
	close() error
}

// file is an open file. It is used by one goroutine at a time.
type file interface {
	Write(p []byte) (int, error)
	WriteAt(p []byte, offset int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// rootDisk is a real directory. No name and no symbolic link leads out of it.
type rootDisk struct {
	path string
	mu   sync.RWMutex // held for writing while root is replaced
	root *os.Root     // nil: the directory does not exist yet
}

// openDisk opens the directory if it exists. It creates none.
func openDisk(path string) (*rootDisk, error) {
	d := &rootDisk{path: path}
	above, err := durable.Existing(path)
	if err == nil && above == path {
		d.root, err = os.OpenRoot(path)
	}
	if err != nil {
		return nil, classifyOpen(path, err)
	}
	return d, nil
}

// ensure reopens the directory if it was removed and created again, or if a file system was mounted
// over it.
func (d *rootDisk) ensure() (replaced bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root == nil {
		d.root, err = openDirectory(d.path)
		return true, err
	}
	now, err := os.Stat(d.path)
	if err == nil {
		if held, e := d.root.Stat("."); e == nil && os.SameFile(now, held) {
			return false, nil
		}
	}
	root, err := openDirectory(d.path)
	if err != nil {
		return true, fault.Mark(fault.Transient, err) // it has worked before
	}
	d.root.Close()
	d.root = root
	return true, nil
}

func (d *rootDisk) exists() (bool, error) {
	info, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), withoutNames(err)
}

func (d *rootDisk) probeDir() (disk, func() error, error) {
	above, err := durable.Existing(d.path)
	if err != nil {
		return nil, nil, classifyOpen(d.path, err)
	}
	if above == d.path {
		return nil, nil, nil
	}
	path, err := os.MkdirTemp(above, ".eds-probe-*")
	if err != nil {
		return nil, nil, fmt.Errorf("create a directory in %s: %w", above, withoutNames(err))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, errors.Join(withoutNames(err), os.Remove(path))
	}
	in := &rootDisk{path: path, root: root}
	return in, func() error { return errors.Join(in.close(), os.RemoveAll(path)) }, nil
}

func (d *rootDisk) create(name string) (file, error) {
	return d.openFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
}
func (d *rootDisk) open(name string) (file, error) { return d.openFile(name, os.O_WRONLY) }

func (d *rootDisk) openFile(name string, flag int) (file, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.root.OpenFile(name, flag, 0o644)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *rootDisk) rename(from, to string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.root.Rename(from, to)
}

func (d *rootDisk) remove(name string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.root.Remove(name)
}

func (d *rootDisk) mkdir(name string) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.root.Mkdir(name, 0o755)
}

// syncDir makes the names in a directory durable. Windows does so on its own and has no call for
// it.
func (d *rootDisk) syncDir(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *rootDisk) stat(name string) (fs.FileInfo, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.root.Stat(name)
}

func (d *rootDisk) readDir(name string) ([]fs.DirEntry, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return compareNames(a.Name(), b.Name()) })
	return entries, err
}

func (d *rootDisk) readFile(name string) ([]byte, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.root.ReadFile(name)
}

func (d *rootDisk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.root == nil {
		return nil
	}
	return d.root.Close()
}

func compareNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// classifyOpen gives the error of opening the directory its class: the operator has to fix a path
// that leads through a file; anything else is retried.
func classifyOpen(path string, err error) error {
	class := fault.Transient
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EEXIST) {
		class = fault.Fatal
	}
	return fault.Mark(class, fmt.Errorf("open directory %s: %w", path, withoutNames(err)))
}

// withoutNames returns err without file names, which contain keys of rows.
func withoutNames(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	if e := new(os.LinkError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// parents returns the directories that lead to name, from the top.
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}
