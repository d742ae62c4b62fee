package dlq

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The index is a file of one line of JSON per entry, the last one of an entry counting.
// It only saves time: an entry that it does not have, or whose file has changed since, is
// read from its file.
const indexName = "index"

// timeResolution is how far the times of two changes of a directory are apart at least, if
// they differ.
const timeResolution = 2 * time.Second

// indexed is a line of the index: an entry without what only its file has, and by what it
// is known that the file is still the same.
type indexed struct {
	Name     string    `json:"name"`
	FileSize int64     `json:"fileSize"`
	Modified time.Time `json:"modified"`
	Entry    Entry     `json:"entry"`
}

// summary returns the entry without what only its file has.
func (e *Entry) summary() Entry {
	kept := *e
	kept.Subject, kept.Operation, kept.EventID, kept.Reason, kept.Encoding = "", "", "", "", ""
	kept.Payload, kept.File, kept.Line = nil, "", 0
	return kept
}

func (q *Queue) indexPath() string { return filepath.Join(q.dir, indexName) }

// load reads the queue's directory: the index, and the files that are not in it.
func (q *Queue) load() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	known, lines := q.readIndex()
	q.lines = lines
	if err := q.scan(known); err != nil {
		return err
	}
	// The files are the truth, and the next Open can do without an index.
	if len(q.entries) == 0 {
		_ = os.Remove(q.indexPath())
	} else if lines > 2*len(q.entries) || len(known) < len(q.entries) {
		_ = q.writeIndex()
	}
	return nil
}

// Refresh finds what other processes have added to the directory or removed from it.
func (q *Queue) Refresh() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refresh()
}

// refresh is Refresh. The lock is held.
func (q *Queue) refresh() error {
	info, err := os.Stat(q.dir)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(q.seen) {
		return nil
	}
	return q.scan(nil)
}

// scan makes the entries what the directory has. The lock is held.
func (q *Queue) scan(known map[string]indexed) error {
	info, err := os.Stat(q.dir)
	if err != nil {
		return err
	}
	names, err := q.names()
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		var e Entry
		e.identify(name)
		there[e.name] = true
		if have := q.entries[e.name]; have != nil && (have.State == Superseded) == (e.State == Superseded) {
			continue
		}
		if e, err = q.find(name, known); errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile
		}
		if err != nil {
			return err
		}
		q.enter(&e)
	}
	for name := range q.entries {
		if !there[name] {
			q.leave(name)
		}
	}
	if q.seen = info.ModTime(); time.Since(q.seen) < timeResolution { // another change may have the same time
		q.seen = time.Time{}
	}
	return nil
}

// find returns an entry by the index if it tells, else by its file.
func (q *Queue) find(name string, known map[string]indexed) (Entry, error) {
	var e Entry
	e.identify(name)
	if line, ok := known[e.name]; ok {
		info, err := os.Lstat(filepath.Join(q.dir, name))
		if err != nil {
			return e, err
		}
		if info.Size() == line.FileSize && info.ModTime().Equal(line.Modified) {
			line.Entry.identify(name)
			return line.Entry, nil
		}
	}
	e, err := q.read(name, false)
	return e.summary(), err
}

// readIndex returns the index, by name, and how many lines it has.
func (q *Queue) readIndex() (map[string]indexed, int) {
	if info, err := os.Lstat(q.indexPath()); err == nil && !info.Mode().IsRegular() { // another kind may block, or have no end
		_ = os.Remove(q.indexPath())
	}
	f, err := os.Open(q.indexPath())
	if err != nil {
		return nil, 0
	}
	defer func() { _ = f.Close() }()
	known, lines := make(map[string]indexed), 0
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		text, err := r.ReadBytes('\n')
		var line indexed
		if err == nil && json.Unmarshal(text, &line) == nil {
			known[line.Name] = line
			lines++
		}
		if err != nil {
			return known, lines
		}
	}
}

// line returns the line of the index of an entry. A damaged one has none: its file may be
// restored, with its size and time.
func (q *Queue) line(e *Entry) ([]byte, error) {
	if e.Stage == stageDamaged {
		return nil, errors.New("the entry is damaged")
	}
	extension := live
	if e.State == Superseded {
		extension = superseded
	}
	info, err := os.Lstat(q.path(e.name, extension))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(indexed{e.name, info.Size(), info.ModTime(), *e})
	return append(text, '\n'), err
}

// note appends an entry to the index. If that fails, it is read from its file.
func (q *Queue) note(e *Entry) {
	text, err := q.line(e)
	if err != nil {
		return
	}
	f, err := os.OpenFile(q.indexPath(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	_, _ = f.Write(text)
	_ = f.Close()
	if q.lines++; q.lines > 2*len(q.entries)+spareLines {
		_ = q.writeIndex()
	}
}

// spareLines is how many lines of entries that are gone the index has in any case.
const spareLines = 1000

// writeIndex rewrites the index of all entries.
func (q *Queue) writeIndex() error {
	var all bytes.Buffer
	for _, e := range q.entries {
		text, err := q.line(e)
		if err == nil {
			_, _ = all.Write(text) // into memory
		}
	}
	f, err := os.CreateTemp(q.dir, temporary+"*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &all)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	q.lines = len(q.entries)
	return os.Rename(f.Name(), q.indexPath())
}

// digits is how many digits an id has: of a million entries two rarely have the same.
const digits = 12

// idOf returns the id of the entry whose file has the given name.
func idOf(name string) string { return hash(name)[:digits] }

// Short returns how many digits of the ids tell the entries apart, at least six.
func (q *Queue) Short() (int, error) {
	names, err := q.names()
	if err != nil {
		return 0, err
	}
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i] = idOf(entryName(name))
	}
	slices.Sort(ids)
	least := 6
	for i := 1; i < len(ids); i++ {
		for least < digits && ids[i][:least] == ids[i-1][:least] {
			least++
		}
	}
	return least, nil
}
