package reconciler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/tables"
)

// absentPatience is how long a table must be absent before eds imports it again. A script that
// rebuilds a table may rename the table for a moment.
const absentPatience = time.Minute

// Reasons why a table is no longer OK.
const (
	reasonAbsent  = "it no longer exists in the destination"
	reasonEmptied = "its rows were removed from the destination"
)

// importStats describes the latest import of a table.
type importStats struct {
	// rows is the number of imported rows, if this process applies all changes since the import.
	// Otherwise rows is 0.
	rows uint64
	took time.Duration // from the time of the snapshot until its rows were in place; 0 if unknown
}

// importedTables describes the latest import of each table in the parameter all. The details come
// from the parameter records, which holds the snapshots that the destination has recorded.
func importedTables(all map[string]continuity.ImportEvidence, records []sink.LoadRecord) map[string]importStats {
	latest := make(map[string]sink.LoadRecord)
	for _, s := range records {
		if s.Generation >= latest[s.Table].Generation {
			latest[s.Table] = s
		}
	}
	imports := make(map[string]importStats, len(all))
	for table, s := range all {
		var i importStats
		if last, ok := latest[table]; ok {
			i.took = max(last.Imported.Sub(time.Unix(0, last.Clock.Wall)), 0)
			if last.Complete() && !s.Followed {
				i.rows = uint64(max(last.Rows, 0))
			}
		}
		imports[table] = i
	}
	return imports
}

// inspection finds tables that another program has dropped or emptied. An empty table was emptied
// by another program if this process has deleted fewer rows than the import loaded, or has deleted
// no row since the last inspection that found rows. If neither number is known, as after a restart,
// the table is unverified, because changes from the stream may have deleted all rows.
type inspection struct {
	sink.Inspector
	set     *tables.Set
	imports map[string]importStats
	dir     *state.Dir
	at      state.DestinationKey
	// filled holds the tables in which the last inspection found rows. The value for a table is the
	// number of deletes that had ended before that inspection.
	filled map[string]uint64
	// unverifiedSince holds, for each unverified table, when the table became unverified. The
	// function verified reports whether a comparison that started after the given time found the
	// table equal to the source.
	unverifiedSince map[string]time.Time
	verified        func(table string, since time.Time) bool
}

// inspect returns the new states of tables that were lost, and descriptions of the unverified
// tables.
func (i *inspection) inspect(ctx context.Context, now time.Time) (lost []sink.TableState, unverified []string, err error) {
	ended := make(map[string]uint64, len(i.imports))
	for table := range i.imports {
		_, ended[table] = i.set.Deletes(table)
	}
	findings, err := i.Inspect(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("inspect the tables: %w", err)
	}
	found := make(map[string]sink.Finding, len(findings))
	for _, f := range findings {
		found[f.Table] = f
	}
	for _, t := range i.set.States() {
		if !t.State.Applies() {
			delete(ended, t.Table) // an import or a lane restores the table
			delete(i.filled, t.Table)
		}
	}
	emptied, _, err := i.dir.Tables(state.EmptiedTables, i.at)
	if err != nil {
		return nil, nil, err
	}
	before := slices.Clone(emptied)
	for _, table := range slices.Sorted(maps.Keys(ended)) {
		switch found[table].Kind {
		case sink.FoundAbsent:
			lost = append(lost, sink.TableState{
				Table: table, State: sink.Missing, Cause: sink.CauseAbsent, Reason: describeAbsence(found[table]),
				Next: now.Add(absentPatience).UTC().Truncate(time.Millisecond),
			})
		case sink.FoundEmpty:
			known, byOthers := i.emptiedBy(table)
			switch {
			case slices.Contains(emptied, table):
			case byOthers:
				lost = append(lost, sink.TableState{
					Table: table, State: sink.Incomplete, Cause: sink.CauseEmptied, Reason: reasonEmptied, Gap: reasonEmptied,
				})
			case !known:
				unverified = i.unverified(unverified, table, "is empty, and eds does not know what deleted its rows", now)
			}
			if known && !slices.Contains(emptied, table) {
				emptied = append(emptied, table)
			}
			delete(i.filled, table)
			continue
		case sink.FoundLocked: // the next inspection may succeed
			continue
		case sink.FoundAnother:
			unverified = i.unverified(unverified, table, "is not the table that was imported", now)
		default:
			i.filled[table] = ended[table]
			delete(i.unverifiedSince, table)
		}
		emptied = slices.DeleteFunc(emptied, func(name string) bool { return name == table })
	}
	if !slices.Equal(emptied, before) {
		err = i.dir.SetTables(state.EmptiedTables, i.at, emptied)
	}
	return lost, unverified, err
}

// unverified records the table as unverified, and appends a description of the problem to the given
// list. If a comparison has verified the table since then, unverified appends nothing.
func (i *inspection) unverified(all []string, table, problem string, now time.Time) []string {
	since, ok := i.unverifiedSince[table]
	if !ok {
		since = now
		i.unverifiedSince[table] = since
	}
	if i.verified(table, since) {
		return all
	}
	return append(all, table+" "+problem)
}

// describeAbsence returns the reason why a table is absent, given the finding about that table.
func describeAbsence(f sink.Finding) string {
	if f.Other == "" {
		return reasonAbsent
	}
	return f.Other + " has its name in the destination: drop or rename it"
}

// emptiedBy reports whether eds knows which program deleted the rows of an empty table, and whether
// that program is not eds.
func (i *inspection) emptiedBy(table string) (known, byOthers bool) {
	begun, _ := i.set.Deletes(table)
	ended, seen := i.filled[table]
	rows := i.imports[table].rows
	return seen || rows > 0, seen && begun == ended || begun < rows
}

// inspect runs an inspection, marks the tables that were lost, and updates the warning about
// unverified tables.
func (h *healer) inspect(ctx context.Context) error {
	if h.inspection == nil {
		h.Health.Warn("tables", "")
		return nil
	}
	lost, unverified, err := h.inspection.inspect(ctx, time.Now())
	if len(lost) > 0 { // even if the list of emptied tables could not be stored
		err = errors.Join(err, h.set.Mark(ctx, h.destination, lost))
	}
	if err != nil {
		return err
	}
	warning := describeUnverified(unverified)
	h.Health.Warn("tables", warning)
	if warning != "" && warning != h.warned {
		h.Logger.Warn(warning)
	}
	h.warned = warning
	return nil
}

// describeUnverified returns a warning about unverified tables, or "" if there are none.
func describeUnverified(tables []string) string {
	if len(tables) == 0 {
		return ""
	}
	return fmt.Sprintf("unverified: table %s; to compare the destination with the source, run: eds verify", sink.Names(tables))
}
