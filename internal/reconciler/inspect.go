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

// absentPatience is for how long a table has to be absent before it is imported: scripts
// that rebuild one rename it for a moment.
const absentPatience = time.Minute

// Why a table is not OK any more.
const (
	reasonAbsent  = "it does not exist in the destination any more"
	reasonEmptied = "its rows were removed from the destination"
)

// imported is what is known of the import of a table.
type imported struct {
	// rows is how many rows it put in place, if each change since is applied by this run;
	// else 0.
	rows uint64
	took time.Duration // from the time of the snapshot until its rows were in place; 0: unknown
}

// importsOf returns the tables that were imported.
func importsOf(k *recorded) map[string]imported {
	return importedTables(k.Evidence.Snapshots, k.Records.Snapshots)
}

func importedTables(all map[string]continuity.Snapshot, records []sink.Snapshot) map[string]imported {
	latest := make(map[string]sink.Snapshot)
	for _, s := range records {
		if s.Generation >= latest[s.Table].Generation {
			latest[s.Table] = s
		}
	}
	imports := make(map[string]imported, len(all))
	for table, s := range all {
		var i imported
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

// inspection finds tables that were lost behind eds's back. A table that is empty was
// emptied by another if fewer of its rows were deleted by this run than the import had, or
// none since the last look that found rows. If neither is known, as after a restart, it is
// unverified: the stream may have deleted all rows.
type inspection struct {
	sink.Inspector
	set     *tables.Set
	imports map[string]imported
	dir     *state.Dir
	at      state.Destination
	// filled has, of the tables that the last look found rows in, how many deletes had
	// ended before it.
	filled map[string]uint64
	// doubts has the tables that are unverified, and since when; verified says whether one
	// was found equal by a comparison that began after that.
	doubts   map[string]time.Time
	verified func(table string, since time.Time) bool
}

// look returns the tables that were lost, in their new states, and what is unverified.
func (i *inspection) look(ctx context.Context, now time.Time) (lost []sink.TableState, unverified []string, err error) {
	ended := make(map[string]uint64, len(i.imports))
	for table := range i.imports {
		_, ended[table] = i.set.Deletes(table)
	}
	findings, err := i.Inspect(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look for tables that were lost: %w", err)
	}
	found := make(map[string]sink.Finding, len(findings))
	for _, f := range findings {
		found[f.Table] = f
	}
	for _, t := range i.set.States() {
		if !t.State.Applies() {
			delete(ended, t.Table) // an import or a lane brings it back
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
			lost = append(lost, sink.TableState{Table: table, State: sink.Missing, Cause: sink.CauseAbsent, Reason: absence(found[table]), Next: now.Add(absentPatience).UTC().Truncate(time.Millisecond)})
		case sink.FoundEmpty:
			known, byOthers := i.explain(table)
			switch {
			case slices.Contains(emptied, table):
			case byOthers:
				lost = append(lost, sink.TableState{Table: table, State: sink.Incomplete, Cause: sink.CauseEmptied, Reason: reasonEmptied, Gap: reasonEmptied})
			case !known:
				unverified = i.unverified(unverified, table, "is empty, and what deleted its rows is not known", now)
			}
			if known && !slices.Contains(emptied, table) {
				emptied = append(emptied, table)
			}
			delete(i.filled, table)
			continue
		case sink.FoundLocked: // the next look may know more
			continue
		case sink.FoundAnother:
			unverified = i.unverified(unverified, table, "is another table than the one that was imported", now)
		default:
			i.filled[table] = ended[table]
			delete(i.doubts, table)
		}
		emptied = slices.DeleteFunc(emptied, func(name string) bool { return name == table })
	}
	if !slices.Equal(emptied, before) {
		err = i.dir.SetTables(state.EmptiedTables, i.at, emptied)
	}
	return lost, unverified, err
}

// unverified appends what is wrong with a table, unless it was verified since.
func (i *inspection) unverified(all []string, table, problem string, now time.Time) []string {
	since, ok := i.doubts[table]
	if !ok {
		since = now
		i.doubts[table] = since
	}
	if i.verified(table, since) {
		return all
	}
	return append(all, table+" "+problem)
}

// absence says why a table is absent.
func absence(f sink.Finding) string {
	if f.Other == "" {
		return reasonAbsent
	}
	return f.Other + " has its name in the destination: drop or rename it"
}

// explain reports whether it is known who deleted the rows of an empty table, and whether
// it was another than eds.
func (i *inspection) explain(table string) (known, byOthers bool) {
	begun, _ := i.set.Deletes(table)
	ended, seen := i.filled[table]
	rows := i.imports[table].rows
	return seen || rows > 0, seen && begun == ended || begun < rows
}

// inspect marks the tables that were lost.
func (h *healer) inspect(ctx context.Context) error {
	if h.inspection == nil {
		h.Health.Warn("tables", "")
		return nil
	}
	lost, unverified, err := h.inspection.look(ctx, time.Now())
	if len(lost) > 0 { // also if the list of emptied tables could not be stored
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

// describeUnverified returns a warning, or "".
func describeUnverified(what []string) string {
	if len(what) == 0 {
		return ""
	}
	return fmt.Sprintf("unverified: table %s; to compare the destination with the source, run: eds verify", sink.Names(what))
}
