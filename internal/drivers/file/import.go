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

// snapshot is the load of one table into NDJSON files: each file of the
// snapshot becomes one, which is put in place when the load is finished.
type snapshot struct {
	lines *lines
	job   string
	table *schema.Table
	dir   string          // where the load's files are until it is finished
	files map[string]bool // those that are loaded; true once they are in place
}

// BeginLoad begins or resumes the load of one table. What other jobs left
// unfinished is removed.
func (l *lines) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	if l.whole() || !l.files.Layout.TableOnly() {
		return l.loader.BeginLoad(ctx, job, t, mode, scope)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.begin(ctx); err != nil {
		return nil, fmt.Errorf("begin to load table %q: %w", t.Name, err)
	}
	parent := path.Join(own, "load", encode.Segment(t.Name, maxDir))
	s := &snapshot{lines: l, job: job, table: t, dir: path.Join(parent, encode.Segment(job, maxDir)), files: make(map[string]bool)}
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

// loadRows writes rows of a snapshot as files that appear at once: those of one batch
// may belong into many directories. A file that is loaded again replaces them.
func (l *lines) loadRows(ctx context.Context, b *change.Batch, from encode.Origin) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := func(err error) error {
		return fmt.Errorf("load table %q: %w", from.Table.Name, l.forgetDirs(err))
	}
	if err := l.begin(ctx); err != nil {
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

// entries returns the names in a directory, none where there is no such one.
func (s *store) entries(dir string) ([]string, error) {
	entries, err := s.disk.readDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, bare(err)
}

// nameOf names the file that a file of the snapshot becomes.
func (s *snapshot) nameOf(file string) string {
	return "import-" + encode.Segment(s.job, 80) + "~" + encode.Segment(file, 140) + s.lines.encoder.Extension()
}

func (s *snapshot) Loaded(file string) bool {
	_, ok := s.files[s.nameOf(file)]
	return ok
}

// LoadFile writes the rows of one file.
func (s *snapshot) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	l := s.lines
	l.mu.Lock()
	err := l.begin(ctx)
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
		return 0, fmt.Errorf("load table %q: %w", s.table.Name, l.forgetDirs(bare(err)))
	}
	if err := l.syncDirs(changed); err != nil {
		return 0, fmt.Errorf("load table %q: %w", s.table.Name, err)
	}
	s.files[s.nameOf(file)] = false
	return n, nil
}

// write writes the rows to a temporary file and makes it durable.
func (s *snapshot) write(ctx context.Context, temp string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	failed := func(err error) error { return fmt.Errorf("load table %q: %w", s.table.Name, bare(err)) }
	f, err := s.lines.disk.create(temp)
	if err != nil {
		return 0, failed(err)
	}
	buffer := bufio.NewWriterSize(f, 1<<18)
	w, err := s.lines.encoder.FrameWriter(buffer)
	if err != nil {
		return 0, failed(errors.Join(err, f.Close()))
	}
	n, err := s.copy(ctx, w, rows)
	if err != nil {
		// Whatever else fails now is of no interest.
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

// copy writes a line for each row.
func (s *snapshot) copy(ctx context.Context, w io.Writer, rows iter.Seq2[*change.Row, error]) (int64, error) {
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
			return 0, fmt.Errorf("load table %q: %w", s.table.Name, bare(err))
		}
	}
	return n, ctx.Err()
}

// Finish puts the load's files in place, one after another. If it is interrupted it
// goes on the next time.
func (s *snapshot) Finish(ctx context.Context) (int64, error) {
	l := s.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.place(ctx); err != nil {
		return 0, fmt.Errorf("finish loading table %q: %w", s.table.Name, l.forgetDirs(err))
	}
	clear(s.files)
	return -1, nil
}

func (s *snapshot) place(ctx context.Context) error {
	l := s.lines
	if err := l.begin(ctx); err != nil {
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
			return s.lose(path.Join(s.dir, name))
		}
	}
	for _, name := range staged {
		if err := l.makeDirs(path.Join(dir, name), changed); err != nil {
			return err
		}
		if err := l.disk.rename(path.Join(s.dir, name), path.Join(dir, name)); err != nil {
			return bare(err)
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

// lose forgets the load, because a file that it has loaded is gone.
func (s *snapshot) lose(name string) error {
	if err := s.lines.removeAll(path.Dir(s.dir)); err != nil {
		return err
	}
	clear(s.files)
	clear(s.lines.dirs) // as much as that may be gone
	return fault.Mark(fault.Fatal, fmt.Errorf("%w: %s does not exist any more", sink.ErrLoadLost, name))
}

// Discard removes the load's files.
func (s *snapshot) Discard(ctx context.Context) error {
	l := s.lines
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.begin(ctx)
	if err == nil {
		err = l.removeAll(path.Dir(s.dir))
	}
	if err != nil {
		return fmt.Errorf("discard the load of table %q: %w", s.table.Name, err)
	}
	clear(s.files)
	return nil
}

// Close keeps what is staged.
func (s *snapshot) Close(context.Context) error { return nil }
