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

// disk is the part of a file system that the sinks use. Names are slash-separated paths relative to
// the destination's directory, and cannot lead out of that directory. The methods are safe for
// concurrent use. A crash may lose anything that is not synced: the content of a file is durable
// after Sync of the file, and its name after syncDir of its directory.
type disk interface {
	// ensure creates the directory if it is missing. If the path of the directory now leads to
	// another directory, ensure opens that one. The result replaced says whether ensure created or
	// opened a directory.
	ensure() (replaced bool, err error)
	// exists reports whether the directory exists.
	exists() (bool, error)
	// If the directory does not exist, probeDir creates a temporary directory in the nearest
	// existing parent, and returns the temporary directory as d. The function end removes the
	// temporary directory. If the directory exists, d and end are nil.
	probeDir() (d disk, end func() error, err error)
	create(name string) (diskFile, error) // the file must not exist yet
	open(name string) (diskFile, error)   // opens an existing file for writing
	rename(from, to string) error         // replaces an existing file named to
	remove(name string) error             // removes a file or an empty directory
	mkdir(name string) error
	syncDir(name string) error
	stat(name string) (fs.FileInfo, error)
	readDir(name string) ([]fs.DirEntry, error)
	readFile(name string) ([]byte, error)
	close() error
}

// diskFile is an open file. Only one goroutine uses it at a time.
type diskFile interface {
	Write(p []byte) (int, error)
	WriteAt(p []byte, offset int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// rootDisk is a disk in a real directory. Neither names nor symbolic links can lead out of the
// directory.
type rootDisk struct {
	path string
	mu   sync.RWMutex // held for writing while root is replaced
	root *os.Root     // nil if the directory does not exist yet
}

// openDisk opens the directory at path. If the directory does not exist, openDisk does not create
// it.
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

// ensure creates the directory if it has never been opened. It opens the directory again if it was
// removed and created again, or if a file system was mounted over it.
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
		return true, fault.Mark(fault.Transient, err) // opened before, so the error may pass
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

func (d *rootDisk) create(name string) (diskFile, error) {
	return d.openFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
}
func (d *rootDisk) open(name string) (diskFile, error) { return d.openFile(name, os.O_WRONLY) }

func (d *rootDisk) openFile(name string, flag int) (diskFile, error) {
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

// syncDir makes the names in a directory durable. On Windows it does nothing: Windows makes names
// durable by itself and has no call to sync a directory.
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

// classifyOpen adds a fault class to an error that occurred when the directory was opened. The
// class is Fatal for a path that only the operator can fix, for example one that leads through a
// file. Other errors are transient.
func classifyOpen(path string, err error) error {
	class := fault.Transient
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EEXIST) {
		class = fault.Fatal
	}
	return fault.Mark(class, fmt.Errorf("open directory %s: %w", path, withoutNames(err)))
}

// withoutNames returns err without the names of files, because these may contain keys of rows.
func withoutNames(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	if e := new(os.LinkError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// parents returns the directories above name, from the top down, without ".".
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}
