package shop

import (
	"cmp"
	"encoding/json"
	"iter"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Snapshot is the state of the shop at one moment. It is immutable and safe for concurrent use. It
// shares the row images with the shop, so it needs memory only for an index of the rows.
type Snapshot struct {
	// Clock is newer than every change in the snapshot, and older than every later change.
	Clock cdc.Timestamp

	tables map[string][]slot
	owners []string
}

// Tables returns the names of the tables, in the order in which they were created.
func (s *Shop) Tables() []string {
	s.state.RLock()
	defer s.state.RUnlock()
	names := make([]string, len(s.model.tables))
	for i, t := range s.model.tables {
		names[i] = t.name()
	}
	return names
}

// Len returns the number of rows in a table.
func (sn *Snapshot) Len(table string) int { return len(sn.tables[table]) }

// Rows returns the rows of a table, ordered by the text of their keys. Each row is a JSON object,
// which the caller must not modify. If companies is not empty, only rows of these companies are
// returned. If locations is not empty, only rows of these locations are returned. A row that
// belongs to a whole company counts as a row of each of its locations.
func (sn *Snapshot) Rows(table string, companies, locations []string) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		rows := slices.Clone(sn.tables[table])
		slices.SortFunc(rows, func(a, b slot) int { return cmp.Compare(a.key, b.key) })
		for _, r := range rows {
			if len(companies) > 0 && !slices.Contains(companies, sn.owners[r.company]) {
				continue
			}
			if len(locations) > 0 && r.location != 0 && !slices.Contains(locations, sn.owners[r.location]) {
				continue
			}
			if !yield(r.image) {
				return
			}
		}
	}
}
