package reconciler

import (
	"maps"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/state"
)

// takeOver records what the reference server imported, if eds is started with its data
// directory for the first time: the destination has it, and lacks the changes since.
// Tables that eds itself has imported are left alone. If the import cannot be read,
// unread says why.
func (r *Reconciler) takeOver(d *Destination) (unread, err error) {
	if pending, err := r.State.HasReference(); err != nil || !pending {
		return nil, err
	}
	own, err := r.imported(d)
	if err != nil {
		return nil, err
	}
	for _, snap := range own {
		if snap.Whole {
			return nil, r.State.SettleReference(d.Destination)
		}
	}
	times, err := r.State.ReferenceTimes()
	if err != nil {
		r.Logger.Warn("cannot take over from the reference server", "error", err)
		return err, nil
	}
	var taken []state.Snapshot
	for table, at := range times {
		if _, ok := own[table]; !ok {
			taken = append(taken, state.Snapshot{Table: table, Clock: state.Clock{Timestamp: cdc.At(at)}, Reference: true})
		}
	}
	if len(taken) > 0 {
		r.Logger.Info("going on after the import of the reference server", "tables", len(taken))
	}
	return nil, r.State.SettleReference(d.Destination, taken...)
}

// imported returns the snapshots whose rows eds has imported into d, by table. An import
// of the schema alone leaves the rows that were there.
func (r *Reconciler) imported(d *Destination) (map[string]state.Snapshot, error) {
	all, err := r.State.Snapshots(d.Destination)
	maps.DeleteFunc(all, func(_ string, s state.Snapshot) bool { return s.Job == "" && s.Rows == 0 })
	return all, err
}
