package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// own is the directory that the sinks keep for themselves.
const own = ".eds"

// writers bounds how many files are written at once: what lets a file system
// commit the syncs of many together.
const writers = 16

// store is what the sinks of both formats share.
type store struct {
	disk disk
	env  sink.Env

	mu     sync.Mutex // held by every call of a sink
	closed bool
	writes bool // begin has been called

	temp    string // a directory of this sink alone, for files that are not whole yet
	counter atomic.Int64

	dirs map[string]bool // known to exist
}

func newStore(d disk, env sink.Env) *store {
	return &store{disk: d, env: env, temp: path.Join(own, "tmp", rand.Text()), dirs: make(map[string]bool)}
}

var errClosed = errors.New("the sink is closed")

// begin readies the store for a call, and makes its directory. The caller holds mu.
func (s *store) begin(ctx context.Context) error {
	if s.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.refresh()
	if err == nil && !s.writes {
		s.writes = true
		s.sweep()
	}
	return err
}

// refresh makes the directory if there is none, and notices that it was replaced.
func (s *store) refresh() error {
	replaced, err := s.disk.fresh()
	if replaced {
		clear(s.dirs)
	}
	return err
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.writes {
		// It is empty unless something failed; the next sink that writes sweeps.
		if err := s.disk.remove(s.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.env.Logger.Debug("leaving a temporary directory", "error", bare(err))
		}
	}
	return s.disk.close()
}

// tempName names a new temporary file, whose directory exists.
func (s *store) tempName() string {
	return path.Join(s.temp, fmt.Sprintf("%d", s.counter.Add(1)))
}

// makeDirs makes the directories that lead to name, and adds to changed each
// directory that got a new entry by that. A file in the way is errInTheWay.
func (s *store) makeDirs(name string, changed map[string]bool) error {
	for _, dir := range parents(name) {
		if s.dirs[dir] {
			continue
		}
		err := s.disk.mkdir(dir)
		switch {
		case err == nil:
			changed[path.Dir(dir)] = true
		case errors.Is(err, fs.ErrExist):
			info, err := s.disk.stat(dir)
			if err != nil {
				return bare(err)
			}
			if !info.IsDir() {
				return errInTheWay
			}
			// Who made it may not have lived to sync it.
			changed[path.Dir(dir)] = true
		default:
			return bare(err)
		}
		s.dirs[dir] = true
	}
	return nil
}

// errInTheWay says that a path of an event can't be made because a file or
// directory of another event has that name.
var errInTheWay = fault.Mark(fault.Poison, errors.New("a file has the name of a directory that is needed, or a directory that of the file"))

// writeTemp writes a new temporary file and syncs it. Of a file that fails
// nothing stays.
func (s *store) writeTemp(name string, data []byte) error {
	f, err := s.disk.create(name)
	if err != nil {
		return bare(err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.discard(name)
		return bare(err)
	}
	return nil
}

// discard removes files that nobody will ever look for.
func (s *store) discard(names ...string) {
	for _, name := range names {
		if err := s.disk.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.env.Logger.Debug("leaving a temporary file", "error", bare(err))
		}
	}
}

// syncDirs makes the names in the directories durable.
func (s *store) syncDirs(dirs map[string]bool) error {
	var group errgroup.Group
	group.SetLimit(writers)
	for dir := range dirs {
		group.Go(func() error { return bare(s.disk.syncDir(dir)) })
	}
	return group.Wait()
}

// replace writes a file of the store's own, durably and all at once.
func (s *store) replace(name string, data []byte) error {
	changed := map[string]bool{path.Dir(name): true}
	temp := s.tempName()
	if err := s.makeDirs(name, changed); err != nil {
		return err
	}
	if err := s.makeDirs(temp, changed); err != nil {
		return err
	}
	if err := s.writeTemp(temp, data); err != nil {
		return s.forgetDirs(err)
	}
	if err := s.disk.rename(temp, name); err != nil {
		s.discard(temp)
		return s.forgetDirs(bare(err))
	}
	return s.syncDirs(changed)
}

// removeAll removes what is at name, and below it.
func (s *store) removeAll(name string) error {
	info, err := s.disk.stat(name)
	if err == nil && info.IsDir() {
		var entries []fs.DirEntry
		if entries, err = s.disk.readDir(name); err != nil {
			return bare(err)
		}
		for _, entry := range entries {
			if err := s.removeAll(path.Join(name, entry.Name())); err != nil {
				return err
			}
		}
		delete(s.dirs, name)
	}
	if err == nil {
		err = s.disk.remove(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return bare(err)
}

// forgetDirs makes directories be looked for anew where one turns out to be
// missing.
func (s *store) forgetDirs(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		clear(s.dirs)
	}
	return err
}

// staleAfter is how old a temporary directory is that nobody uses any more.
const staleAfter = 24 * time.Hour

// sweep removes what sinks that were killed long ago have left. It is no matter
// where it fails.
func (s *store) sweep() {
	temps := path.Join(own, "tmp")
	entries, err := s.disk.readDir(temps)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || time.Since(info.ModTime()) < staleAfter {
			continue
		}
		if err := s.removeAll(path.Join(temps, entry.Name())); err != nil {
			s.env.Logger.Debug("leaving a temporary directory", "error", err)
		}
	}
}

// probe writes a file, reads it back, and removes it: if the directory does not exist,
// where it would be made.
func (s *store) probe(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d, end, err := s.disk.standIn()
	if err != nil {
		return err
	}
	if d == nil {
		if err := s.refresh(); err != nil {
			return err
		}
		return s.writeProbe()
	}
	defer func() { err = errors.Join(err, bare(end())) }()
	return newStore(d, s.env).writeProbe()
}

func (s *store) writeProbe() error {
	name, renamed := ".eds-probe-"+rand.Text(), ".eds-probe-"+rand.Text()
	defer s.discard(name, renamed)
	content := []byte("eds tests whether it can write here\n")
	if err := s.writeTemp(name, content); err != nil {
		return fmt.Errorf("write a test file: %w", err)
	}
	if err := s.disk.rename(name, renamed); err != nil {
		return fmt.Errorf("rename a test file: %w", bare(err))
	}
	read, err := s.disk.readFile(renamed)
	if err != nil {
		return fmt.Errorf("read a test file: %w", bare(err))
	}
	if string(read) != string(content) {
		return errors.New("read a test file: it is not what was written")
	}
	if err := s.disk.remove(renamed); err != nil {
		return fmt.Errorf("remove a test file: %w", bare(err))
	}
	if err := s.disk.syncDir("."); err != nil {
		return fmt.Errorf("sync the directory: %w", bare(err))
	}
	return nil
}

// adjusted counts an event that is not the UTF-8 that it should be.
func (s *store) adjusted(table string) { s.env.Adjusted(table, "", "invalid-utf8") }
