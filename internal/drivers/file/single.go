package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// fileSink writes one file per event. Each file appears with its whole content, and files appear in
// stream order. If an event is delivered again, the file of that event is replaced.
type fileSink struct {
	*fileStore
	*encode.Loader
	path *encode.Path
}

var _ sink.Sink = (*fileSink)(nil)

func newFileSink(s *fileStore, c config) *fileSink {
	o := &fileSink{fileStore: s, path: c.path}
	o.Loader = &encode.Loader{Apply: o.Apply, Limits: limits, Files: journalFiles{s}}
	return o
}

func (o *fileSink) Probe(ctx context.Context) error { return o.probe(ctx) }
func (o *fileSink) Close(context.Context) error     { return o.close() }

// eventFile is an encoded event, with the name of its file and the name of the temporary file to
// which it is written first.
type eventFile struct {
	table, name, temp string
	text              []byte
}

// Apply writes each event of the batch to its file. It first writes temporary files, and then
// renames them in stream order.
func (o *fileSink) Apply(ctx context.Context, b *change.Batch) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.beginCall(ctx); err != nil {
		return fmt.Errorf("write %d events: %w", len(b.Events), err)
	}
	all, err := o.encodeEvents(b.Events)
	if err != nil {
		return err
	}
	changed := make(map[string]bool)
	if err := o.prepareDirs(all, changed); err != nil {
		return err
	}
	if err := o.write(ctx, all); err != nil {
		o.discardAll(all)
		return fmt.Errorf("write %d events: %w", len(all), o.forgetDirs(err))
	}
	for i, f := range all {
		if err := o.disk.rename(f.temp, f.name); err != nil {
			o.discardAll(all[i:])
			return fmt.Errorf("put %d events in place: %w", len(all), o.forgetDirs(withoutNames(err)))
		}
	}
	if err := o.syncDirs(changed); err != nil {
		return fmt.Errorf("sync the directories of %d events: %w", len(all), o.forgetDirs(err))
	}
	return nil
}

// encodeEvents names and encodes the events. An error concerns a single event.
func (o *fileSink) encodeEvents(events []*cdc.Event) ([]eventFile, error) {
	all := make([]eventFile, len(events))
	for i, e := range events {
		name, err := o.path.NameOf(e)
		if err != nil {
			return nil, fault.Mark(fault.Poison, fmt.Errorf("name an event of table %q: %w", e.Table, err))
		}
		text, replaced := encode.AppendEvent(make([]byte, 0, len(e.Payload)+1), e)
		if replaced {
			o.adjusted(e.Table)
		}
		all[i] = eventFile{table: e.Table, name: name, temp: o.tempName(), text: append(text, '\n')}
	}
	return all, nil
}

// prepareDirs creates the directories of the files. The map changed receives each directory that
// gets a new entry. Before it creates anything, it checks that no file has the name of a directory
// that another file needs.
func (o *fileSink) prepareDirs(all []eventFile, changed map[string]bool) error {
	for _, find := range []func(all []eventFile) (eventFile, bool){conflictInBatch, o.conflictOnDisk} {
		if f, found := find(all); found {
			return fmt.Errorf("write an event of table %q: %w", f.table, errNameConflict)
		}
	}
	for _, f := range all {
		changed[path.Dir(f.name)] = true
		if err := o.makeDirs(f.name, changed); err != nil {
			return fmt.Errorf("create the directory of an event of table %q: %w", f.table, err)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := o.makeDirs(all[0].temp, make(map[string]bool)); err != nil {
		return fault.Mark(fault.Transient, fmt.Errorf("create a temporary directory: %w", err))
	}
	return nil
}

// conflictInBatch returns a file of the batch whose name is the directory of another file of the
// batch, if there is one.
func conflictInBatch(all []eventFile) (eventFile, bool) {
	needed := make(map[string]bool)
	for _, f := range all {
		for dir := path.Dir(f.name); !needed[dir]; dir = path.Dir(dir) {
			needed[dir] = true
		}
	}
	for _, f := range all {
		if needed[f.name] {
			return f, true
		}
	}
	return eventFile{}, false
}

// conflictOnDisk returns a file that cannot be created because its name is a directory on disk, or
// one of its directories is a file on disk. It reports whether it has found one.
func (o *fileSink) conflictOnDisk(all []eventFile) (eventFile, bool) {
	free := make(map[string]bool) // directories that this call has checked
	for _, f := range all {
		for _, dir := range parents(f.name) {
			if o.dirs[dir] || free[dir] {
				continue
			}
			if info, err := o.disk.stat(dir); err == nil && !info.IsDir() {
				return f, true
			}
			free[dir] = true
		}
		if info, err := o.disk.stat(f.name); err == nil && info.IsDir() {
			return f, true
		}
	}
	return eventFile{}, false
}

// write writes the temporary files of all events concurrently.
func (o *fileSink) write(ctx context.Context, all []eventFile) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxWriters)
	for _, f := range all {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return o.writeTemp(f.temp, f.text)
		})
	}
	return group.Wait()
}

func (o *fileSink) discardAll(all []eventFile) {
	for _, f := range all {
		o.discard(f.temp)
	}
}

// journalFiles records which files of a snapshot have been loaded, in one file per job and table.
type journalFiles struct{ *fileStore }

func (j journalFiles) table(table string) string {
	return path.Join(privateDir, "load", encode.Segment(table, 200))
}

func (j journalFiles) dir(job, table string) string {
	return path.Join(j.table(table), encode.Segment(job, 200))
}

func (j journalFiles) Files(ctx context.Context, job, table string) ([]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.beginCall(ctx); err != nil {
		return nil, err
	}
	content, err := j.disk.readFile(path.Join(j.dir(job, table), "files"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var files []string
	if err == nil {
		err = json.Unmarshal(content, &files)
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of loaded files: %w", withoutNames(err))
	}
	return files, nil
}

func (j journalFiles) Add(ctx context.Context, job, table, file string) error {
	files, err := j.Files(ctx, job, table)
	if err != nil {
		return err
	}
	content, err := json.Marshal(append(files, file))
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.replace(path.Join(j.dir(job, table), "files"), content); err != nil {
		return fmt.Errorf("record a loaded file: %w", err)
	}
	return nil
}

func (j journalFiles) Forget(ctx context.Context, table string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.beginCall(ctx); err != nil {
		return err
	}
	if err := j.removeAll(j.table(table)); err != nil {
		return fmt.Errorf("forget the loaded files: %w", err)
	}
	return nil
}
