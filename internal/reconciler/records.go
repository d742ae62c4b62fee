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

// recorded is what the destination and the data directory record.
type recorded struct {
	continuity.Evidence
	at         state.Destination
	id         string          // that the destination has, or had
	identifier sink.Identifier // nil: the destination holds no id, or records it
	recorder   sink.Recorder   // nil: the destination keeps no records
	sink.Records
	local map[string]state.Snapshot // snapshots that the data directory knows, by table
	seeds []state.Snapshot          // that only the data directory knows
}

// readRecords reads what the destination records about itself.
func (r *run) readRecords(ctx context.Context, d *Destination, destination *sink.Opened) (*recorded, error) {
	k := &recorded{at: d.Destination}
	k.Beginning, k.Now = r.Options.Restart, time.Now()
	recorder := destination.Recorder
	if recorder == nil {
		return k, r.readID(ctx, destination, k)
	}
	err := r.retry(ctx, "destination", func() (err error) {
		k.Records, err = recorder.Records(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what the destination records: %w", err)
	}
	if k.at.ID, err = r.destinationID(d, k.ID); err != nil {
		return nil, err
	}
	k.id = k.at.ID
	r.Health.Warn("records", unavailable(k.Unavailable))
	if k.Unavailable != nil {
		r.Logger.Warn("the destination keeps no records, so a restored or replaced database is noticed less surely", "error", k.Unavailable)
		return k, nil
	}
	k.recorder = recorder
	return k, nil
}

// readID finds out whether a destination that keeps events still holds the id that it
// was found to hold.
func (r *run) readID(ctx context.Context, destination *sink.Opened, k *recorded) (err error) {
	if k.identifier = destination.Identifier; k.identifier == nil {
		return nil
	}
	if k.id, err = r.State.HeldID(k.at.Identity); err != nil || k.id == "" {
		return err
	}
	err = r.retry(ctx, "destination", func() error {
		held, err := k.identifier.ID(ctx)
		k.Destination.Lost = held != k.id
		return err
	})
	if err != nil {
		return fmt.Errorf("read the id of the destination: %w", err)
	}
	return nil
}

// unavailable describes why a destination keeps no records, for health.
func unavailable(err error) string {
	if err == nil {
		return ""
	}
	return "the destination keeps no records: " + err.Error()
}

// destinationID returns the id of d, whose own records say that it is found. If they do
// not, it is the one by which the data directory knows it.
func (r *Reconciler) destinationID(d *Destination, found string) (string, error) {
	known, err := r.State.DestinationID(d.Identity)
	if err != nil || found == "" || found == known {
		return known, err
	}
	r.Logger.Info("the destination is another one than the last at its address", "destination", d.Masked, "id", found)
	return found, r.State.RecordDestinationID(d.Identity, found)
}

// settled returns the data directory's record of the position in the destination. Without
// one, and without a checkpoint, that of the last destination says that this one lacks
// what was applied there.
func (r *run) settled(k *recorded) (settled state.Settled, own bool, err error) {
	settled, own, err = r.State.Settled(r.Consumer, k.at)
	if !own && k.Checkpoint != nil {
		return state.Settled{}, own, err
	}
	return settled, own, err
}

// snapshots returns what was imported into the destination, by table. Those that only
// the data directory knows, as after an import by an earlier version, are k's seeds.
func (r *run) snapshots(d *Destination, k *recorded) (map[string]continuity.Snapshot, error) {
	var err error
	if k.local, err = r.State.Snapshots(k.at); err != nil {
		return nil, err
	}
	all := make(map[string]continuity.Snapshot)
	if k.recorder != nil {
		all = merged(k.Records.Snapshots, companies(r.Filters), k.Checkpoint)
	}
	putBack := k.ID == "" && k.Checkpoint != nil // from before there were records
	var lost []string
	for _, table := range slices.Sorted(maps.Keys(k.local)) {
		snap := k.local[table]
		_, known := all[table]
		switch {
		case k.recorder == nil && !k.Destination.Lost || snap.ID == "" || putBack:
			k.add(all, snap)
		case snap.ID != k.id || known || importedWhole(k.Records.Snapshots, snap.ImportedAt):
		case k.CheckpointLost(): // which Decide reports
			all[table] = continuity.Snapshot{Clock: snap.Clock.Timestamp, Followed: true}
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

// add adds a snapshot that only the data directory knows. An import of the schema alone
// replaces no change if the stream is followed already.
func (k *recorded) add(all map[string]continuity.Snapshot, snap state.Snapshot) {
	followed := k.Destination.Begun || k.Position().Sequence > 0
	schemaOnly := snap.Job == "" && snap.Rows == 0 && !snap.Reference
	if _, known := all[snap.Table]; known && (snap.Reference || schemaOnly) {
		return
	}
	if k.recorder != nil && snap.ID != "" && snap.ImportedAt.UnixNano() > k.Checkpoint.Position.Stored {
		snap.Partial = true // the destination was put back to before the import
	}
	all[snap.Table] = continuity.Snapshot{
		Clock: snap.Clock.Timestamp, Followed: snap.Begun, Partial: snap.Partial || followed && schemaOnly, Whole: snap.Whole, Reference: snap.Reference,
	}
	if k.recorder != nil && !snap.Reference && !(followed && schemaOnly) {
		k.seeds = append(k.seeds, snap)
	}
}

// copies returns the destination's snapshots of which the data directory has none, or one
// that is not recorded there, except the given tables. If the destination loses them, the
// copies tell that.
func (k *recorded) copies(except []string) []state.Snapshot {
	latest := make(map[string]state.Snapshot)
	for _, s := range k.Records.Snapshots {
		if slices.Contains(except, s.Table) || k.local[s.Table].ID == k.at.ID {
			continue
		}
		if _, ok := latest[s.Table]; ok && !s.Complete() {
			continue
		}
		latest[s.Table] = state.Snapshot{
			Table: s.Table, Clock: state.Clock{Timestamp: s.Clock}, Job: s.Job, ID: k.at.ID, Rows: s.Rows, ImportedAt: s.Imported, Partial: !s.Complete(), Whole: s.Whole,
		}
	}
	return slices.Collect(maps.Values(latest))
}

// importedWhole reports whether every table of the source was imported after a time. A
// table without a record has left the source then.
func importedWhole(snapshots []sink.Snapshot, after time.Time) bool {
	return slices.ContainsFunc(snapshots, func(s sink.Snapshot) bool { return s.Whole && s.Imported.After(after) })
}

// begin has the destination record that reading begins as planned.
func (r *run) begin(ctx context.Context, d *Destination, k *recorded, plan continuity.Plan, source *jetstream.Source, e *continuity.Evidence) error {
	if k.identifier != nil {
		id, err := snapshot.HoldID(ctx, k.identifier, r.State, k.at)
		return errors.Join(err, r.State.MarkRecorded(id, slices.Collect(maps.Keys(k.Evidence.Snapshots))...))
	}
	if k.recorder == nil {
		return nil
	}
	b := sink.Beginning{Position: began(plan, source.Began(), e), Tables: k.Records.Tables}
	var tables []string
	for _, s := range k.seeds {
		tables = append(tables, s.Table)
		b.Snapshots = append(b.Snapshots, sink.Snapshot{
			Table: s.Table, Merged: s.Partial, Whole: s.Whole, Clock: s.Clock.Timestamp, Rows: s.Rows, Job: s.Job, Imported: s.ImportedAt,
		})
	}
	if err := r.State.RecordSnapshots(k.at, k.copies(tables)...); err != nil {
		return err
	}
	epoch, err := k.recorder.Begin(ctx, b)
	if err != nil {
		return fmt.Errorf("take the destination over: %w", err)
	}
	return errors.Join(r.State.RecordEpoch(k.at.ID, epoch), r.State.MarkRecorded(k.at.ID, tables...))
}

// began returns the position at which reading begins. If the message before the first
// was not applied, its time is not known, but bounded.
func began(plan continuity.Plan, at cdc.Position, e *continuity.Evidence) cdc.Position {
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

// limited says which parts of the granted companies' rows the destination is known to
// lack, though nothing is wrong; "" if none.
func limited(k *recorded, granted []string) string {
	if k.Checkpoint != nil && len(k.Checkpoint.Added) > 0 {
		return "the rows of companies that were added are missing: " + strings.Join(companies(k.Checkpoint.Added), ", ") + "; to copy them, run: eds import"
	}
	if parts := partial(k.Records.Snapshots, granted); len(parts) > 0 {
		return "only some rows of these tables were imported: " + strings.Join(parts, ", ") + "; to copy all, run: eds import"
	}
	return ""
}

// companies returns the companies of subjects.
func companies(subjects []string) []string {
	ids := make([]string, len(subjects))
	for i, s := range subjects {
		ids[i] = cdc.SubjectCompany(s)
	}
	return ids
}
