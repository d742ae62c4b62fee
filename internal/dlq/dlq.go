// Package dlq is the dead-letter queue. It keeps on disk the events that can never be applied to a
// destination, and the rows that an import could not load, each together with the reason. An entry
// stays until the operator replays or drops it, or the destination has newer data.
//
// Each entry is one file in the queue's directory, which only the file's owner can read. The
// first line is JSON, with all fields of the entry except its payload. The unchanged payload
// follows. The file of an event is named after the event's position and the destination.
// Therefore names sort in stream order, and an event that is rejected twice is kept only once.
// The file of a row is named after the row's import, file and line. The file's extension is
// .event. It becomes .superseded once the destination has newer data for each row of the entry.
// A file named index makes it unnecessary to read all other files when the queue is opened.
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

// EntryState describes whether the destination has the data of an entry.
type EntryState string

// States of entries.
const (
	// Waiting means that the destination lacks the data of the entry. If the entry moves a row
	// to another key and later changes have written one of the two keys, the destination lacks
	// the other part.
	Waiting EntryState = "waiting"
	// Superseded means that the destination has newer data for each row of the entry.
	Superseded EntryState = "superseded"
	// Unknown means that the destination either lacks the data of the entry or has newer data
	// for its rows. Either no key could be read from the entry, or it is not known which of its
	// rows has changed since.
	Unknown EntryState = "unknown"
)

// Entry is one rejected event, or one row that an import could not load. The entry of a row has
// no sequence. Its payload is the INSERT event for the row, or the line of the file if that
// line is not a row.
type Entry struct {
	ID        string     `json:"-"` // identifies the entry; 12 hexadecimal digits
	State     EntryState `json:"-"`
	Sequence  uint64     `json:"sequence"`
	Stored    int64      `json:"stored"` // time at which the stream stored the event, in nanoseconds since 1970
	Subject   string     `json:"subject"`
	Table     string     `json:"table,omitempty"`     // "" if the event could not be decoded
	Operation string     `json:"operation,omitempty"` // "" if the event could not be decoded
	EventID   string     `json:"eventId,omitempty"`
	Stage     string     `json:"stage"` // stage that rejected the entry: decode, schema, apply or import
	Reason    string     `json:"reason"`
	Time      time.Time  `json:"time"` // time of the rejection
	Encoding  string     `json:"encoding,omitempty"`
	Size      int        `json:"size"` // size of the payload in bytes
	Payload   []byte     `json:"-"`    // set by Show, Read and Replay, but not by List
	// Destination is the identity of the destination that lacks the entry. It is "" in entries that
	// were written by older versions, which did not record the destination. Such an entry counts
	// for every destination.
	Destination string `json:"destination,omitempty"`
	// Clock is the event's commit time, or zero if unknown.
	Clock cdc.Timestamp `json:"clock,omitzero"`

	// Keys and Rows are the results of change.LetterKeys. An entry without keys may concern any
	// row of its table.
	Keys []string   `json:"keys"`
	Rows [][]string `json:"rows,omitempty"`
	// Changed lists those keys for whose rows the destination has newer data.
	Changed []string `json:"changed,omitempty"`

	// Set only for a row of an import:
	Job  string `json:"job,omitempty"` // id of the export job that the row comes from
	File string `json:"file,omitempty"`
	Line int64  `json:"line,omitempty"` // line number in the file, from 1

	name string // name of the entry's file, without the extension
}

// Position returns the event's position in the stream.
func (e *Entry) Position() cdc.Position { return cdc.Position{Sequence: e.Sequence, Stored: e.Stored} }

// unmarkedState returns the state of an entry whose file does not have the extension .superseded.
func (e *Entry) unmarkedState() EntryState {
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

// of reports whether the entry belongs to the destination with the given identity. An empty
// identity, of the entry or in the argument, stands for every destination.
func (e *Entry) of(destination string) bool {
	return destination == "" || e.Destination == "" || e.Destination == destination
}

// ErrNotFound means that the queue has no entry with the given id.
var ErrNotFound = errors.New("no such entry in the dead-letter queue")

const (
	live       = ".event"
	superseded = ".superseded"
)

// Queue is a dead-letter queue. It is safe for concurrent use. At the same time other processes
// may list, show and drop entries in its directory.
type Queue struct {
	// Limits are the limits of the queue. The caller may change them from DefaultLimits before
	// the first use.
	Limits QueueLimits

	dir   string
	live  atomic.Int64 // number of entries that are not superseded; read without mu
	keyed atomic.Int64 // number of those entries that have keys; read without mu
	// newest is the highest sequence of all entries that were not superseded when they were
	// added.
	newest atomic.Uint64
	mu     sync.Mutex
	// entries maps the name of each entry to a summary. A summary lacks the fields that are only
	// in the entry's file.
	entries map[string]*Entry
	// rows maps each affected row to the entries that may concern this row and are not
	// superseded.
	rows   map[affectedRow]map[*Entry]struct{}
	counts map[string]EntryCounts // by identity of the destination
	tables map[string]int         // number of entries in rows for each table
	bytes  int64                  // disk space of all entries
	seen   time.Time              // modification time of the directory that the last scan saw, or zero
	lines  int                    // number of lines of the index file
}

// affectedRow identifies a row that an entry may concern.
type affectedRow struct{ table, key string }

// Open opens the queue in the directory dir, and creates the directory if it does not exist.
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

// Look returns the queue in the directory dir, for listing, showing and dropping entries only.
// It creates nothing.
func Look(dir string) *Queue {
	return &Queue{
		dir: dir, Limits: DefaultLimits, entries: make(map[string]*Entry), rows: make(map[affectedRow]map[*Entry]struct{}),
		counts: make(map[string]EntryCounts), tables: make(map[string]int),
	}
}

// sweep removes temporary files that an ended process has left behind.
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

// enter adds an entry to the queue's memory. The entry is already on disk. The caller holds mu.
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
		r := affectedRow{e.Table, key}
		if q.rows[r] == nil {
			q.rows[r] = make(map[*Entry]struct{})
		}
		q.rows[r][e] = struct{}{}
	}
}

// leave removes an entry from the queue's memory. The caller holds mu.
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
		r := affectedRow{e.Table, key}
		if delete(q.rows[r], e); len(q.rows[r]) == 0 {
			delete(q.rows, r)
		}
	}
}

// nameOf returns the name of the entry for the event at p and for the destination that lacks the
// event.
func nameOf(p cdc.Position, destination string) string {
	return positionName(p) + "-" + digest(destination)
}

// positionName returns the name that older versions, which did not record the destination, gave
// to the entry for the event at p.
func positionName(p cdc.Position) string { return fmt.Sprintf("%020d-%019d", p.Sequence, p.Stored) }

// Put adds the entry of an event. The entry is durable when Put returns nil. It replaces an
// existing entry with the same position and destination. Put returns ErrFull if the queue has
// no room.
func (q *Queue) Put(e Entry) error {
	e.name = nameOf(e.Position(), e.Destination)
	return q.put(e)
}

func (q *Queue) put(e Entry) error {
	e.Size, e.State = len(e.Payload), e.unmarkedState()
	if e.Keys == nil {
		e.Keys = []string{} // known to have no keys, as opposed to null in older versions
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

// Empty reports whether the queue has only superseded entries, or none.
func (q *Queue) Empty() bool { return q.live.Load() == 0 }

// EntryCounts has the numbers of entries that one destination lacks (Waiting), or may lack
// (Unknown). Elsewhere is the number of entries that other destinations lack or may lack.
type EntryCounts struct{ Waiting, Unknown, Elsewhere int }

// Lacks returns the number of entries that the destination lacks or may lack.
func (c EntryCounts) Lacks() int { return c.Waiting + c.Unknown }

// Count returns the counts for the destination with the given identity. An empty identity
// stands for all destinations.
func (q *Queue) Count(destination string) EntryCounts {
	if q.Empty() {
		return EntryCounts{}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	c := EntryCounts{Elsewhere: int(q.live.Load())}
	for of, n := range q.counts {
		if of == "" || destination == "" || of == destination {
			c.Waiting += n.Waiting
			c.Unknown += n.Unknown
		}
	}
	c.Elsewhere -= c.Lacks()
	return c
}

// count adds n to the count of entries that have the destination and state of e. The caller
// holds mu.
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

// Bytes returns the disk space that the queue occupies, in bytes.
func (q *Queue) Bytes() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Concerns reports whether a change of the table at position p may supersede an entry.
func (q *Queue) Concerns(table string, p cdc.Position) bool {
	switch {
	case q.Empty():
		return false
	case p.Sequence <= q.newest.Load(): // the event may itself be an entry
		return true
	case q.keyed.Load() == 0:
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.tables[table] > 0
}

// Supersede records durably that the destination will have the data of the event at p in the
// rows with the given keys. From then on, entries for older events need not be applied to these
// rows. If the queue has an entry for the event at p, that entry is superseded entirely. If the
// event is then rejected again, the caller must call Put.
func (q *Queue) Supersede(destination, table string, keys []string, p cdc.Position) error {
	if !q.Concerns(table, p) {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	hit := make(map[*Entry][]string)
	for _, key := range keys {
		for e := range q.rows[affectedRow{table, key}] {
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
	// The event itself may have been an entry, because events are redelivered, and an event
	// that was rejected before may now be accepted.
	for _, name := range []string{nameOf(p, destination), positionName(p)} {
		if own := q.entries[name]; own != nil && own.State != Superseded {
			if err := q.mark(own); err != nil {
				return fmt.Errorf("mark an entry of the dead-letter queue: %w", err)
			}
		}
	}
	return nil
}

// Delivered records durably that the entry at p was applied to the rows with the given keys.
// The entry's other rows are still missing at the destination.
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

// changed records that rows of the entry e have changed since the entry was rejected. The keys must
// all be keys of one change. If some of the keys certainly belong to rows of the entry, the other
// keys are ignored. The caller holds mu.
func (q *Queue) changed(e *Entry, keys []string) error {
	certain := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !e.knows(key) })
	if len(certain) > 0 {
		keys = certain
	}
	next := *e
	next.Changed = append(slices.Clone(e.Changed), keys...)
	if next.unmarkedState() == Superseded {
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
	if whole.Stage == stageDamaged { // damaged since it was read; keep the rest of the file
		whole = whole.summary()
		q.enter(&whole)
		return nil
	}
	whole.Changed = next.Changed
	return q.write(&whole)
}

// mark marks entries as superseded by renaming their files. The caller holds mu.
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

// older reports whether the event at a precedes the event at b. The events of a recreated
// stream have lower sequences, although they are newer. Therefore the times are compared, too.
func older(a, b cdc.Position) bool { return a.Sequence < b.Sequence || a.Stored < b.Stored }

// remove deletes the file of an entry, even if another process has marked the entry as
// superseded in the meantime. The caller holds mu.
func (q *Queue) remove(e *Entry) error {
	for _, extension := range []string{live, superseded} {
		if err := removeFile(q.path(e.name, extension)); err != nil {
			return err
		}
	}
	q.leave(e.name)
	return nil
}

// removeAll deletes entries durably, and returns the number of deleted entries. The caller
// holds mu.
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
