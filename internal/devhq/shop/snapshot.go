package shop

import (
	"cmp"
	"encoding/json"
	"iter"
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// Snapshot is the shop as it was at one moment. It never changes, costs the
// memory of an index into the rows, and is safe for concurrent use.
type Snapshot struct {
	// Clock is the moment: it is newer than every change that the snapshot
	// holds, and older than every other.
	Clock cdc.Timestamp

	tables map[string][]slot
	places []string
}

// Tables returns the names of the tables, in the order they came to be.
func (s *Shop) Tables() []string {
	s.state.RLock()
	defer s.state.RUnlock()
	names := make([]string, len(s.model.tables))
	for i, t := range s.model.tables {
		names[i] = t.name()
	}
	return names
}

// Len returns the number of rows of a table.
func (sn *Snapshot) Len(table string) int { return len(sn.tables[table]) }

// Rows returns the rows of a table in the order of their keys' texts, each a
// JSON object that must not be written to. Only rows of the given companies are
// among them, where any are given; likewise of the given locations, where rows
// that belong to a whole company count as of all its locations.
func (sn *Snapshot) Rows(table string, companies, locations []string) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		rows := slices.Clone(sn.tables[table])
		slices.SortFunc(rows, func(a, b slot) int { return cmp.Compare(a.key, b.key) })
		for _, r := range rows {
			if len(companies) > 0 && !slices.Contains(companies, sn.places[r.company]) {
				continue
			}
			if len(locations) > 0 && r.location != 0 && !slices.Contains(locations, sn.places[r.location]) {
				continue
			}
			if !yield(r.image) {
				return
			}
		}
	}
}
