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

// QueueLimits are the limits of a queue.
type QueueLimits struct {
	// Bytes is the maximum disk space of the queue in bytes. Each file counts as at least 4
	// KiB.
	Bytes int64
	// Age is the maximum age of an entry, counted from its rejection. SupersededAge is the
	// maximum age of a superseded entry.
	Age, SupersededAge time.Duration
}

// DefaultLimits are the limits of a new Queue.
var DefaultLimits = QueueLimits{Bytes: 256 << 20, Age: 90 * 24 * time.Hour, SupersededAge: 7 * 24 * time.Hour}

// ErrFull means that the queue has no room for another entry.
var ErrFull = fault.Mark(fault.Fatal, errors.New("the dead-letter queue is full; see: eds dlq list, and replay or drop entries"))

// block is the smallest amount of disk space that a file occupies, in bytes.
const block = 4096

// headerSize is an estimate for the size of the first line of a file, in bytes.
const headerSize = 1024

// space returns the disk space that the entry occupies, in bytes.
func (e *Entry) space() int64 { return (int64(e.Size) + headerSize + block - 1) / block * block }

// makeRoom deletes superseded entries, oldest first, until there is room for e. It returns ErrFull
// if there are too few superseded entries. The caller holds mu.
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

// room returns two results: the superseded entries that must be deleted to make room for e, and
// whether their deletion makes enough room. The caller holds mu.
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

// supersededByAge returns the superseded entries in the order of their rejection. The caller
// holds mu.
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

// DropSuperseded deletes the superseded entries that are older than Limits.SupersededAge.
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

// Expired returns the sorted names of the tables that have expired entries. An entry is expired
// if it is older than Limits.Age and the destination lacks it or may lack it. Once the caller
// has recorded that these tables lack data, it calls DropExpired.
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

// DropExpired deletes the expired entries of the given tables for the destination.
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

// storeDelay is the maximum time from the commit of a change until the stream stores it,
// including the difference between the two clocks.
const storeDelay = 15 * time.Minute

// Replaced records that an import has replaced all rows of the table at the destination. The
// parameter clock is the time of the import's snapshot. Entries of changes up to that time are
// superseded.
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
		// If an entry has no commit time, the stored time gives a bound for it: a change is
		// committed before it is stored.
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
