package dlq

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// StageImport is the Stage of an entry for a row that an import could not load.
const StageImport = "import"

// rowPrefix is the prefix of the names of all entries for rows.
const rowPrefix = "row-"

// EntryImport identifies the import of one table, for the entries of rows that the import could
// not load.
type EntryImport struct {
	Destination string // identity of the destination
	Table       string
	Job         string // id of the export job that the rows come from
}

// table returns the common name prefix of all entries for rows of the table at the destination.
func (i EntryImport) table() string { return rowPrefix + digest(i.Destination, i.Table) + "-" }

func (i EntryImport) job() string { return i.table() + digest(i.Job) + "-" }

func (i EntryImport) file(name string) string { return i.job() + digest(name) + "-" }

func digest(parts ...string) string { return hash(fmt.Sprintf("%q", parts))[:8] }

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// PutRow adds an entry for the row in the given line of a file of the import. The entry is
// durable when PutRow returns nil. It replaces an existing entry for the same line. PutRow
// returns ErrFull if the queue has no room.
func (q *Queue) PutRow(i EntryImport, file string, line int64, e Entry) error {
	e.name = fmt.Sprintf("%s%010d", i.file(file), line)
	e.Destination, e.Table, e.Job, e.File, e.Line, e.Stage = i.Destination, i.Table, i.Job, file, line, StageImport
	return q.put(e)
}

// CountRows returns the number of entries for rows of the import.
func (q *Queue) CountRows(i EntryImport) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.named(i.job(), ""))
}

// DropFile deletes the entries for the rows of a file that will be loaded again or is damaged.
func (q *Queue) DropFile(i EntryImport, file string) error { return q.dropRows(i.file(file), "") }

// DropEarlier deletes the entries for rows of other imports of the table, because the import i
// has replaced all rows of the table.
func (q *Queue) DropEarlier(i EntryImport) error { return q.dropRows(i.table(), i.job()) }

func (q *Queue) dropRows(prefix, except string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, err := q.removeAll(q.named(prefix, except)); err != nil {
		return fmt.Errorf("drop rows of an import from the dead-letter queue: %w", err)
	}
	return nil
}

// named returns the entries whose names have the first prefix, but not the second. If the second
// prefix is "", no entry is excluded. The caller holds mu.
func (q *Queue) named(prefix, except string) []*Entry {
	var entries []*Entry
	for name, e := range q.entries {
		if strings.HasPrefix(name, prefix) && (except == "" || !strings.HasPrefix(name, except)) {
			entries = append(entries, e)
		}
	}
	return entries
}
