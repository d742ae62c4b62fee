package dlq

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/shopmonkeyus/eds/internal/durable"
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

func digest(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return hex.EncodeToString(sum[:4])
}

// PutRow adds the entry of the row that is in a line of a file of the import. When it
// returns nil the entry is durable. An entry of the same line is replaced.
func (q *Queue) PutRow(i Import, file string, line int64, e Entry) error {
	e.ID = fmt.Sprintf("%s%010d", i.file(file), line)
	e.Destination, e.Table, e.Job, e.File, e.Line, e.Stage = i.Destination, i.Table, i.Job, file, line, StageImport
	return q.put(e)
}

// CountRows returns how many entries of rows the import has.
func (q *Queue) CountRows(i Import) (int, error) {
	entries, err := q.idsOf(i.job(), "")
	return len(entries), err
}

// DropFile removes the entries of the rows of a file, which is about to be loaded again.
func (q *Queue) DropFile(i Import, file string) error { return q.dropRows(i.file(file), "") }

// DropEarlier removes the entries of rows of other imports of the table: i has replaced
// all of its rows.
func (q *Queue) DropEarlier(i Import) error { return q.dropRows(i.table(), i.job()) }

func (q *Queue) dropRows(prefix, except string) error {
	entries, err := q.idsOf(prefix, except)
	for _, e := range entries {
		if err == nil {
			err = q.remove(&e)
		}
	}
	if err == nil && len(entries) > 0 {
		err = durable.SyncDir(q.dir)
	}
	if err != nil {
		return fmt.Errorf("drop rows of an import from the dead-letter queue: %w", err)
	}
	return nil
}

// idsOf returns the entries whose id begins with prefix, and not with except unless that
// is "". They have nothing but the id and the state.
func (q *Queue) idsOf(prefix, except string) ([]Entry, error) {
	names, err := q.names()
	if err != nil {
		return nil, fmt.Errorf("list the dead-letter queue: %w", err)
	}
	var entries []Entry
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && (except == "" || !strings.HasPrefix(name, except)) {
			e := Entry{}
			e.ID, e.Superseded = strings.CutSuffix(name, superseded)
			e.ID = strings.TrimSuffix(e.ID, waiting)
			entries = append(entries, e)
		}
	}
	return entries, nil
}
