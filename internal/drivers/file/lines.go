package file

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// lines is the sink that appends events to rolling NDJSON files, or writes each
// batch as Parquet files, which nothing can be appended to.
//
// A batch is appended to the files and synced; then the journal, which says how
// long the files are and which position that is, is replaced. Whatever happens
// before that is undone by cutting the files to what the journal says; so each
// event is in the files exactly once.
type lines struct {
	*store
	files   lake.Settings
	encoder *lake.Encoder
	planner lake.Planner
	loader  encode.Loader
	now     func() time.Time

	journal journal
	// unsure says that journal may not be the one on disk, or that files may be
	// longer than it says.
	unsure bool
}

var (
	_ sink.Sink         = (*lines)(nil)
	_ sink.Checkpointer = (*lines)(nil)
	_ sink.Pacer        = (*lines)(nil)
)

func newLines(s *store, c config) *lines {
	l := &lines{store: s, files: c.files, encoder: lake.NewEncoder(c.files, s.env.Adjusted), now: time.Now, unsure: true}
	l.planner = lake.Planner{Layout: c.files.Layout, Rows: math.MaxInt, Bytes: math.MaxInt}
	if l.whole() {
		l.planner = lake.Planner{Layout: c.files.Layout, Schemas: true, Rows: l.Limits().Rows, Bytes: l.Limits().Bytes, Versions: s.env.Tables}
	}
	l.loader = encode.Loader{ApplyFrom: l.loadRows, Limits: l.Limits(), Journal: journalFiles{s}}
	return l
}

// whole reports whether files are written at once, and never appended to.
func (l *lines) whole() bool { return l.files.Format == lake.Parquet }

// Limits are those that the URL asks for: where a file is a batch, it is the batch
// that grows.
func (l *lines) Limits() sink.Limits {
	if !l.whole() {
		return limits
	}
	return sink.Limits{Rows: int(min(l.files.RollRows, 10_000_000)), Bytes: int(min(l.files.RollBytes, 1<<30)), Age: l.files.RollAge}
}

func (l *lines) Probe(ctx context.Context) error { return l.probe(ctx) }
func (l *lines) Close(context.Context) error     { return l.close() }

// ready readies the sink for a call. The caller holds mu.
func (l *lines) ready(ctx context.Context) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	if !l.unsure {
		return nil
	}
	return l.recover()
}

// Checkpoint returns the position that the journal tells.
func (l *lines) Checkpoint(ctx context.Context) (cdc.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.env.Consumer == "" {
		return cdc.Position{}, nil
	}
	if err := l.ready(ctx); err != nil {
		return cdc.Position{}, fmt.Errorf("read the checkpoint: %w", err)
	}
	return l.journal.position(), nil
}

// ResetCheckpoint forgets the position. Files that were written stay; what is
// written from now on goes into new ones.
func (l *lines) ResetCheckpoint(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.env.Consumer == "" {
		return nil
	}
	if err := l.ready(ctx); err != nil {
		return fmt.Errorf("reset the checkpoint: %w", err)
	}
	if l.journal.position() == (cdc.Position{}) {
		return nil
	}
	if err := l.commit(newJournal(l.env)); err != nil {
		return fmt.Errorf("reset the checkpoint: %w", err)
	}
	return nil
}

// commit makes next the journal.
func (l *lines) commit(next journal) error {
	if err := l.save(next); err != nil {
		l.unsure = true
		return err
	}
	l.journal = next
	return nil
}

// Apply appends the events of the batch that the journal does not cover.
func (l *lines) Apply(ctx context.Context, b *change.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(ctx); err != nil {
		return fmt.Errorf("append %d events: %w", len(b.Events), err)
	}
	err := l.apply(ctx, b)
	if err != nil && l.unsure {
		// Nothing of a batch that failed should be seen. Where it can't be cut
		// off now it is before the next one is appended.
		if e := l.recover(); e != nil {
			l.env.Logger.Warn("files may end in changes that are not complete until they can be repaired", "error", e)
		}
	}
	return err
}

func (l *lines) apply(ctx context.Context, b *change.Batch) error {
	if l.env.Consumer != "" && b.Last.Sequence > 0 && l.journal.position().Covers(b.Last) {
		return nil
	}
	appends, err := l.plan(ctx, b)
	if err != nil {
		return fmt.Errorf("plan the files of %d events: %w", len(b.Events), err)
	}
	changed, err := l.prepare(appends)
	if err != nil {
		return err
	}
	l.unsure = true
	if err := l.write(ctx, appends); err != nil {
		return fmt.Errorf("append %d events: %w", len(b.Events), l.forgetDirs(err))
	}
	if err := l.syncDirs(changed); err != nil {
		return fmt.Errorf("sync the directories of %d tables: %w", len(appends), l.forgetDirs(err))
	}
	next := l.journal.at(l.journal.position().Advance(b.Last))
	l.follow(&next, appends)
	if err := l.commit(next); err != nil {
		return err
	}
	l.unsure = false
	return nil
}

// follow notes in the journal which files are appended to from now on.
func (l *lines) follow(j *journal, appends []*appending) {
	if l.whole() {
		return
	}
	for dir, f := range j.Open { // of days gone by, or of tables that have left
		if l.now().Sub(f.Begun) >= l.files.RollAge {
			delete(j.Open, dir)
		}
	}
	for _, a := range appends {
		j.Open[a.Dir] = a.file
	}
}

// appending is what a batch adds to one file.
type appending struct {
	*lake.Part
	begins bool // the file is a new one
	file   openFile
}

func (a *appending) path() string { return path.Join(a.Dir, a.file.Name) }

// maxDir bounds the name of a table's directory, in bytes.
const maxDir = 200

// plan groups the events that the journal does not cover by file.
func (l *lines) plan(ctx context.Context, b *change.Batch) ([]*appending, error) {
	events := b.Events
	if position := l.journal.position(); l.env.Consumer != "" {
		events = slices.DeleteFunc(slices.Clone(events), func(e *cdc.Event) bool {
			return e.Position.Sequence > 0 && position.Covers(e.Position)
		})
	}
	parts, err := l.planner.Plan(ctx, events)
	all := make([]*appending, len(parts))
	for i, p := range parts {
		all[i] = &appending{Part: p}
	}
	return all, err
}

// prepare chooses the file of each, makes the directories, and notes in the
// journal which files are about to begin. It returns the directories that will
// have to be synced.
func (l *lines) prepare(appends []*appending) (changed map[string]bool, err error) {
	changed = make(map[string]bool)
	noted := l.journal.at(l.journal.position())
	for _, a := range appends {
		if err := l.choose(a); err != nil {
			return nil, fmt.Errorf("look for the file of table %q: %w", a.Table, err)
		}
		if err := l.makeDirs(a.path(), changed); err != nil {
			return nil, fmt.Errorf("make the directory of table %q: %w", a.Table, err)
		}
		if a.begins {
			changed[a.Dir] = true
			noted.Begun = append(noted.Begun, a.path())
		}
	}
	if noted.Begun == nil {
		return changed, nil
	}
	if err := l.makeDirs(l.tempName(), make(map[string]bool)); err != nil {
		return nil, fault.Mark(fault.Transient, fmt.Errorf("make a temporary directory: %w", err))
	}
	return changed, l.commit(noted)
}

// choose finds the file that is to be appended to, or names a new one.
func (l *lines) choose(a *appending) error {
	f, ok := l.journal.Open[a.Dir]
	if ok && !l.whole() && f.Rows < l.files.RollRows && f.Size < l.files.RollBytes && l.now().Sub(f.Begun) < l.files.RollAge && strings.HasSuffix(f.Name, l.journal.id()+l.encoder.Extension()) {
		info, err := l.disk.stat(path.Join(a.Dir, f.Name))
		if err == nil && info.Size() >= f.Size {
			a.file = f
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return bare(err)
		}
		// Who takes a file away, or empties it, is done with it.
	}
	a.begins = true
	for n := 1; ; n++ {
		a.file = openFile{Name: l.journal.fileName(a.Events[0].Position, n, l.encoder.Extension()), Begun: l.now().UTC()}
		// A file that is there was written before the position was reset.
		if _, err := l.disk.stat(a.path()); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return bare(err)
		}
	}
}

// write appends to all files, and notes what they are then.
func (l *lines) write(ctx context.Context, appends []*appending) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, a := range appends {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return l.append(a)
		})
	}
	return group.Wait()
}

// append appends to one file, or begins it, and makes it durable.
func (l *lines) append(a *appending) error {
	if l.whole() {
		return l.writeWhole(a.path(), a.Part)
	}
	text, err := l.encode(a)
	if err != nil {
		return err
	}
	if a.begins {
		err = l.beginFile(a.path(), text)
	} else {
		err = l.writeAt(a.path(), text, a.file.Size)
	}
	a.file.Size += int64(len(text))
	a.file.Rows += int64(len(a.Events))
	return err
}

// beginFile makes a new file, which appears whole.
func (l *lines) beginFile(name string, text []byte) error {
	temp := l.tempName()
	if err := l.writeTemp(temp, text); err != nil {
		return err
	}
	return l.put(temp, name)
}

// put puts a temporary file in place.
func (l *lines) put(temp, name string) error {
	if err := l.disk.rename(temp, name); err != nil {
		l.discard(temp)
		return bare(err)
	}
	return nil
}

// writeWhole makes a new file of a part, without holding it in memory. It appears
// whole.
func (l *lines) writeWhole(name string, p *lake.Part) error {
	temp := l.tempName()
	f, err := l.disk.create(temp)
	if err != nil {
		return bare(err)
	}
	buffer := bufio.NewWriterSize(f, 1<<18)
	err = l.encoder.Write(buffer, p)
	if err == nil {
		err = buffer.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		l.discard(temp)
		return bare(err)
	}
	return l.put(temp, name)
}

func (l *lines) writeAt(name string, text []byte, offset int64) error {
	f, err := l.disk.open(name)
	if err != nil {
		return bare(err)
	}
	_, err = f.WriteAt(text, offset)
	if err == nil {
		err = f.Sync()
	}
	return bare(errors.Join(err, f.Close()))
}

// encode makes the lines of the events, compressed as one frame.
func (l *lines) encode(a *appending) ([]byte, error) {
	size := 0
	for _, e := range a.Events {
		size += len(e.Payload) + 1
	}
	text := make([]byte, 0, size)
	for _, e := range a.Events {
		text = l.encoder.AppendLine(text, e)
	}
	return l.encoder.Frame(text)
}
