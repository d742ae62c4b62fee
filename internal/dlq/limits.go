package dlq

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// Limits bound a queue.
type Limits struct {
	// Bytes is how much of the disk it takes, each file at least 4 KiB.
	Bytes int64
	// Age is for how long an entry is kept that is not superseded, SupersededAge for how
	// long one that is.
	Age, SupersededAge time.Duration
}

// DefaultLimits are those of a queue unless changed.
var DefaultLimits = Limits{Bytes: 256 << 20, Age: 90 * 24 * time.Hour, SupersededAge: 7 * 24 * time.Hour}

// ErrFull says that the queue has no room for another entry.
var ErrFull = fault.Mark(fault.Fatal, errors.New("the dead-letter queue is full; see: eds dlq list, and replay or drop entries"))

// block is what a file takes of the disk at least, in bytes.
const block = 4096

// headerSize is about what the first line of a file takes, in bytes.
const headerSize = 1024

// space returns how much of the disk an entry takes, in bytes.
func (e *Entry) space() int64 { return (int64(e.Size) + headerSize + block - 1) / block * block }

// makeRoom deletes superseded entries, the oldest first, until there is room for e. The
// lock is held.
func (q *Queue) makeRoom(e *Entry) error {
	gone, ok := q.room(e)
	if !ok {
		if err := q.refresh(); err != nil { // another process may have dropped entries
			return err
		}
		gone, ok = q.room(e)
	}
	if !ok {
		return ErrFull
	}
	_, err := q.removeAll(gone)
	return err
}

// room returns the entries whose deletion makes room for e, if there is or may be any. The
// lock is held.
func (q *Queue) room(e *Entry) (gone []*Entry, ok bool) {
	need := e.space()
	if was := q.entries[e.name]; was != nil {
		need -= was.space()
	}
	room := q.Limits.Bytes - q.bytes
	if room >= need {
		return nil, true
	}
	for _, old := range q.supersededByAge() {
		if old.name != e.name && room < need {
			gone = append(gone, old)
			room += old.space()
		}
	}
	return gone, room >= need
}

// supersededByAge returns the superseded entries, those that were rejected first coming
// first. The lock is held.
func (q *Queue) supersededByAge() []*Entry {
	var all []*Entry
	for _, e := range q.entries {
		if e.State == Superseded {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *Entry) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.name, b.name)) })
	return all
}

// DropSuperseded deletes the superseded entries that are too old.
func (q *Queue) DropSuperseded(now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var gone []*Entry
	for _, e := range q.entries {
		if e.State == Superseded && now.Sub(e.Time) >= q.Limits.SupersededAge {
			gone = append(gone, e)
		}
	}
	_, err := q.removeAll(gone)
	return err
}

// Expired returns the tables, sorted, of entries that the destination lacks or may lack and
// that are too old. DropExpired deletes these once it is recorded that the tables lack them.
func (q *Queue) Expired(destination string, now time.Time) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	tables := make(map[string]bool)
	for _, e := range q.entries {
		if e.Table != "" && q.expired(e, destination, now) {
			tables[e.Table] = true
		}
	}
	return slices.Sorted(maps.Keys(tables))
}

func (q *Queue) expired(e *Entry, destination string, now time.Time) bool {
	return e.State != Superseded && now.Sub(e.Time) >= q.Limits.Age && e.of(destination)
}

// DropExpired deletes the entries of the tables at the destination that are too old.
func (q *Queue) DropExpired(destination string, tables []string, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var gone []*Entry
	for _, e := range q.entries {
		if q.expired(e, destination, now) && slices.Contains(tables, e.Table) {
			gone = append(gone, e)
		}
	}
	_, err := q.removeAll(gone)
	return err
}

// storeDelay bounds for how long a change may have been committed when its message is
// stored in the stream, and how far the clocks of the two may be apart.
const storeDelay = 15 * time.Minute

// Replaced records that an import has replaced every row of the table at the destination,
// with a snapshot that shows clock: entries of earlier changes are superseded.
func (q *Queue) Replaced(destination, table string, clock cdc.Timestamp) error {
	if q.Empty() || clock.IsZero() {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var replaced []*Entry
	for _, e := range q.entries {
		if e.State == Superseded || e.Table != table || e.Stage == StageImport || !e.of(destination) {
			continue
		}
		// What is stored was committed before; when, is not known of what cannot be read.
		shown := e.Clock.IsZero() && cdc.At(time.Unix(0, e.Stored).Add(storeDelay)).Compare(clock) <= 0
		if shown || !e.Clock.IsZero() && e.Clock.Compare(clock) <= 0 {
			replaced = append(replaced, e)
		}
	}
	if err := q.mark(replaced...); err != nil {
		return fmt.Errorf("mark entries of the dead-letter queue: %w", err)
	}
	return nil
}
