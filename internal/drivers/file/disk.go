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

// disk is what the sinks need of a file system. Names are relative to the
// destination's directory, with slashes, and can't leave it. Its methods are
// safe for concurrent use. Nothing but what was synced need survive a crash: a
// file's content by sync, its name by syncDir of its directory.
type disk interface {
	// fresh makes sure that the directory exists and is the one that its path names
	// now, and reports whether it was another one so far.
	fresh() (replaced bool, err error)
	// exists reports whether the directory exists.
	exists() (bool, error)
	// standIn returns nil if the directory exists, else a disk in a new directory where
	// that one would be made. Its end removes it.
	standIn() (d disk, end func() error, err error)
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

// rootDisk is the real one: a directory that no name, and no symbolic link, leads
// out of.
type rootDisk struct {
	path string
	mu   sync.RWMutex // held for writing while root is replaced
	root *os.Root     // nil: the directory has yet to be made
}

// openDisk opens the directory if it exists. It makes none.
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

// fresh makes the directory if there is none, and opens it again if its path now names
// another one: it was removed and made again, or something was mounted over it.
func (d *rootDisk) fresh() (replaced bool, err error) {
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
	return err == nil && info.IsDir(), bare(err)
}

func (d *rootDisk) standIn() (disk, func() error, error) {
	above, err := durable.Existing(d.path)
	if err != nil {
		return nil, nil, classifyOpen(d.path, err)
	}
	if above == d.path {
		return nil, nil, nil
	}
	path, err := os.MkdirTemp(above, ".eds-probe-*")
	if err != nil {
		return nil, nil, fmt.Errorf("make a directory in %s: %w", above, bare(err))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, errors.Join(bare(err), os.Remove(path))
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

// syncDir makes the names in a directory durable. Windows does so by itself, and
// has no call for it.
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

// classifyOpen says what it means that the directory can't be opened: a path
// that leads through a file needs a person; anything else may pass.
func classifyOpen(path string, err error) error {
	class := fault.Transient
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.EEXIST) {
		class = fault.Fatal
	}
	return fault.Mark(class, fmt.Errorf("open directory %s: %w", path, bare(err)))
}

// bare returns err without the names that the file system puts into errors: they
// are made of keys of rows.
func bare(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	if e := new(os.LinkError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// parents yields the directories that lead to name, from the top.
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		all = append(all, dir)
	}
	slices.Reverse(all)
	return all
}
