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

// rollingSink appends events to rolling NDJSON files, or writes each batch as whole Parquet files,
// because a Parquet file cannot be appended to.
//
// For each batch, it first appends to the files and syncs them. Then it replaces the journal, which
// records the files' lengths and the position in the stream. Until the journal is replaced,
// recovery can undo the batch by truncating the files to the lengths in the journal. So the files
// contain each event exactly once.
type rollingSink struct {
	*fileStore
	files   lake.Settings
	encoder *lake.Encoder
	planner lake.Planner
	loader  encode.Loader
	now     func() time.Time

	journal fileJournal
	// needsRecovery is set if the field journal may differ from the journal on disk, or if files
	// may be longer than the journal says.
	needsRecovery bool
}

var (
	_ sink.Sink         = (*rollingSink)(nil)
	_ sink.Checkpointer = (*rollingSink)(nil)
	_ sink.Pacer        = (*rollingSink)(nil)
)

func newRollingSink(s *fileStore, c config) *rollingSink {
	l := &rollingSink{fileStore: s, files: c.files, encoder: lake.NewEncoder(c.files, s.env.Adjusted), now: time.Now, needsRecovery: true}
	l.planner = lake.Planner{Layout: c.files.Layout, Rows: math.MaxInt, Bytes: math.MaxInt}
	if l.wholeFiles() {
		l.planner = lake.Planner{
			Layout: c.files.Layout, Schemas: true, Rows: l.Limits().Rows, Bytes: l.Limits().Bytes,
			Versions: s.env.Tables,
		}
	}
	l.loader = encode.Loader{ApplyFrom: l.loadRows, Limits: l.Limits(), Files: journalFiles{s}}
	return l
}

// wholeFiles reports whether each file is written once, as a whole, and never appended to.
func (l *rollingSink) wholeFiles() bool { return l.files.Format == lake.Parquet }

// Limits returns the batch limits that the URL sets. For whole files, the limits of a batch are
// those of a file, because each batch becomes one file per table.
func (l *rollingSink) Limits() sink.Limits {
	if !l.wholeFiles() {
		return limits
	}
	return sink.Limits{Rows: int(min(l.files.RollRows, 10_000_000)), Bytes: int(min(l.files.RollBytes, 1<<30)), Age: l.files.RollAge}
}

func (l *rollingSink) Probe(ctx context.Context) error { return l.probe(ctx) }
func (l *rollingSink) Close(context.Context) error     { return l.close() }

// prepareCall begins a call that uses the journal. It first runs recovery if that is needed. The
// caller holds mu.
func (l *rollingSink) prepareCall(ctx context.Context) error {
	if err := l.beginCall(ctx); err != nil {
		return err
	}
	if !l.needsRecovery {
		return nil
	}
	return l.recover()
}

// Checkpoint returns the position in the journal, or the zero position if the sink has no consumer.
func (l *rollingSink) Checkpoint(ctx context.Context) (cdc.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.env.Consumer == "" {
		return cdc.Position{}, nil
	}
	if err := l.prepareCall(ctx); err != nil {
		return cdc.Position{}, fmt.Errorf("read the checkpoint: %w", err)
	}
	return l.journal.position(), nil
}

// ResetCheckpoint sets the position back to zero. Existing files stay, and later events go to new
// files.
func (l *rollingSink) ResetCheckpoint(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.env.Consumer == "" {
		return nil
	}
	if err := l.prepareCall(ctx); err != nil {
		return fmt.Errorf("reset the checkpoint: %w", err)
	}
	if l.journal.position() == (cdc.Position{}) {
		return nil
	}
	if err := l.commit(newFileJournal(l.env)); err != nil {
		return fmt.Errorf("reset the checkpoint: %w", err)
	}
	return nil
}

// commit replaces the journal on disk and in memory with next.
func (l *rollingSink) commit(next fileJournal) error {
	if err := l.writeJournal(next); err != nil {
		l.needsRecovery = true
		return err
	}
	l.journal = next
	return nil
}

// Apply appends those events of the batch that the journal does not cover yet.
func (l *rollingSink) Apply(ctx context.Context, b *change.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.prepareCall(ctx); err != nil {
		return fmt.Errorf("append %d events: %w", len(b.Events), err)
	}
	err := l.apply(ctx, b)
	if err != nil && l.needsRecovery {
		// Readers should not see a part of a failed batch. If recovery fails now, it runs again
		// before the next batch.
		if e := l.recover(); e != nil {
			l.env.Logger.Warn("files may end in incomplete changes until they can be repaired", "error", e)
		}
	}
	return err
}

func (l *rollingSink) apply(ctx context.Context, b *change.Batch) error {
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
	l.needsRecovery = true
	if err := l.write(ctx, appends); err != nil {
		return fmt.Errorf("append %d events: %w", len(b.Events), l.forgetDirs(err))
	}
	if err := l.syncDirs(changed); err != nil {
		return fmt.Errorf("sync the directories of %d tables: %w", len(appends), l.forgetDirs(err))
	}
	next := l.journal.withPosition(l.journal.position().Advance(b.Last))
	l.updateOpen(&next, appends)
	if err := l.commit(next); err != nil {
		return err
	}
	l.needsRecovery = false
	return nil
}

// updateOpen records in j the files to which later batches append, and drops files that have
// reached the roll age.
func (l *rollingSink) updateOpen(j *fileJournal, appends []*fileAppend) {
	if l.wholeFiles() {
		return
	}
	for dir, f := range j.Open { // files of past days, or of tables without new events
		if l.now().Sub(f.Begun) >= l.files.RollAge {
			delete(j.Open, dir)
		}
	}
	for _, a := range appends {
		j.Open[a.Dir] = a.file
	}
}

// fileAppend holds the events of a batch that belong to one file.
type fileAppend struct {
	*lake.Part
	begins bool // the file is new
	file   openFile
}

func (a *fileAppend) path() string { return path.Join(a.Dir, a.file.Name) }

// maxDir is the maximum length of the name of a table's directory, in bytes.
const maxDir = 200

// plan returns the events that the journal does not cover yet, grouped by file. It does not choose
// the names of the files.
func (l *rollingSink) plan(ctx context.Context, b *change.Batch) ([]*fileAppend, error) {
	events := b.Events
	if position := l.journal.position(); l.env.Consumer != "" {
		events = slices.DeleteFunc(slices.Clone(events), func(e *cdc.Event) bool {
			return e.Position.Sequence > 0 && position.Covers(e.Position)
		})
	}
	parts, err := l.planner.Plan(ctx, events)
	all := make([]*fileAppend, len(parts))
	for i, p := range parts {
		all[i] = &fileAppend{Part: p}
	}
	return all, err
}

// prepare chooses the file of each append, creates the directories, and records the new files in
// the journal on disk. The result changed contains the directories that get new entries. The caller
// must sync these directories after the write.
func (l *rollingSink) prepare(appends []*fileAppend) (changed map[string]bool, err error) {
	changed = make(map[string]bool)
	noted := l.journal.withPosition(l.journal.position())
	for _, a := range appends {
		if err := l.chooseFile(a); err != nil {
			return nil, fmt.Errorf("find the file of table %q: %w", a.Table, err)
		}
		if err := l.makeDirs(a.path(), changed); err != nil {
			return nil, fmt.Errorf("create the directory of table %q: %w", a.Table, err)
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
		return nil, fault.Mark(fault.Transient, fmt.Errorf("create a temporary directory: %w", err))
	}
	return changed, l.commit(noted)
}

// chooseFile sets a.file to the directory's open file. If that file is missing, emptied, full or
// too old, chooseFile names a new file.
func (l *rollingSink) chooseFile(a *fileAppend) error {
	f, ok := l.journal.Open[a.Dir]
	if ok && !l.wholeFiles() && f.Rows < l.files.RollRows && f.Size < l.files.RollBytes && l.now().Sub(f.Begun) < l.files.RollAge &&
		strings.HasSuffix(f.Name, l.journal.id()+l.encoder.Extension()) {
		info, err := l.disk.stat(path.Join(a.Dir, f.Name))
		if err == nil && info.Size() >= f.Size {
			a.file = f
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return withoutNames(err)
		}
		// If the file is missing or shorter, a reader has processed it.
	}
	a.begins = true
	for n := 1; ; n++ {
		a.file = openFile{Name: l.journal.fileName(a.Events[0].Position, n, l.encoder.Extension()), Begun: l.now().UTC()}
		// A file with this name may exist from before the checkpoint was reset.
		if _, err := l.disk.stat(a.path()); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return withoutNames(err)
		}
	}
}

// write writes all appends concurrently, and updates their files' sizes.
func (l *rollingSink) write(ctx context.Context, appends []*fileAppend) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxWriters)
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

// append writes the events of a to their file, which it creates if needed, and syncs the file.
func (l *rollingSink) append(a *fileAppend) error {
	if l.wholeFiles() {
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

// beginFile creates a file with the given content. The file appears with its whole content or not
// at all.
func (l *rollingSink) beginFile(name string, text []byte) error {
	temp := l.tempName()
	if err := l.writeTemp(temp, text); err != nil {
		return err
	}
	return l.moveIntoPlace(temp, name)
}

// moveIntoPlace moves the temporary file at the path temp to the path name. If that fails, it
// removes the temporary file.
func (l *rollingSink) moveIntoPlace(temp, name string) error {
	if err := l.disk.rename(temp, name); err != nil {
		l.discard(temp)
		return withoutNames(err)
	}
	return nil
}

// writeWhole creates a file with the events of p. The file appears with its whole content or not at
// all. The content is streamed to disk, not held in memory.
func (l *rollingSink) writeWhole(name string, p *lake.Part) error {
	temp := l.tempName()
	f, err := l.disk.create(temp)
	if err != nil {
		return withoutNames(err)
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
		return withoutNames(err)
	}
	return l.moveIntoPlace(temp, name)
}

func (l *rollingSink) writeAt(name string, text []byte, offset int64) error {
	f, err := l.disk.open(name)
	if err != nil {
		return withoutNames(err)
	}
	_, err = f.WriteAt(text, offset)
	if err == nil {
		err = f.Sync()
	}
	return withoutNames(errors.Join(err, f.Close()))
}

// encode returns one line for each event of a. The lines are compressed as a single frame.
func (l *rollingSink) encode(a *fileAppend) ([]byte, error) {
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
