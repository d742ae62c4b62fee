package file

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// memDisk is a strict disk in memory. A crash loses everything that has not been synced.
type memDisk struct {
	mu   sync.Mutex
	dirs map[string]*memDir
}

// memDir maps names to nodes. The map durable holds the names that survive a crash.
type memDir struct{ now, durable map[string]*memNode }

// memNode is a file or a directory. The content of a directory is in memDisk.dirs.
type memNode struct {
	dir          bool
	now, durable []byte
}

func newMemDisk() *memDisk {
	return &memDisk{dirs: map[string]*memDir{".": newMemDir()}}
}

func newMemDir() *memDir {
	return &memDir{now: make(map[string]*memNode), durable: make(map[string]*memNode)}
}

// crash returns a copy of the disk as it is after a loss of power.
func (d *memDisk) crash() *memDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := &memDisk{dirs: make(map[string]*memDir)}
	after.revive(d, ".")
	return after
}

// revive copies the durable content of a directory from another disk.
func (d *memDisk) revive(from *memDisk, dir string) {
	kept := newMemDir()
	for name, node := range from.dirs[dir].durable {
		node = &memNode{dir: node.dir, now: slices.Clone(node.durable), durable: slices.Clone(node.durable)}
		kept.now[name], kept.durable[name] = node, node
		if node.dir {
			d.revive(from, path.Join(dir, name))
		}
	}
	d.dirs[dir] = kept
}

// at returns the directory that contains a name, and the last element of the name. The caller holds
// mu.
func (d *memDisk) at(name string) (*memDir, string, error) {
	dir := d.dirs[path.Dir(name)]
	if dir == nil {
		return nil, "", fs.ErrNotExist
	}
	return dir, path.Base(name), nil
}

func (d *memDisk) probeDir() (disk, func() error, error) { return nil, nil, nil }

func (d *memDisk) exists() (bool, error) { return true, nil }

func (d *memDisk) ensure() (bool, error) { return false, nil }
func (d *memDisk) close() error          { return nil }

func (d *memDisk) create(name string) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.at(name)
	if err != nil {
		return nil, err
	}
	if dir.now[base] != nil {
		return nil, fs.ErrExist
	}
	dir.now[base] = &memNode{}
	return &memFile{d, dir.now[base]}, nil
}

func (d *memDisk) open(name string) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.at(name)
	if err != nil || dir.now[base] == nil {
		return nil, fs.ErrNotExist
	}
	return &memFile{d, dir.now[base]}, nil
}

func (d *memDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, oldName, err := d.at(from)
	if err != nil || a.now[oldName] == nil {
		return fs.ErrNotExist
	}
	b, newName, err := d.at(to)
	if err != nil {
		return err
	}
	if old := b.now[newName]; old != nil && old.dir {
		return syscall.EISDIR
	}
	b.now[newName] = a.now[oldName]
	delete(a.now, oldName)
	return nil
}

func (d *memDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.at(name)
	if err != nil || dir.now[base] == nil {
		return fs.ErrNotExist
	}
	if dir.now[base].dir {
		if len(d.dirs[name].now) > 0 {
			return syscall.ENOTEMPTY
		}
		delete(d.dirs, name)
	}
	delete(dir.now, base)
	return nil
}

func (d *memDisk) mkdir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.at(name)
	if err != nil {
		return err
	}
	if dir.now[base] != nil {
		return fs.ErrExist
	}
	dir.now[base] = &memNode{dir: true}
	d.dirs[name] = newMemDir()
	return nil
}

func (d *memDisk) syncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.dirs[name]
	if dir == nil {
		return fs.ErrNotExist
	}
	dir.durable = maps.Clone(dir.now)
	return nil
}

func (d *memDisk) stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.at(name)
	if err != nil || dir.now[base] == nil {
		return nil, fs.ErrNotExist
	}
	return memInfo{base, dir.now[base].dir, int64(len(dir.now[base].now))}, nil
}

func (d *memDisk) readDir(name string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.dirs[name]
	if dir == nil {
		return nil, fs.ErrNotExist
	}
	var all []fs.DirEntry
	for _, base := range slices.Sorted(maps.Keys(dir.now)) {
		all = append(all, fs.FileInfoToDirEntry(memInfo{base, dir.now[base].dir, 0}))
	}
	return all, nil
}

func (d *memDisk) readFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.at(name)
	if err != nil || dir.now[base] == nil {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(dir.now[base].now), nil
}

// files returns the content of all files by name, except the private files of eds.
func (d *memDisk) files() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]string)
	for dir, content := range d.dirs {
		if dir == privateDir || strings.HasPrefix(dir, privateDir+"/") {
			continue
		}
		for name, node := range content.now {
			if !node.dir {
				all[path.Join(dir, name)] = string(node.now)
			}
		}
	}
	return all
}

// temporary returns the names of all temporary files.
func (d *memDisk) temporary() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for dir, content := range d.dirs {
		for name, node := range content.now {
			if strings.HasPrefix(dir, path.Join(privateDir, "tmp")) && !node.dir {
				all = append(all, path.Join(dir, name))
			}
		}
	}
	return all
}

type memFile struct {
	disk *memDisk
	node *memNode
}

func (f *memFile) Write(p []byte) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.now = append(f.node.now, p...)
	return len(p), nil
}

func (f *memFile) WriteAt(p []byte, offset int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if offset > int64(len(f.node.now)) {
		return 0, errors.New("a hole in a file")
	}
	f.node.now = append(f.node.now[:offset:offset], p...)
	return len(p), nil
}

func (f *memFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.now = f.node.now[:size:size]
	return nil
}

func (f *memFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.durable = slices.Clone(f.node.now)
	return nil
}

func (f *memFile) Close() error { return nil }

type memInfo struct {
	name string
	dir  bool
	size int64
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) ModTime() time.Time { return time.Now() }
func (i memInfo) Sys() any           { return nil }

func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

func TestMemDisk_CrashLosesUnsyncedData(t *testing.T) {
	d := newMemDisk()
	write := func(name, text string, sync bool) {
		f, err := d.create(name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.Write([]byte(text))
		if sync {
			_ = f.Sync()
		}
	}
	write("a", "synced", true)
	write("b", "not synced", false)
	_ = d.syncDir(".")
	write("c", "name not synced", true)
	_ = d.rename("a", "d")
	got := d.crash().files()
	if len(got) != 2 || got["a"] != "synced" || got["b"] != "" {
		t.Errorf("after a crash: %q", got)
	}
}
