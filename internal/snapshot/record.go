package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// awaitWriters checks that no server writes to the destination. If a server applied changes while a
// table is loaded, these changes would be lost when the table's rows are replaced.
func (r *importRun) awaitWriters(ctx context.Context) error {
	recorder := r.sink.Recorder
	if recorder == nil || r.cfg.DryRun || r.cfg.SchemaOnly {
		return nil
	}
	if err := recorder.AwaitWriters(ctx, true); err != nil {
		return fmt.Errorf("nothing was imported: %w; an import must run while no server writes: "+
			"stop the server there, run eds import, and start it again", err)
	}
	return nil
}

// readRecords reads the records of a destination that keeps records. If the destination only holds
// an id, readRecords calls holdID instead.
func (r *importRun) readRecords(ctx context.Context) error {
	if r.sink.Identifier != nil {
		return r.holdID(ctx, r.sink.Identifier)
	}
	recorder := r.sink.Recorder
	if recorder == nil {
		return nil
	}
	records, err := recorder.Records(ctx)
	if err != nil {
		return err
	}
	if records.Unavailable != nil {
		r.cfg.Logger.WarnContext(ctx, "the destination keeps no records, so eds may not notice a restored or replaced database",
			"error", records.Unavailable)
		return nil
	}
	r.recorder, r.snapshots, r.id = recorder, records.Snapshots, cmp.Or(records.ID, r.cfg.ID)
	if r.id == r.cfg.ID {
		return nil
	}
	return r.cfg.State.RecordDestinationID(r.cfg.Destination.Identity, r.id)
}

// reloadLost restarts the import of tables that an earlier run had finished, if the destination has
// lost these tables since. The destination may have been emptied, restored from a backup, or
// replaced.
func (r *importRun) reloadLost(ctx context.Context) error {
	done := slices.DeleteFunc(slices.Clone(r.wanted), func(name string) bool { return !r.imp.Tables[name].Done })
	lost, err := r.lost(done, r.snapshots)
	if err != nil || len(lost) == 0 {
		return err
	}
	r.cfg.Logger.WarnContext(ctx, "the destination has lost tables that this import had put in place; loading them again", "tables", lost)
	return r.reopen(lost)
}

// lost returns the imported tables whose snapshots the destination has lost from its records. If
// the destination has a record of a later import of a table, that table is not lost.
func (r *importRun) lost(imported []string, recorded []sink.LoadRecord) ([]string, error) {
	if r.recorder == nil || len(imported) == 0 {
		return nil, nil
	}
	known, err := r.cfg.State.Snapshots(r.cfg.Destination)
	return slices.DeleteFunc(slices.Clone(imported), func(name string) bool {
		own := known[name]
		return own.ID == "" || slices.ContainsFunc(recorded, func(s sink.LoadRecord) bool {
			return s.Table == name && (s.Job == own.Job || s.Imported.After(r.imp.Started))
		})
	}), err
}

// reopen resets the recorded progress of tables, so that they are imported again.
func (r *importRun) reopen(tables []string) error {
	for _, name := range tables {
		t := state.ImportTable{Job: r.imp.Tables[name].Job}
		if err := r.cfg.State.RecordTable(name, t); err != nil {
			return err
		}
		r.imp.Tables[name] = t
	}
	return nil
}

// holdID stores the id in the destination. A destination that has lost its id lacks all tables that
// are not part of this import. In that case, holdID stores no id, so that the server notices the
// loss when it continues.
func (r *importRun) holdID(ctx context.Context, identifier sink.Identifier) error {
	known, err := r.cfg.State.HeldID(r.cfg.Destination.Identity)
	if err != nil {
		return err
	}
	if known != "" {
		held, err := identifier.ID(ctx)
		if err != nil || held != known {
			return err
		}
	}
	r.held, err = HoldID(ctx, identifier, r.cfg.State, r.cfg.Destination)
	return err
}

// HoldID stores an id in the destination if it has none, records the id in the data directory, and
// returns the id.
func HoldID(ctx context.Context, identifier sink.Identifier, dir *state.Dir, at state.DestinationKey) (string, error) {
	if err := identifier.SetID(ctx); err != nil {
		return "", err
	}
	id, err := identifier.ID(ctx)
	if err != nil || id == "" {
		return "", err
	}
	return id, dir.RecordHeldID(at.Identity, id)
}

// record makes the load record the snapshot in the destination at the moment when the load puts the
// rows in place. The snapshot has every change of the stream up to the position in the parameter
// applied. record returns the id of the destination, or "" if the destination neither records
// snapshots nor holds an id.
func (t *tableImport) record(load sink.Load, applied cdc.Position) string {
	if t.held != "" {
		return t.held
	}
	recording, ok := load.(sink.SnapshotLoad)
	if !ok || t.recorder == nil || !recording.Record(sink.LoadRecord{
		Table: t.table.Name, Scope: t.scope(), Merged: t.mode == sink.Merge, Clock: t.export.clock, Job: t.job, Applied: applied,
	}) {
		return ""
	}
	return t.id
}

// scope returns the scope of the imported rows: the selected companies, locations and start time.
func (r *importRun) scope() sink.Scope {
	sorted := func(ids []string) []string { return slices.Compact(slices.Sorted(slices.Values(ids))) }
	s := sink.Scope{Companies: sorted(r.cfg.CompanyIDs), Locations: sorted(r.cfg.LocationIDs)}
	if !r.cfg.TimeOffset.IsZero() {
		s.Since = r.cfg.TimeOffset.UTC().Truncate(time.Millisecond)
	}
	return s
}

// finishWhole records that every table of the source was imported, at least for some companies. If
// the destination has lost a table since, finishWhole returns an error, and the import remains
// unfinished.
func (r *importRun) finishWhole(ctx context.Context, imported []string) error {
	source := slices.Collect(maps.Keys(r.tables))
	if r.recorder != nil {
		err := r.retry(ctx, "record the import", func() error { return r.finishRecords(ctx, imported, source) })
		if err != nil {
			return err
		}
	}
	if err := r.cfg.State.SetTables(state.SourceTables, r.cfg.Destination, source); err != nil {
		return err
	}
	if r.partial() { // the data directory does not record companies
		return r.cfg.State.FinishImport()
	}
	return r.cfg.State.FinishWholeImport(r.cfg.Destination, imported, source)
}

func (r *importRun) finishRecords(ctx context.Context, imported, source []string) error {
	records, err := r.recorder.Records(ctx)
	if err != nil {
		return err
	}
	lost, err := r.lost(imported, records.Snapshots)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		err := fmt.Errorf("the destination has lost tables since they were imported: %s; run eds import again", strings.Join(lost, ", "))
		return errors.Join(fault.Mark(fault.Fatal, err), r.reopen(lost))
	}
	return r.recorder.FinishImport(ctx, r.scope(), imported, source)
}
