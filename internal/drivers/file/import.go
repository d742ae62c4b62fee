package file

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// fileLoad loads one table into NDJSON files. Each file of the snapshot becomes one NDJSON file,
// which Finish moves from the staging directory to the table's directory.
type fileLoad struct {
	sink  *rollingSink
	job   string
	table *schema.Table
	dir   string          // staging directory of the load's files
	files map[string]bool // loaded files by name; true if Finish has moved the file
}

// BeginLoad begins or resumes the load of one table. It removes unfinished loads of the table by
// other jobs.
func (l *rollingSink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	if l.wholeFiles() || !l.files.Layout.TableOnly() {
		return l.loader.BeginLoad(ctx, job, t, mode, scope)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.beginCall(ctx); err != nil {
		return nil, fmt.Errorf("begin to load table %q: %w", t.Name, err)
	}
	parent := path.Join(privateDir, "load", encode.Segment(t.Name, maxDir))
	s := &fileLoad{sink: l, job: job, table: t, dir: path.Join(parent, encode.Segment(job, maxDir)), files: make(map[string]bool)}
	jobs, err := l.entries(parent)
	for _, other := range jobs {
		if dir := path.Join(parent, other); err == nil && dir != s.dir {
			err = l.removeAll(dir)
		}
	}
	files, e := l.entries(s.dir)
	if err = errors.Join(err, e); err != nil {
		return nil, fmt.Errorf("begin to load table %q: %w", t.Name, err)
	}
	for _, name := range files {
		s.files[name] = false
	}
	return s, nil
}

// loadRows writes rows of a snapshot directly to their final directories, as whole files, because
// the rows of a batch may belong to many directories. Loading the same snapshot file again
// overwrites the same files.
func (l *rollingSink) loadRows(ctx context.Context, b *change.Batch, from encode.SnapshotPart) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := func(err error) error {
		return fmt.Errorf("load table %q: %w", from.Table.Name, l.forgetDirs(err))
	}
	if err := l.beginCall(ctx); err != nil {
		return failed(err)
	}
	planner := l.planner
	planner.Versions = func(context.Context, string, string) (*schema.Table, error) { return from.Table, nil }
	parts, err := planner.Plan(ctx, b.Events)
	if err != nil {
		return failed(err)
	}
	changed := make(map[string]bool)
	if err := l.makeDirs(l.tempName(), make(map[string]bool)); err != nil {
		return failed(fault.Mark(fault.Transient, err))
	}
	for n, p := range parts {
		name := path.Join(p.Dir, lake.ImportName(from, n+1)+l.encoder.Extension())
		changed[p.Dir] = true
		if err := l.makeDirs(name, changed); err != nil {
			return failed(err)
		}
		if err := l.writeWhole(name, p); err != nil {
			return failed(err)
		}
	}
	if err := l.syncDirs(changed); err != nil {
		return failed(err)
	}
	return nil
}

// entries returns the names in a directory, or none if the directory does not exist.
func (s *fileStore) entries(dir string) ([]string, error) {
	entries, err := s.disk.readDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, withoutNames(err)
}

// nameOf returns the name of the NDJSON file for a file of the snapshot.
func (s *fileLoad) nameOf(file string) string {
	return "import-" + encode.Segment(s.job, 80) + "~" + encode.Segment(file, 140) + s.sink.encoder.Extension()
}

// Loaded reports whether this load already has the rows of the snapshot file.
func (s *fileLoad) Loaded(file string) bool {
	_, ok := s.files[s.nameOf(file)]
	return ok
}

// LoadFile stages the rows of one snapshot file, and returns the number of rows.
func (s *fileLoad) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	l := s.sink
	l.mu.Lock()
	err := l.beginCall(ctx)
	temp, name := l.tempName(), path.Join(s.dir, s.nameOf(file))
	changed := map[string]bool{s.dir: true}
	if err == nil {
		err = errors.Join(l.makeDirs(temp, changed), l.makeDirs(name, changed))
	}
	l.mu.Unlock()
	if err != nil {
		return 0, fmt.Errorf("load table %q: %w", s.table.Name, err)
	}
	n, err := s.write(ctx, temp, rows)
	if err != nil {
		l.discard(temp)
		return 0, err
	}
	if err := l.disk.rename(temp, name); err != nil {
		l.discard(temp)
		l.mu.Lock()
		defer l.mu.Unlock()
		return 0, fmt.Errorf("load table %q: %w", s.table.Name, l.forgetDirs(withoutNames(err)))
	}
	if err := l.syncDirs(changed); err != nil {
		return 0, fmt.Errorf("load table %q: %w", s.table.Name, err)
	}
	s.files[s.nameOf(file)] = false
	return n, nil
}

// write writes the rows to the new file temp and makes the content of the file durable. It returns
// the number of rows.
func (s *fileLoad) write(ctx context.Context, temp string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	failed := func(err error) error { return fmt.Errorf("load table %q: %w", s.table.Name, withoutNames(err)) }
	f, err := s.sink.disk.create(temp)
	if err != nil {
		return 0, failed(err)
	}
	buffer := bufio.NewWriterSize(f, 1<<18)
	w, err := s.sink.encoder.FrameWriter(buffer)
	if err != nil {
		return 0, failed(errors.Join(err, f.Close()))
	}
	n, err := s.copy(ctx, w, rows)
	if err != nil {
		// Return the error from copy; errors from Close no longer matter.
		_, _ = w.Close(), f.Close()
		return 0, err
	}
	if err = w.Close(); err == nil {
		err = buffer.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, failed(err)
	}
	return n, nil
}

// copy writes each row as a line to w. It returns the number of rows.
func (s *fileLoad) copy(ctx context.Context, w io.Writer, rows iter.Seq2[*change.Row, error]) (int64, error) {
	var n int64
	var line []byte
	for row, err := range rows {
		if err != nil {
			return 0, err
		}
		if n++; n&0x3ff == 0 && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		line = append(encode.AppendImported(line[:0], s.table, row), '\n')
		if _, err := w.Write(line); err != nil {
			return 0, fmt.Errorf("load table %q: %w", s.table.Name, withoutNames(err))
		}
	}
	return n, ctx.Err()
}

// Finish moves the load's files to the table's directory, one at a time. If Finish is interrupted,
// the next call continues. It returns -1, because the files hold events, which are not counted.
func (s *fileLoad) Finish(ctx context.Context) (int64, error) {
	l := s.sink
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.installFiles(ctx); err != nil {
		return 0, fmt.Errorf("finish loading table %q: %w", s.table.Name, l.forgetDirs(err))
	}
	clear(s.files)
	return -1, nil
}

func (s *fileLoad) installFiles(ctx context.Context) error {
	l := s.sink
	if err := l.beginCall(ctx); err != nil {
		return err
	}
	staged, err := l.entries(s.dir)
	if err != nil {
		return err
	}
	dir := encode.Segment(s.table.Name, maxDir)
	changed := map[string]bool{dir: true}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if s.files[name] {
			continue
		}
		if !slices.Contains(staged, name) {
			return s.abandon(path.Join(s.dir, name))
		}
	}
	for _, name := range staged {
		if err := l.makeDirs(path.Join(dir, name), changed); err != nil {
			return err
		}
		if err := l.disk.rename(path.Join(s.dir, name), path.Join(dir, name)); err != nil {
			return withoutNames(err)
		}
		s.files[name] = true
	}
	if len(s.files) > 0 {
		if err := l.syncDirs(changed); err != nil {
			return err
		}
	}
	return l.removeAll(path.Dir(s.dir))
}

// abandon removes the whole load, because the staged file at the path name is missing. It returns
// ErrLoadLost as a Fatal error.
func (s *fileLoad) abandon(name string) error {
	if err := s.sink.removeAll(path.Dir(s.dir)); err != nil {
		return err
	}
	clear(s.files)
	clear(s.sink.dirs) // the directories may be gone, too
	return fault.Mark(fault.Fatal, fmt.Errorf("%w: %s does not exist any more", sink.ErrLoadLost, name))
}

// Discard removes the files that the load has staged.
func (s *fileLoad) Discard(ctx context.Context) error {
	l := s.sink
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.beginCall(ctx)
	if err == nil {
		err = l.removeAll(path.Dir(s.dir))
	}
	if err != nil {
		return fmt.Errorf("discard the load of table %q: %w", s.table.Name, err)
	}
	clear(s.files)
	return nil
}

// Close keeps the staged files, so that a later BeginLoad of the same job resumes the load.
func (s *fileLoad) Close(context.Context) error { return nil }
