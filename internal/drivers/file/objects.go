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

// objects is the sink that writes one file an event. Files appear whole, in the
// order of the stream; that an event comes again replaces its file.
type objects struct {
	*store
	*encode.Loader
	path *encode.Path
}

var _ sink.Sink = (*objects)(nil)

func newObjects(s *store, c config) *objects {
	o := &objects{store: s, path: c.path}
	o.Loader = &encode.Loader{Apply: o.Apply, Limits: limits, Journal: journalFiles{s}}
	return o
}

func (o *objects) Probe(ctx context.Context) error { return o.probe(ctx) }
func (o *objects) Close(context.Context) error     { return o.close() }

// object is one event on its way into its file.
type object struct {
	table, name, temp string
	text              []byte
}

// Apply writes the events of the batch.
func (o *objects) Apply(ctx context.Context, b *change.Batch) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.begin(ctx); err != nil {
		return fmt.Errorf("write %d events: %w", len(b.Events), err)
	}
	all, err := o.objects(b.Events)
	if err != nil {
		return err
	}
	changed := make(map[string]bool)
	if err := o.clear(all, changed); err != nil {
		return err
	}
	if err := o.write(ctx, all); err != nil {
		o.drop(all)
		return fmt.Errorf("write %d events: %w", len(all), o.forgetDirs(err))
	}
	for i, object := range all {
		if err := o.disk.rename(object.temp, object.name); err != nil {
			o.drop(all[i:])
			return fmt.Errorf("put %d events in place: %w", len(all), o.forgetDirs(bare(err)))
		}
	}
	if err := o.syncDirs(changed); err != nil {
		return fmt.Errorf("sync the directories of %d events: %w", len(all), o.forgetDirs(err))
	}
	return nil
}

// objects encodes the events.
func (o *objects) objects(events []*cdc.Event) ([]object, error) {
	all := make([]object, len(events))
	for i, e := range events {
		name, err := o.path.NameOf(e)
		if err != nil {
			return nil, fault.Mark(fault.Poison, fmt.Errorf("name an event of table %q: %w", e.Table, err))
		}
		text, replaced := encode.AppendEvent(make([]byte, 0, len(e.Payload)+1), e)
		if replaced {
			o.adjusted(e.Table)
		}
		all[i] = object{table: e.Table, name: name, temp: o.tempName(), text: append(text, '\n')}
	}
	return all, nil
}

// clear makes sure, before anything is made, that nothing is in the way of any
// file, and then makes their directories.
func (o *objects) clear(all []object, changed map[string]bool) error {
	for _, find := range []func(all []object) (object, bool){inEachOthersWay, o.inTheWay} {
		if object, found := find(all); found {
			return fmt.Errorf("write an event of table %q: %w", object.table, errInTheWay)
		}
	}
	for _, object := range all {
		changed[path.Dir(object.name)] = true
		if err := o.makeDirs(object.name, changed); err != nil {
			return fmt.Errorf("make the directory of an event of table %q: %w", object.table, err)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := o.makeDirs(all[0].temp, make(map[string]bool)); err != nil {
		return fault.Mark(fault.Transient, fmt.Errorf("make a temporary directory: %w", err))
	}
	return nil
}

// inEachOthersWay finds an object whose file has the name of a directory that
// another one needs.
func inEachOthersWay(all []object) (object, bool) {
	needed := make(map[string]bool)
	for _, object := range all {
		for dir := path.Dir(object.name); !needed[dir]; dir = path.Dir(dir) {
			needed[dir] = true
		}
	}
	for _, object := range all {
		if needed[object.name] {
			return object, true
		}
	}
	return object{}, false
}

// inTheWay finds an object whose name something on the disk has taken that is
// no file, or below something that is no directory.
func (o *objects) inTheWay(all []object) (object, bool) {
	free := make(map[string]bool) // looked at in this call
	for _, object := range all {
		for _, dir := range parents(object.name) {
			if o.dirs[dir] || free[dir] {
				continue
			}
			if info, err := o.disk.stat(dir); err == nil && !info.IsDir() {
				return object, true
			}
			free[dir] = true
		}
		if info, err := o.disk.stat(object.name); err == nil && info.IsDir() {
			return object, true
		}
	}
	return object{}, false
}

// write writes the temporary files of all.
func (o *objects) write(ctx context.Context, all []object) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for _, object := range all {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return o.writeTemp(object.temp, object.text)
		})
	}
	return group.Wait()
}

func (o *objects) drop(all []object) {
	for _, object := range all {
		o.discard(object.temp)
	}
}

// journalFiles remembers the files of snapshots that were loaded, in one file
// for each job and table.
type journalFiles struct{ *store }

func (j journalFiles) table(table string) string {
	return path.Join(own, "load", encode.Segment(table, 200))
}

func (j journalFiles) dir(job, table string) string {
	return path.Join(j.table(table), encode.Segment(job, 200))
}

func (j journalFiles) Files(ctx context.Context, job, table string) ([]string, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.begin(ctx); err != nil {
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
		return nil, fmt.Errorf("read the record of loaded files: %w", bare(err))
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
	if err := j.begin(ctx); err != nil {
		return err
	}
	if err := j.removeAll(j.table(table)); err != nil {
		return fmt.Errorf("forget the loaded files: %w", err)
	}
	return nil
}
