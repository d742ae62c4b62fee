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

// indexName is the name of the index, a file with one line of JSON per entry. If an entry has
// several lines, the last one counts. The index only saves time: an entry that is missing in
// the index, or whose file has changed since, is read from its own file.
const indexName = "index"

// timeResolution is the coarsest resolution of a directory's modification time. Two changes
// within this time may leave the same modification time.
const timeResolution = 2 * time.Second

// indexed is a line of the index. It has the summary of an entry, and the size and modification
// time by which a change of the entry's file is detected.
type indexed struct {
	Name     string    `json:"name"`
	FileSize int64     `json:"fileSize"`
	Modified time.Time `json:"modified"`
	Entry    Entry     `json:"entry"`
}

// summary returns a copy of the entry without the fields that only its file has.
func (e *Entry) summary() Entry {
	kept := *e
	kept.Subject, kept.Operation, kept.EventID, kept.Reason, kept.Encoding = "", "", "", "", ""
	kept.Payload, kept.File, kept.Line = nil, "", 0
	return kept
}

func (q *Queue) indexPath() string { return filepath.Join(q.dir, indexName) }

// load fills the queue's memory from its directory. It uses the index, and reads the files that
// are not in the index.
func (q *Queue) load() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	known, lines := q.readIndex()
	q.lines = lines
	if err := q.scan(known); err != nil {
		return err
	}
	// Errors are ignored, because Open can do without an index.
	if len(q.entries) == 0 {
		_ = os.Remove(q.indexPath())
	} else if lines > 2*len(q.entries) || len(known) < len(q.entries) {
		_ = q.writeIndex()
	}
	return nil
}

// Refresh updates the queue's memory with the changes that other processes have made to the
// directory.
func (q *Queue) Refresh() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refresh()
}

// refresh implements Refresh. The caller holds mu.
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

// scan updates the queue's entries to match the files of the directory. The caller passes the
// index as a map, and holds mu.
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
			continue // dropped since the directory was read
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
	if q.seen = info.ModTime(); time.Since(q.seen) < timeResolution { // another change may leave the same time
		q.seen = time.Time{}
	}
	return nil
}

// find returns the summary of the entry in the file with the given name. It takes the summary from
// the index if the index is up to date for this file, and from the file otherwise.
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

// readIndex returns the lines of the index, keyed by entry name, and the number of lines.
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

// line returns the index line for an entry, or an error. A damaged entry gets no line, because
// its file may be restored with the same size and time.
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

// appendLine appends a line for an entry to the index. It ignores errors: an entry without a line is
// read from its file.
func (q *Queue) appendLine(e *Entry) {
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

// spareLines is the number of outdated lines that the index may have without being rewritten,
// even if the queue has no entries.
const spareLines = 1000

// writeIndex rewrites the index with one line for each entry.
func (q *Queue) writeIndex() error {
	var all bytes.Buffer
	for _, e := range q.entries {
		text, err := q.line(e)
		if err == nil {
			_, _ = all.Write(text) // cannot fail
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

// digits is the length of an id in hexadecimal digits. Even among a million entries, two ids
// are rarely equal.
const digits = 12

// idOf returns the id of the entry with the given name.
func idOf(name string) string { return hash(name)[:digits] }

// Short returns the number of leading digits that distinguish the ids of all entries. It is at
// least 6.
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
