package file

import (
	"io/fs"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// faultyDisk is a disk whose calls can be made to fail, as on a full disk.
type faultyDisk struct {
	disk
	err error // error that failing calls return

	mu           sync.Mutex
	steps, limit int
	mode         sinktest.Mode
	log          []string // names of the calls so far
}

func newFaultyDisk(d disk) *faultyDisk { return &faultyDisk{disk: d, err: syscall.ENOSPC} }

func (d *faultyDisk) Steps() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.steps
}

func (d *faultyDisk) Break(n int, mode sinktest.Mode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit, d.mode = d.steps+n, mode
}

func (d *faultyDisk) Repair() { d.Break(0, "") }

// call counts a call and runs the function do, or fails before or after it.
func (d *faultyDisk) call(op, name string, do func() error) error {
	d.mu.Lock()
	d.steps++
	d.log = append(d.log, op)
	broken, mode := d.mode != "" && d.steps > d.limit, d.mode
	first := d.steps == d.limit+1
	d.mu.Unlock()
	if broken && (mode == sinktest.Lost || !first) {
		return &fs.PathError{Op: op, Path: name, Err: d.err}
	}
	if err := do(); err != nil {
		return err
	}
	if broken {
		return &fs.PathError{Op: op, Path: name, Err: d.err}
	}
	return nil
}

func (d *faultyDisk) create(name string) (f diskFile, err error) {
	err = d.call("create", name, func() (err error) { f, err = d.disk.create(name); return err })
	return d.wrap(name, f, err)
}

func (d *faultyDisk) open(name string) (f diskFile, err error) {
	err = d.call("open", name, func() (err error) { f, err = d.disk.open(name); return err })
	return d.wrap(name, f, err)
}

func (d *faultyDisk) wrap(name string, f diskFile, err error) (diskFile, error) {
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return &faultyFile{f, d, name}, nil
}

func (d *faultyDisk) rename(from, to string) error {
	return d.call("rename", to, func() error { return d.disk.rename(from, to) })
}

func (d *faultyDisk) remove(name string) error {
	return d.call("remove", name, func() error { return d.disk.remove(name) })
}

func (d *faultyDisk) mkdir(name string) error {
	return d.call("mkdir", name, func() error { return d.disk.mkdir(name) })
}

func (d *faultyDisk) syncDir(name string) error {
	return d.call("syncDir", name, func() error { return d.disk.syncDir(name) })
}

func (d *faultyDisk) readFile(name string) (text []byte, err error) {
	err = d.call("readFile", name, func() (err error) { text, err = d.disk.readFile(name); return err })
	return text, err
}

func (d *faultyDisk) ensure() (replaced bool, err error) {
	err = d.call("fresh", ".", func() (err error) { replaced, err = d.disk.ensure(); return err })
	return replaced, err
}

func (d *faultyDisk) exists() (found bool, err error) {
	err = d.call("exists", ".", func() (err error) { found, err = d.disk.exists(); return err })
	return found, err
}

// faultyFile is a file that fails when its disk fails. A failing Write writes half of the data.
type faultyFile struct {
	diskFile
	disk *faultyDisk
	name string
}

func (f *faultyFile) Write(p []byte) (n int, err error) {
	err = f.disk.call("write", f.name, func() (err error) { n, err = f.diskFile.Write(p); return err })
	if err != nil && n == 0 {
		n, _ = f.diskFile.Write(p[:len(p)/2])
	}
	return n, err
}

func (f *faultyFile) WriteAt(p []byte, offset int64) (n int, err error) {
	err = f.disk.call("writeAt", f.name, func() (err error) { n, err = f.diskFile.WriteAt(p, offset); return err })
	if err != nil && n == 0 {
		n, _ = f.diskFile.WriteAt(p[:len(p)/2], offset)
	}
	return n, err
}

func (f *faultyFile) Truncate(size int64) error {
	return f.disk.call("truncate", f.name, func() error { return f.diskFile.Truncate(size) })
}

func (f *faultyFile) Sync() error { return f.disk.call("sync", f.name, f.diskFile.Sync) }

// tempDir returns a directory for one test. The directory is in memory if the system has a file
// system in memory, so that the tests do not depend on the speed of the disk.
func tempDir(t testing.TB) string {
	t.Helper()
	if info, err := os.Stat("/dev/shm"); err != nil || !info.IsDir() {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "eds-file-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
