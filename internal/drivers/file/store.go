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

// privateDir is the directory that holds the sinks' own files, within the destination's directory.
const privateDir = ".eds"

// maxWriters is the maximum number of files that are written at the same time. A file system can
// commit concurrent syncs together.
const maxWriters = 16

// fileStore is the part that fileSink and rollingSink share.
type fileStore struct {
	disk disk
	env  sink.Env

	mu     sync.Mutex // held during every call of a sink
	closed bool
	writes bool // beginCall has succeeded

	temp    string // directory of this sink's temporary files
	counter atomic.Int64

	dirs map[string]bool // directories known to exist
}

func newFileStore(d disk, env sink.Env) *fileStore {
	return &fileStore{disk: d, env: env, temp: path.Join(privateDir, "tmp", rand.Text()), dirs: make(map[string]bool)}
}

var errClosed = errors.New("the sink is closed")

// beginCall begins a call that writes. It creates the directory if it is missing. The caller holds
// mu.
func (s *fileStore) beginCall(ctx context.Context) error {
	if s.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.refresh()
	if err == nil && !s.writes {
		s.writes = true
		s.removeStaleTemps()
	}
	return err
}

// refresh creates the directory or opens it again if needed. If the directory was replaced, refresh
// clears s.dirs.
func (s *fileStore) refresh() error {
	replaced, err := s.disk.ensure()
	if replaced {
		clear(s.dirs)
	}
	return err
}

func (s *fileStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.writes {
		// The directory is empty unless a call has failed. If it stays, a later sink removes it.
		if err := s.disk.remove(s.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.env.Logger.Debug("leaving a temporary directory", "error", withoutNames(err))
		}
	}
	return s.disk.close()
}

// tempName returns the name of a new temporary file.
func (s *fileStore) tempName() string {
	return path.Join(s.temp, fmt.Sprintf("%d", s.counter.Add(1)))
}

// makeDirs creates the directories above name. The map changed receives each directory that gets a
// new entry. If a file has the name of such a directory, it returns errNameConflict.
func (s *fileStore) makeDirs(name string, changed map[string]bool) error {
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
				return withoutNames(err)
			}
			if !info.IsDir() {
				return errNameConflict
			}
			// The process that created dir may have crashed before it synced the parent.
			changed[path.Dir(dir)] = true
		default:
			return withoutNames(err)
		}
		s.dirs[dir] = true
	}
	return nil
}

// errNameConflict means that an event's file or directory cannot be created because another event's
// file or directory has the same name.
var errNameConflict = fault.Mark(fault.Poison, errors.New("another event's file or directory has the name"))

// writeTemp writes data to a new temporary file at the path name, and syncs the file. If that
// fails, writeTemp removes the file.
func (s *fileStore) writeTemp(name string, data []byte) error {
	f, err := s.disk.create(name)
	if err != nil {
		return withoutNames(err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		s.discard(name)
		return withoutNames(err)
	}
	return nil
}

// discard removes temporary files that are no longer needed.
func (s *fileStore) discard(names ...string) {
	for _, name := range names {
		if err := s.disk.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.env.Logger.Debug("leaving a temporary file", "error", withoutNames(err))
		}
	}
}

// syncDirs makes the names in all given directories durable.
func (s *fileStore) syncDirs(dirs map[string]bool) error {
	var group errgroup.Group
	group.SetLimit(maxWriters)
	for dir := range dirs {
		group.Go(func() error { return withoutNames(s.disk.syncDir(dir)) })
	}
	return group.Wait()
}

// replace writes data to a file in privateDir. It replaces the previous content atomically and
// durably.
func (s *fileStore) replace(name string, data []byte) error {
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
		return s.forgetDirs(withoutNames(err))
	}
	return s.syncDirs(changed)
}

// removeAll removes the file or directory at the path name, with everything in it. It returns no
// error if there is no such file or directory.
func (s *fileStore) removeAll(name string) error {
	info, err := s.disk.stat(name)
	if err == nil && info.IsDir() {
		var entries []fs.DirEntry
		if entries, err = s.disk.readDir(name); err != nil {
			return withoutNames(err)
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
	return withoutNames(err)
}

// forgetDirs returns err unchanged. If err means that a file or directory is missing, forgetDirs
// clears s.dirs, so that later calls check the directories again.
func (s *fileStore) forgetDirs(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		clear(s.dirs)
	}
	return err
}

// staleAfter is the age at which a temporary directory is assumed to be abandoned.
const staleAfter = 24 * time.Hour

// removeStaleTemps removes temporary directories of sinks that were killed long ago. It ignores
// errors, because the next sink tries again.
func (s *fileStore) removeStaleTemps() {
	temps := path.Join(privateDir, "tmp")
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

// probe checks that eds can write to the directory: it writes, renames, reads and removes a file.
// If the directory does not exist, probe uses a temporary directory in the nearest existing parent.
func (s *fileStore) probe(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d, end, err := s.disk.probeDir()
	if err != nil {
		return err
	}
	if d == nil {
		if err := s.refresh(); err != nil {
			return err
		}
		return s.writeProbe()
	}
	defer func() { err = errors.Join(err, withoutNames(end())) }()
	return newFileStore(d, s.env).writeProbe()
}

func (s *fileStore) writeProbe() error {
	name, renamed := ".eds-probe-"+rand.Text(), ".eds-probe-"+rand.Text()
	defer s.discard(name, renamed)
	content := []byte("eds tests whether it can write here\n")
	if err := s.writeTemp(name, content); err != nil {
		return fmt.Errorf("write a test file: %w", err)
	}
	if err := s.disk.rename(name, renamed); err != nil {
		return fmt.Errorf("rename a test file: %w", withoutNames(err))
	}
	read, err := s.disk.readFile(renamed)
	if err != nil {
		return fmt.Errorf("read a test file: %w", withoutNames(err))
	}
	if string(read) != string(content) {
		return errors.New("read a test file: its content differs")
	}
	if err := s.disk.remove(renamed); err != nil {
		return fmt.Errorf("remove a test file: %w", withoutNames(err))
	}
	if err := s.disk.syncDir("."); err != nil {
		return fmt.Errorf("sync the directory: %w", withoutNames(err))
	}
	return nil
}

// adjusted counts an event whose invalid UTF-8 was replaced.
func (s *fileStore) adjusted(table string) { s.env.Adjusted(table, "", "invalid-utf8") }
