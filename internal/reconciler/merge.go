package reconciler

import (
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// rowsOf names the rows of one company in a table. The company may be AllCompanies.
type rowsOf struct{ table, company string }

// merged returns one snapshot per table of those that a destination records, for a server
// of the granted companies. If there is a checkpoint, some snapshots have been followed.
// Imports that replaced the rows of each granted company are as good as one of all rows.
func merged(records []sink.Snapshot, granted []string, checkpoint *sink.Recorded) map[string]continuity.Snapshot {
	var followed int64
	if checkpoint != nil {
		followed = checkpoint.Followed
	}
	latest := replaced(records, granted)
	all := make(map[string]continuity.Snapshot)
	begun := make(map[string]bool) // some of the replaced rows have been followed
	for _, s := range records {
		if !slices.ContainsFunc(granted, func(company string) bool {
			return s.Replaces(company) && s.Generation == latest[rowsOf{s.Table, company}]
		}) {
			continue
		}
		complete := !slices.ContainsFunc(granted, func(company string) bool { return latest[rowsOf{s.Table, company}] == 0 })
		now := continuity.Snapshot{Clock: s.Clock, Followed: s.Generation <= followed, Partial: !complete, Whole: s.Whole}
		begun[s.Table] = begun[s.Table] || now.Followed
		if before, ok := all[s.Table]; ok {
			now.Followed, now.Whole, now.Clock = now.Followed && before.Followed, now.Whole && before.Whole, earlier(now.Clock, before.Clock)
		}
		all[s.Table] = now
	}
	pending := make(map[string]sink.Snapshot) // that are not followed, with the earliest clock
	for _, s := range records {
		if _, ok := all[s.Table]; !ok {
			all[s.Table] = continuity.Snapshot{Clock: s.Clock, Followed: s.Generation <= followed, Partial: true, Whole: s.Whole}
		}
		if s.Generation <= followed || superseded(&s, granted, latest) {
			continue
		}
		if other, ok := pending[s.Table]; ok {
			s.Clock, s.Applied = earlier(other.Clock, s.Clock), cdc.Position{}
		}
		pending[s.Table] = s
	}
	for table, p := range pending {
		s := all[table]
		// If the table was complete and followed, what was added later is a part.
		s.Partial = s.Partial || begun[table]
		s.Clock, s.Followed, s.Applied = p.Clock, false, p.Applied
		all[table] = s
	}
	return all
}

// replaced returns the generation of the latest snapshot that replaced a company's rows.
func replaced(records []sink.Snapshot, granted []string) map[rowsOf]int64 {
	latest := make(map[rowsOf]int64)
	for _, s := range records {
		for _, company := range granted {
			if s.Replaces(company) {
				latest[rowsOf{s.Table, company}] = max(latest[rowsOf{s.Table, company}], s.Generation)
			}
		}
	}
	return latest
}

// superseded reports whether later snapshots have replaced all rows of s that are of the
// granted companies.
func superseded(s *sink.Snapshot, granted []string, latest map[rowsOf]int64) bool {
	return !slices.ContainsFunc(granted, func(company string) bool {
		concerned := company == AllCompanies || s.Scope.Companies == nil || slices.Contains(s.Scope.Companies, company)
		return concerned && latest[rowsOf{s.Table, company}] <= s.Generation
	})
}

func earlier(a, b cdc.Timestamp) cdc.Timestamp {
	if a.Compare(b) < 0 {
		return a
	}
	return b
}

// partial returns the tables, sorted, of which the imports have not loaded all rows of
// each granted company.
func partial(records []sink.Snapshot, granted []string) []string {
	var tables []string
	for _, s := range records {
		lacks := slices.ContainsFunc(granted, func(company string) bool {
			return !slices.ContainsFunc(records, func(o sink.Snapshot) bool { return o.Table == s.Table && o.Scope.Has(company) })
		})
		if lacks && !slices.Contains(tables, s.Table) {
			tables = append(tables, s.Table)
		}
	}
	slices.Sort(tables)
	return tables
}
