package reconciler

import (
	"maps"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/state"
)

// takeOver records the snapshots of the reference server, if eds uses that server's data directory
// for the first time. The destination holds these snapshots, and may lack later changes. takeOver
// skips tables that eds itself has imported. If the file of the reference server cannot be read,
// the result unread is the reason.
func (r *Reconciler) takeOver(d *Destination) (unread, err error) {
	if pending, err := r.State.HasReference(); err != nil || !pending {
		return nil, err
	}
	own, err := r.ownSnapshots(d)
	if err != nil {
		return nil, err
	}
	for _, snap := range own {
		if snap.Whole {
			return nil, r.State.FinishReference(d.DestinationKey)
		}
	}
	times, err := r.State.ReferenceTimes()
	if err != nil {
		r.Logger.Warn("cannot take over from the reference server", "error", err)
		return err, nil
	}
	var taken []state.ImportRecord
	for table, at := range times {
		if _, ok := own[table]; !ok {
			taken = append(taken, state.ImportRecord{Table: table, Clock: state.Clock{Timestamp: cdc.At(at)}, Reference: true})
		}
	}
	if len(taken) > 0 {
		r.Logger.Info("continuing after the import of the reference server", "tables", len(taken))
	}
	return nil, r.State.FinishReference(d.DestinationKey, taken...)
}

// ownSnapshots returns the snapshots in d that eds itself has imported, by table. An import of the
// schema alone does not count, because it does not change the rows.
func (r *Reconciler) ownSnapshots(d *Destination) (map[string]state.ImportRecord, error) {
	all, err := r.State.Snapshots(d.DestinationKey)
	maps.DeleteFunc(all, func(_ string, s state.ImportRecord) bool { return s.Job == "" && s.Rows == 0 })
	return all, err
}
