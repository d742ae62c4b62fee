// Package dlq is the dead-letter queue: the events that can never be applied to a
// destination, and the rows that an import could not load, kept on disk with the reason
// until the operator replays or drops them, or the destination has something newer.
//
// Each entry is one file of the queue's directory, readable by its owner only: a line of
// JSON, which is the entry without its payload, then the payload as it came. The file is
// named after the event's position and the destination, so that names sort in stream order
// and an event that is rejected twice is kept once; that of a row, after its import, file
// and line. Its extension is .event, or .superseded once the destination has something
// newer of each of its rows. A file named index saves reading the others when the queue is
// opened.
package dlq

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/durable"
)

// State says what an entry means for the destination.
type State string

// The states.
const (
	// Waiting: the destination lacks the entry. If later changes have written one of its
	// two rows, it lacks the other part.
	Waiting State = "waiting"
	// Superseded: the destination has a later state of each row of the entry.
	Superseded State = "superseded"
	// Unknown: the destination lacks the entry, or has a later state of its rows. No key
	// could be read, or it is not known which of its rows was changed since.
	Unknown State = "unknown"
)

// Entry is one rejected event, or one row of an import, which has no position and whose
// payload is the INSERT that stands for it, or its line if that is no row.
type Entry struct {
	ID        string    `json:"-"` // names the entry: 12 hexadecimal digits
	State     State     `json:"-"`
	Sequence  uint64    `json:"sequence"`
	Stored    int64     `json:"stored"` // nanoseconds since 1970
	Subject   string    `json:"subject"`
	Table     string    `json:"table,omitempty"`     // "" where the event could not be decoded
	Operation string    `json:"operation,omitempty"` // likewise
	EventID   string    `json:"eventId,omitempty"`
	Stage     string    `json:"stage"` // what rejected it: decode, schema, apply, import
	Reason    string    `json:"reason"`
	Time      time.Time `json:"time"` // of the rejection
	Encoding  string    `json:"encoding,omitempty"`
	Size      int       `json:"size"` // of the payload, in bytes
	Payload   []byte    `json:"-"`    // filled by Show and Replay, not by List
	// Destination is the identity of the one that lacks it; "" in entries of versions that
	// did not record it: these are of every destination.
	Destination string `json:"destination,omitempty"`
	// Clock is the event's commit time; zero if it is not known.
	Clock cdc.Timestamp `json:"clock,omitzero"`

	// Keys and Rows are those of change.LetterKeys. Without keys the entry may concern any
	// row of its table.
	Keys []string   `json:"keys"`
	Rows [][]string `json:"rows,omitempty"`
	// Changed are those of the keys whose rows the destination has in a later state.
	Changed []string `json:"changed,omitempty"`

	// Of the row of an import only:
	Job  string `json:"job,omitempty"` // the export that it comes from
	File string `json:"file,omitempty"`
	Line int64  `json:"line,omitempty"` // of the file, from 1

	name string // of its file, without the extension
}

// Position returns the event's place in the stream.
func (e *Entry) Position() cdc.Position { return cdc.Position{Sequence: e.Sequence, Stored: e.Stored} }

// judge returns the state of an entry whose file is not marked.
func (e *Entry) judge() State {
	unchanged := func(row []string) bool {
		return !slices.ContainsFunc(row, func(key string) bool { return slices.Contains(e.Changed, key) })
	}
	switch {
	case len(e.Keys) == 0:
		return Unknown
	case len(e.Changed) == 0:
		return Waiting
	case len(e.Rows) > 0 && !slices.ContainsFunc(e.Rows, unchanged):
		return Superseded
	case slices.ContainsFunc(e.Changed, func(key string) bool { return !e.knows(key) }):
		return Unknown
	}
	return Waiting
}

// knows reports whether it is known which row of the entry has the key.
func (e *Entry) knows(key string) bool {
	return slices.ContainsFunc(e.Rows, func(row []string) bool { return slices.Contains(row, key) })
}

// of reports whether the entry is one of the destination with the given identity.
func (e *Entry) of(destination string) bool {
	return destination == "" || e.Destination == "" || e.Destination == destination
}

// ErrNotFound says that the queue has no entry of the given id.
var ErrNotFound = errors.New("no such entry in the dead-letter queue")

const (
	live       = ".event"
	superseded = ".superseded"
)

// Queue is a dead-letter queue. It is safe for concurrent use. Other processes
// may list, show and drop entries of its directory meanwhile.
type Queue struct {
	// Limits bound the queue. They are DefaultLimits unless changed before its use.
	Limits Limits

	dir   string
	live  atomic.Int64 // how many entries are not superseded, read without the lock
	keyed atomic.Int64 // how many of these have keys, likewise
	// newest is the highest sequence of an entry that is or was not superseded.
	newest atomic.Uint64
	mu     sync.Mutex
	// entries are all entries, by name, without what only their files have.
	entries map[string]*Entry
	// rows are the entries that are not superseded, by the rows that they may concern.
	rows   map[row]map[*Entry]struct{}
	counts map[string]Counts // by destination
	tables map[string]int    // how many of rows are of each table
	bytes  int64             // on the disk
	seen   time.Time         // when the directory last changed, as refresh has seen it
	lines  int               // of the index
}

// row is a row that an entry may concern.
type row struct{ table, key string }

// Open opens the queue in dir, which it makes where it is missing.
func Open(dir string) (*Queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the dead-letter queue: %w", err)
	}
	q := Look(dir)
	if err := errors.Join(q.sweep(), q.load()); err != nil {
		return nil, fmt.Errorf("open the dead-letter queue: %w", err)
	}
	return q, nil
}

// Look returns the queue in dir for listing, showing and dropping only. Nothing is made.
func Look(dir string) *Queue {
	return &Queue{
		dir: dir, Limits: DefaultLimits, entries: make(map[string]*Entry), rows: make(map[row]map[*Entry]struct{}),
		counts: make(map[string]Counts), tables: make(map[string]int),
	}
}

// sweep removes the temporary files of a process that died.
func (q *Queue) sweep() error {
	left, err := filepath.Glob(filepath.Join(q.dir, temporary+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// enter records an entry that is on disk. The lock is held.
func (q *Queue) enter(e *Entry) {
	q.leave(e.name)
	q.entries[e.name] = e
	q.bytes += e.space()
	q.count(e, 1)
	if e.State == Superseded {
		return
	}
	q.newest.Store(max(q.newest.Load(), e.Sequence))
	if len(e.Keys) > 0 {
		q.keyed.Add(1)
		q.tables[e.Table]++
	}
	for _, key := range e.Keys {
		r := row{e.Table, key}
		if q.rows[r] == nil {
			q.rows[r] = make(map[*Entry]struct{})
		}
		q.rows[r][e] = struct{}{}
	}
}

// leave forgets an entry. The lock is held.
func (q *Queue) leave(name string) {
	e := q.entries[name]
	if e == nil {
		return
	}
	delete(q.entries, name)
	q.bytes -= e.space()
	q.count(e, -1)
	if e.State == Superseded {
		return
	}
	if len(e.Keys) > 0 {
		q.keyed.Add(-1)
		if q.tables[e.Table]--; q.tables[e.Table] == 0 {
			delete(q.tables, e.Table)
		}
	}
	for _, key := range e.Keys {
		r := row{e.Table, key}
		if delete(q.rows[r], e); len(q.rows[r]) == 0 {
			delete(q.rows, r)
		}
	}
}

// nameOf names the entry of the event at p that a destination lacks.
func nameOf(p cdc.Position, destination string) string {
	return positionName(p) + "-" + digest(destination)
}

// positionName is the name in versions that did not record the destination.
func positionName(p cdc.Position) string { return fmt.Sprintf("%020d-%019d", p.Sequence, p.Stored) }

// Put adds an entry. When it returns nil the entry is durable. An entry of the same
// position and destination is replaced. It returns ErrFull if the queue has no room.
func (q *Queue) Put(e Entry) error {
	e.name = nameOf(e.Position(), e.Destination)
	return q.put(e)
}

func (q *Queue) put(e Entry) error {
	e.Size, e.State = len(e.Payload), e.judge()
	if e.Keys == nil {
		e.Keys = []string{} // they are known to be none
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.makeRoom(&e)
	if err == nil {
		err = q.write(&e)
	}
	if err == nil {
		err = removeFile(q.path(e.name, superseded))
	}
	if err != nil {
		return fmt.Errorf("write to the dead-letter queue: %w", err)
	}
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Empty reports whether no entry waits or is unknown.
func (q *Queue) Empty() bool { return q.live.Load() == 0 }

// Counts is how many entries a destination lacks, or may lack. Elsewhere are those that
// other destinations lack.
type Counts struct{ Waiting, Unknown, Elsewhere int }

// Lacks returns how many of the destination's there are.
func (c Counts) Lacks() int { return c.Waiting + c.Unknown }

// Count returns what the destination with the given identity lacks.
func (q *Queue) Count(destination string) Counts {
	if q.Empty() {
		return Counts{}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	c := Counts{Elsewhere: int(q.live.Load())}
	for of, n := range q.counts {
		if of == "" || destination == "" || of == destination {
			c.Waiting += n.Waiting
			c.Unknown += n.Unknown
		}
	}
	c.Elsewhere -= c.Lacks()
	return c
}

// count adds n to the count of entries like e. The lock is held.
func (q *Queue) count(e *Entry, n int) {
	c := q.counts[e.Destination]
	switch e.State {
	case Waiting:
		c.Waiting += n
	case Unknown:
		c.Unknown += n
	case Superseded:
		return
	}
	q.counts[e.Destination] = c
	q.live.Add(int64(n))
}

// Bytes returns how much of the disk the queue takes.
func (q *Queue) Bytes() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Concerns reports whether a change of the table at p may supersede an entry.
func (q *Queue) Concerns(table string, p cdc.Position) bool {
	switch {
	case q.Empty():
		return false
	case p.Sequence <= q.newest.Load(): // it may be one
		return true
	case q.keyed.Load() == 0:
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tables[table] > 0
}

// Supersede records, durably, that the destination has the rows with the given keys as of
// p, or as of an event that is itself an entry: entries of earlier positions need not be
// applied to these rows, nor that of p at all. If the event at p is rejected again, Put must
// follow.
func (q *Queue) Supersede(destination, table string, keys []string, p cdc.Position) error {
	if !q.Concerns(table, p) {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	hit := make(map[*Entry][]string)
	for _, key := range keys {
		for e := range q.rows[row{table, key}] {
			if e.of(destination) && older(e.Position(), p) && !slices.Contains(e.Changed, key) {
				hit[e] = append(hit[e], key)
			}
		}
	}
	for e, keys := range hit {
		if err := q.changed(e, keys); err != nil {
			return fmt.Errorf("mark an entry of the dead-letter queue: %w", err)
		}
	}
	// The event itself may have been an entry: changes are read again, and one that was
	// refused may be accepted.
	for _, name := range []string{nameOf(p, destination), positionName(p)} {
		if own := q.entries[name]; own != nil && own.State != Superseded {
			if err := q.mark(own); err != nil {
				return fmt.Errorf("mark an entry of the dead-letter queue: %w", err)
			}
		}
	}
	return nil
}

// Delivered records, durably, that the part of an entry that concerns the rows with the
// given keys was applied.
func (q *Queue) Delivered(destination string, p cdc.Position, keys []string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[nameOf(p, destination)]
	if e == nil || e.State == Superseded {
		return nil
	}
	if err := q.changed(e, keys); err != nil {
		return fmt.Errorf("mark an entry of the dead-letter queue: %w", err)
	}
	return nil
}

// changed records that rows of an entry have changed since. The keys are all of one change:
// if one is known to be of a row of the entry, others that only may be do not count. The
// lock is held.
func (q *Queue) changed(e *Entry, keys []string) error {
	certain := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !e.knows(key) })
	if len(certain) > 0 {
		keys = certain
	}
	next := *e
	next.Changed = append(slices.Clone(e.Changed), keys...)
	if next.judge() == Superseded {
		return q.mark(e)
	}
	whole, err := q.read(e.name+live, true)
	if errors.Is(err, fs.ErrNotExist) { // another process has dropped it
		q.leave(e.name)
		return nil
	}
	if err != nil {
		return err
	}
	if whole.Stage == stageDamaged { // meanwhile; its rest stays
		whole = whole.summary()
		q.enter(&whole)
		return nil
	}
	whole.Changed = next.Changed
	return q.write(&whole)
}

// mark renames the files of entries, so that they are superseded. The lock is held.
func (q *Queue) mark(entries ...*Entry) error {
	for _, e := range entries {
		err := os.Rename(q.path(e.name, live), q.path(e.name, superseded))
		if errors.Is(err, fs.ErrNotExist) { // another process has dropped it
			q.leave(e.name)
			continue
		}
		if err != nil {
			return err
		}
		marked := e.summary()
		marked.State = Superseded
		q.enter(&marked)
	}
	if len(entries) == 0 {
		return nil
	}
	return durable.SyncDir(q.dir)
}

// older reports whether the event at a came before the one at b. A recreated stream has
// lower sequences, though its events are newer.
func older(a, b cdc.Position) bool { return a.Sequence < b.Sequence || a.Stored < b.Stored }

// remove deletes an entry, whether or not another process has marked it meanwhile. The lock
// is held.
func (q *Queue) remove(e *Entry) error {
	for _, extension := range []string{live, superseded} {
		if err := removeFile(q.path(e.name, extension)); err != nil {
			return err
		}
	}
	q.leave(e.name)
	return nil
}

// removeAll deletes entries, durably, and returns how many. The lock is held.
func (q *Queue) removeAll(entries []*Entry) (n int, err error) {
	for _, e := range entries {
		if err := q.remove(e); err != nil {
			return n, err
		}
		n++
	}
	if n > 0 {
		return n, durable.SyncDir(q.dir)
	}
	return 0, nil
}
