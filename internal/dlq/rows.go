package dlq

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// StageImport marks the entry of a row that an import could not load.
const StageImport = "import"

// rowPrefix begins the id of a row's entry.
const rowPrefix = "row-"

// Import is the import of one table, some of whose rows are entries.
type Import struct {
	Destination string // its identity
	Table       string
	Job         string // the export that the rows come from
}

// table begins the ids of all entries of rows of the table at the destination.
func (i Import) table() string { return rowPrefix + digest(i.Destination, i.Table) + "-" }

func (i Import) job() string { return i.table() + digest(i.Job) + "-" }

func (i Import) file(name string) string { return i.job() + digest(name) + "-" }

func digest(parts ...string) string { return hash(fmt.Sprintf("%q", parts))[:8] }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// PutRow adds the entry of the row that is in a line of a file of the import. When it
// returns nil the entry is durable. An entry of the same line is replaced.
func (q *Queue) PutRow(i Import, file string, line int64, e Entry) error {
	e.name = fmt.Sprintf("%s%010d", i.file(file), line)
	e.Destination, e.Table, e.Job, e.File, e.Line, e.Stage = i.Destination, i.Table, i.Job, file, line, StageImport
	return q.put(e)
}

// CountRows returns how many entries of rows the import has.
func (q *Queue) CountRows(i Import) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.named(i.job(), ""))
}

// DropFile removes the entries of the rows of a file, which is about to be loaded again.
func (q *Queue) DropFile(i Import, file string) error { return q.dropRows(i.file(file), "") }

// DropEarlier removes the entries of rows of other imports of the table: i has replaced
// all of its rows.
func (q *Queue) DropEarlier(i Import) error { return q.dropRows(i.table(), i.job()) }

func (q *Queue) dropRows(prefix, except string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, err := q.removeAll(q.named(prefix, except)); err != nil {
		return fmt.Errorf("drop rows of an import from the dead-letter queue: %w", err)
	}
	return nil
}

// named returns the entries whose name begins with prefix, and not with except unless that
// is "". The lock is held.
func (q *Queue) named(prefix, except string) []*Entry {
	var entries []*Entry
	for name, e := range q.entries {
		if strings.HasPrefix(name, prefix) && (except == "" || !strings.HasPrefix(name, except)) {
			entries = append(entries, e)
		}
	}
	return entries
}
