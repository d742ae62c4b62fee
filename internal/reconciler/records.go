package reconciler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
)

// recordedEvidence holds everything that the destination and the data directory have recorded.
type recordedEvidence struct {
	continuity.Evidence
	at         state.DestinationKey
	id         string          // id of the destination; "" if unknown
	identifier sink.Identifier // nil if the destination has no id, or keeps it in its records
	recorder   sink.Recorder   // nil if the destination keeps no records
	sink.Records
	local map[string]state.ImportRecord // snapshots in the data directory, by table
	seeds []state.ImportRecord          // snapshots that only the data directory knows
}

// readRecords returns evidence with the destination's records and id.
func (r *follower) readRecords(ctx context.Context, d *Destination, destination *sink.Opened) (*recordedEvidence, error) {
	ev := &recordedEvidence{at: d.DestinationKey}
	ev.Beginning, ev.Now = r.Options.Restart, time.Now()
	recorder := destination.Recorder
	if recorder == nil {
		return ev, r.readID(ctx, destination, ev)
	}
	err := r.retry(ctx, "destination", func() (err error) {
		ev.Records, err = recorder.Records(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the records of the destination: %w", err)
	}
	if ev.at.ID, err = r.destinationID(d, ev.ID); err != nil {
		return nil, err
	}
	ev.id = ev.at.ID
	r.Health.Warn("records", unavailable(ev.Unavailable))
	if ev.Unavailable != nil {
		r.Logger.Warn("the destination keeps no records, so eds may not notice a restored or replaced database", "error", ev.Unavailable)
		return ev, nil
	}
	ev.recorder = recorder
	return ev, nil
}

// readID checks whether the destination still holds the id that the data directory has recorded.
// Only destinations that keep events, not rows, need this check.
func (r *follower) readID(ctx context.Context, destination *sink.Opened, ev *recordedEvidence) (err error) {
	if ev.identifier = destination.Identifier; ev.identifier == nil {
		return nil
	}
	if ev.id, err = r.State.HeldID(ev.at.Identity); err != nil || ev.id == "" {
		return err
	}
	err = r.retry(ctx, "destination", func() error {
		held, err := ev.identifier.ID(ctx)
		ev.Destination.Lost = held != ev.id
		return err
	})
	if err != nil {
		return fmt.Errorf("read the id of the destination: %w", err)
	}
	return nil
}

// unavailable returns a health warning that the destination keeps no records because of err. It
// returns "" if err is nil.
func unavailable(err error) string {
	if err == nil {
		return ""
	}
	return "the destination keeps no records: " + err.Error()
}

// destinationID returns the id of d. The parameter own is the id in the destination's own records,
// which takes precedence. If own is "", destinationID returns the id in the data directory.
func (r *Reconciler) destinationID(d *Destination, own string) (string, error) {
	known, err := r.State.DestinationID(d.Identity)
	if err != nil || own == "" || own == known {
		return known, err
	}
	r.Logger.Info("another destination than before is at this address", "destination", d.Masked, "id", own)
	return own, r.State.RecordDestinationID(d.Identity, own)
}

// settled returns the data directory's record of the position in the destination. The result own
// says whether the record belongs to this destination. If there is neither a record nor a
// checkpoint, settled returns the record of the previous destination, because this destination
// lacks the changes that were applied to the previous destination.
func (r *follower) settled(ev *recordedEvidence) (settled state.Settled, own bool, err error) {
	settled, own, err = r.State.Settled(r.Consumer, ev.at)
	if !own && ev.Checkpoint != nil {
		return state.Settled{}, own, err
	}
	return settled, own, err
}

// snapshots returns the snapshots that the destination holds, by table. It adds snapshots that only
// the data directory knows to ev.seeds. Such snapshots exist after an import by an earlier version.
func (r *follower) snapshots(ev *recordedEvidence) (map[string]continuity.ImportEvidence, error) {
	var err error
	if ev.local, err = r.State.Snapshots(ev.at); err != nil {
		return nil, err
	}
	all := make(map[string]continuity.ImportEvidence)
	if ev.recorder != nil {
		all = mergeSnapshots(ev.Records.Snapshots, companies(r.Filters), ev.Checkpoint)
	}
	restored := ev.ID == "" && ev.Checkpoint != nil // from a backup of an earlier version
	var lost []string
	for _, table := range slices.Sorted(maps.Keys(ev.local)) {
		snap := ev.local[table]
		_, known := all[table]
		switch {
		case ev.recorder == nil && !ev.Destination.Lost || snap.ID == "" || restored:
			ev.add(all, snap)
		case snap.ID != ev.id || known || importedWhole(ev.Records.Snapshots, snap.ImportedAt):
		case ev.CheckpointLost(): // Decide reports the loss
			all[table] = continuity.ImportEvidence{Clock: snap.Clock.Timestamp, Followed: true}
		default:
			lost = append(lost, table)
		}
	}
	if len(lost) > 0 {
		gap := &continuity.GapError{Tables: lost, All: len(all) == 0, Reason: continuity.Emptied}
		return nil, fault.Mark(fault.Fatal, gap)
	}
	return all, nil
}

// add puts a snapshot that only the data directory knows into the given map. If the destination
// should record the snapshot, add also appends it to ev.seeds. If the stream has been followed
// before, an import of the schema alone replaces no change.
func (ev *recordedEvidence) add(all map[string]continuity.ImportEvidence, snap state.ImportRecord) {
	followed := ev.Destination.Begun || ev.Position().Sequence > 0
	schemaOnly := snap.Job == "" && snap.Rows == 0 && !snap.Reference
	if _, known := all[snap.Table]; known && (snap.Reference || schemaOnly) {
		return
	}
	if ev.recorder != nil && snap.ID != "" && snap.ImportedAt.UnixNano() > ev.Checkpoint.Position.Stored {
		snap.Partial = true // the destination was restored to a state before the import
	}
	all[snap.Table] = continuity.ImportEvidence{
		Clock: snap.Clock.Timestamp, Followed: snap.Begun, Partial: snap.Partial || followed && schemaOnly,
		Whole: snap.Whole, Reference: snap.Reference,
	}
	if ev.recorder != nil && !snap.Reference && !(followed && schemaOnly) {
		ev.seeds = append(ev.seeds, snap)
	}
}

// copies returns the destination's snapshots that the data directory lacks. It leaves out the
// tables that the parameter except lists. If the destination later loses its snapshots, the copies
// in the data directory show the loss.
func (ev *recordedEvidence) copies(except []string) []state.ImportRecord {
	latest := make(map[string]state.ImportRecord)
	for _, s := range ev.Records.Snapshots {
		if slices.Contains(except, s.Table) || ev.local[s.Table].ID == ev.at.ID {
			continue
		}
		if _, ok := latest[s.Table]; ok && !s.Complete() {
			continue
		}
		latest[s.Table] = state.ImportRecord{
			Table: s.Table, Clock: state.Clock{Timestamp: s.Clock}, Job: s.Job, ID: ev.at.ID, Rows: s.Rows, ImportedAt: s.Imported,
			Partial: !s.Complete(), Whole: s.Whole,
		}
	}
	return slices.Collect(maps.Values(latest))
}

// importedWhole reports whether every table of the source was imported after the given time. If so,
// the source no longer has the tables without a record.
func importedWhole(snapshots []sink.LoadRecord, after time.Time) bool {
	return slices.ContainsFunc(snapshots, func(s sink.LoadRecord) bool { return s.Whole && s.Imported.After(after) })
}

// recordBeginning records the planned start of reading in the destination, and the resulting epoch
// in the data directory.
func (r *follower) recordBeginning(
	ctx context.Context, ev *recordedEvidence, plan continuity.Plan, source *jetstream.Source, e *continuity.Evidence,
) error {
	if ev.identifier != nil {
		id, err := snapshot.HoldID(ctx, ev.identifier, r.State, ev.at)
		return errors.Join(err, r.State.MarkRecorded(id, slices.Collect(maps.Keys(ev.Evidence.Snapshots))...))
	}
	if ev.recorder == nil {
		return nil
	}
	b := sink.Beginning{Position: startPosition(plan, source.Began(), e), Tables: ev.Records.Tables}
	var tables []string
	for _, s := range ev.seeds {
		tables = append(tables, s.Table)
		b.Snapshots = append(b.Snapshots, sink.LoadRecord{
			Table: s.Table, Merged: s.Partial, Whole: s.Whole, Clock: s.Clock.Timestamp, Rows: s.Rows,
			Job: s.Job, Imported: s.ImportedAt,
		})
	}
	if err := r.State.RecordSnapshots(ev.at, ev.copies(tables)...); err != nil {
		return err
	}
	epoch, err := ev.recorder.Begin(ctx, b)
	if err != nil {
		return fmt.Errorf("take over the destination: %w", err)
	}
	return errors.Join(r.State.RecordEpoch(ev.at.ID, epoch), r.State.MarkRecorded(ev.at.ID, tables...))
}

// startPosition returns the position before the first message to read. If the message at that
// position was not applied, its storage time is unknown, and Stored is an upper bound of its
// storage time.
func startPosition(plan continuity.Plan, at cdc.Position, e *continuity.Evidence) cdc.Position {
	switch {
	case at.Stored > 0 || at.Sequence == 0:
	case plan.Start.From == continuity.FromTime:
		at.Stored = plan.Start.Time.UnixNano()
	case plan.Start.From == continuity.FromNow:
		at.Stored = e.Now.Add(continuity.ClockMargin).UnixNano()
	case plan.Start.From == continuity.FromBeginning:
		at.Stored = e.Stream.FirstStored
	case e.Sequence() == at.Sequence:
		at.Stored = e.Stream.Stored
	}
	return at
}

// describeMissingRows returns a warning about rows of the granted companies that the destination
// lacks because they were not imported. It returns "" if there are no such rows.
func describeMissingRows(ev *recordedEvidence, granted []string) string {
	if ev.Checkpoint != nil && len(ev.Checkpoint.Added) > 0 {
		return "the rows of companies that were added are missing: " + strings.Join(companies(ev.Checkpoint.Added), ", ") +
			"; to copy them, run: eds import"
	}
	if parts := partialTables(ev.Records.Snapshots, granted); len(parts) > 0 {
		return "only some rows of these tables were imported: " + strings.Join(parts, ", ") +
			"; to copy all rows, run: eds import"
	}
	return ""
}

// companies returns the company id of each subject.
func companies(subjects []string) []string {
	ids := make([]string, len(subjects))
	for i, s := range subjects {
		ids[i] = cdc.SubjectCompany(s)
	}
	return ids
}
