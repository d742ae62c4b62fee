package reconciler

import (
	"slices"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// rowsOf identifies the rows of one company in a table. The company may be AllCompanies.
type rowsOf struct{ table, company string }

// mergeSnapshots merges the recorded snapshots of a destination into one snapshot per table, for a
// server with access to the companies in the list granted. The checkpoint records which of the
// snapshots have been followed. If several imports together replaced the rows of each granted
// company, they count as one import of all rows.
func mergeSnapshots(records []sink.LoadRecord, granted []string, checkpoint *sink.Recorded) map[string]continuity.ImportEvidence {
	var followed int64
	if checkpoint != nil {
		followed = checkpoint.Followed
	}
	latest := latestReplacements(records, granted)
	all := make(map[string]continuity.ImportEvidence)
	begun := make(map[string]bool) // tables with a followed snapshot that replaced rows
	for _, s := range records {
		if !slices.ContainsFunc(granted, func(company string) bool {
			return s.Replaces(company) && s.Generation == latest[rowsOf{s.Table, company}]
		}) {
			continue
		}
		complete := !slices.ContainsFunc(granted, func(company string) bool { return latest[rowsOf{s.Table, company}] == 0 })
		now := continuity.ImportEvidence{Clock: s.Clock, Followed: s.Generation <= followed, Partial: !complete, Whole: s.Whole}
		begun[s.Table] = begun[s.Table] || now.Followed
		if before, ok := all[s.Table]; ok {
			now.Followed, now.Whole = now.Followed && before.Followed, now.Whole && before.Whole
			now.Clock = earlier(now.Clock, before.Clock)
		}
		all[s.Table] = now
	}
	pending := make(map[string]sink.LoadRecord) // snapshots that have not been followed yet, with their earliest clock
	for _, s := range records {
		if _, ok := all[s.Table]; !ok {
			all[s.Table] = continuity.ImportEvidence{Clock: s.Clock, Followed: s.Generation <= followed, Partial: true, Whole: s.Whole}
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
		// If a snapshot that replaced rows was followed, the pending import has replaced only some
		// rows.
		s.Partial = s.Partial || begun[table]
		s.Clock, s.Followed, s.Applied = p.Clock, false, p.Applied
		all[table] = s
	}
	return all
}

// latestReplacements returns, for each table and company, the generation of the latest snapshot
// that replaced the company's rows in the table.
func latestReplacements(records []sink.LoadRecord, granted []string) map[rowsOf]int64 {
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

// superseded reports whether later snapshots have replaced all rows of s that belong to granted
// companies.
func superseded(s *sink.LoadRecord, granted []string, latest map[rowsOf]int64) bool {
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

// partialTables returns the sorted names of the tables for which the imports have not loaded all
// rows of every granted company.
func partialTables(records []sink.LoadRecord, granted []string) []string {
	var tables []string
	for _, s := range records {
		lacks := slices.ContainsFunc(granted, func(company string) bool {
			return !slices.ContainsFunc(records, func(other sink.LoadRecord) bool {
				return other.Table == s.Table && other.Scope.Has(company)
			})
		})
		if lacks && !slices.Contains(tables, s.Table) {
			tables = append(tables, s.Table)
		}
	}
	slices.Sort(tables)
	return tables
}
