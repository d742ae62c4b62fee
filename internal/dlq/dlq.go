// Package dlq is the dead-letter queue: the events that can never be applied, and the
// rows that an import could not load, kept on disk with the reason until the operator
// replays or drops them.
//
// Each entry is one file of the queue's directory, readable by its owner only:
// a line of JSON, which is the entry without its payload, then the payload as
// it came. The file is named after the event's position, so that names sort in
// stream order and an event that is rejected twice is kept once; that of a row, after
// its import, file and line. Its extension
// is .event, or .superseded once a newer change of the same row has been
// applied, over which the event must not be replayed.
package dlq

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/durable"
)

// Entry is one rejected event, or one row of an import, which has no position and whose
// payload is the INSERT that stands for it, or its line if that is no row.
type Entry struct {
	ID         string    `json:"-"` // names the entry
	Superseded bool      `json:"-"` // a newer change of the row has been applied
	Sequence   uint64    `json:"sequence"`
	Stored     int64     `json:"stored"` // nanoseconds since 1970
	Subject    string    `json:"subject"`
	Table      string    `json:"table,omitempty"`     // "" where the event could not be decoded
	Operation  string    `json:"operation,omitempty"` // likewise
	EventID    string    `json:"eventId,omitempty"`
	Keys       []string  `json:"keys"`  // change.LetterKeys; none if it may concern any row of the table
	Stage      string    `json:"stage"` // what rejected it: decode, schema, apply, import
	Reason     string    `json:"reason"`
	Time       time.Time `json:"time"` // of the rejection
	Encoding   string    `json:"encoding,omitempty"`
	Size       int       `json:"size"` // of the payload, in bytes
	Payload    []byte    `json:"-"`    // filled by Show and Replay, not by List

	// Of the row of an import only:
	Destination string `json:"destination,omitempty"` // identity of the one that refused it
	Job         string `json:"job,omitempty"`         // the export that it comes from
	File        string `json:"file,omitempty"`
	Line        int64  `json:"line,omitempty"` // of the file, from 1
}

// Position returns the event's place in the stream.
func (e *Entry) Position() cdc.Position { return cdc.Position{Sequence: e.Sequence, Stored: e.Stored} }

// ErrNotFound says that the queue has no entry of the given id.
var ErrNotFound = errors.New("no such entry in the dead-letter queue")

const (
	waiting    = ".event"
	superseded = ".superseded"
)

// Queue is a dead-letter queue. It is safe for concurrent use. Other processes
// may list, show and drop entries of its directory meanwhile.
type Queue struct {
	dir string

	live atomic.Int64 // len(rows), read without the lock
	mu   sync.Mutex
	// Of the entries that are not superseded: the rows each may concern, and the
	// entries of each row.
	rows    map[string][]row
	entries map[row]map[string]cdc.Position
}

// row is what an entry may concern; the key is "" if it is not known, and so is
// the table.
type row struct{ table, key string }

// rowsOf returns the rows of a table that have the given keys; if there are none,
// any row.
func rowsOf(table string, keys []string) []row {
	if len(keys) == 0 {
		return []row{{table: table}}
	}
	rows := make([]row, len(keys))
	for i, key := range keys {
		rows[i] = row{table, key}
	}
	return rows
}

// Open opens the queue in dir, which it makes where it is missing.
func Open(dir string) (*Queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the dead-letter queue: %w", err)
	}
	q := &Queue{dir: dir, rows: make(map[string][]row), entries: make(map[row]map[string]cdc.Position)}
	for e, err := range q.List(Filter{}) {
		if err != nil {
			return nil, err
		}
		if !e.Superseded {
			q.enter(&e)
		}
	}
	return q, q.sweep()
}

// enter records that e waits. The lock is held.
func (q *Queue) enter(e *Entry) {
	q.leave(e.ID)
	rows := rowsOf(e.Table, e.Keys)
	q.rows[e.ID] = rows
	for _, r := range rows {
		if q.entries[r] == nil {
			q.entries[r] = make(map[string]cdc.Position)
		}
		q.entries[r][e.ID] = e.Position()
	}
	q.live.Store(int64(len(q.rows)))
}

// leave records that the entry waits no more. The lock is held.
func (q *Queue) leave(id string) {
	for _, r := range q.rows[id] {
		if delete(q.entries[r], id); len(q.entries[r]) == 0 {
			delete(q.entries, r)
		}
	}
	delete(q.rows, id)
	q.live.Store(int64(len(q.rows)))
}

// sweep removes the temporary files of a process that died.
func (q *Queue) sweep() error {
	left, err := filepath.Glob(filepath.Join(q.dir, temporary+"*"))
	if err != nil {
		return fmt.Errorf("open the dead-letter queue: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open the dead-letter queue: %w", err)
		}
	}
	return nil
}

// idOf names the entry of the event at p.
func idOf(p cdc.Position) string { return fmt.Sprintf("%020d-%019d", p.Sequence, p.Stored) }

// Put adds an entry. When it returns nil the entry is durable. An entry of the
// same position is replaced.
func (q *Queue) Put(e Entry) error {
	e.ID = idOf(e.Position())
	return q.put(e)
}

func (q *Queue) put(e Entry) error {
	e.Size = len(e.Payload)
	if e.Keys == nil {
		e.Keys = []string{} // they are known to be none
	}
	if err := q.write(&e); err != nil {
		return fmt.Errorf("write to the dead-letter queue: %w", err)
	}
	if err := os.Remove(q.path(e.ID, superseded)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write to the dead-letter queue: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.enter(&e)
	return nil
}

// Len returns the number of entries that wait to be replayed or dropped,
// superseded ones left out.
func (q *Queue) Len() int { return int(q.live.Load()) }

// Supersede marks, durably, the entries that a change at p of the rows with the
// given keys makes obsolete: those that may concern one of the rows, of earlier
// positions. An entry without keys stands for every row of its table, and one whose
// table is not known for every table. It costs nothing while the queue is empty.
func (q *Queue) Supersede(table string, keys []string, p cdc.Position) error {
	if q.Len() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var changed bool
	for _, r := range append(rowsOf(table, keys), row{table: table}, row{}) {
		for id, position := range q.entries[r] {
			if !older(position, p) {
				continue
			}
			if err := q.mark(id); err != nil {
				return err
			}
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return q.sync()
}

// mark renames an entry's file, so that it is superseded. The lock is held.
func (q *Queue) mark(id string) error {
	// Another process may have dropped it.
	if err := os.Rename(q.path(id, waiting), q.path(id, superseded)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mark an entry of the dead-letter queue as superseded: %w", err)
	}
	q.leave(id)
	return nil
}

func (q *Queue) sync() error {
	if err := durable.SyncDir(q.dir); err != nil {
		return fmt.Errorf("mark an entry of the dead-letter queue as superseded: %w", err)
	}
	return nil
}

// older reports whether the event at a came before the one at b. The sequence
// of a stream that was made anew is lower, though what it holds is newer.
func older(a, b cdc.Position) bool { return a.Sequence < b.Sequence || a.Stored < b.Stored }

// remove deletes an entry.
func (q *Queue) remove(e *Entry) error {
	suffix := waiting
	if e.Superseded {
		suffix = superseded
	}
	if err := os.Remove(q.path(e.ID, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leave(e.ID)
	return nil
}

func (q *Queue) path(id, suffix string) string { return filepath.Join(q.dir, id+suffix) }

// names returns the files of the queue in stream order.
func (q *Queue) names() ([]string, error) {
	dir, err := os.Open(q.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(name, temporary) || !strings.HasSuffix(name, waiting) && !strings.HasSuffix(name, superseded)
	})
	slices.Sort(names)
	return names, nil
}
