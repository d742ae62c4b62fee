package reconciler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

// sourceInterval is the time between two comparisons of the destination's tables with HQ's tables.
const sourceInterval = time.Hour

// Reasons in the state of a table that is new at HQ.
const (
	reasonNew         = "it is new at HQ and was not imported yet"
	reasonNotBackfill = "it is new at HQ and is not imported, so it gets the changes from the stream"
)

// watchSource compares the destination's tables with HQ's tables until ctx ends: at once, then
// every hour, and each time the main pipeline has created or changed a table.
func (h *healer) watchSource(ctx context.Context) {
	for ctx.Err() == nil {
		wait := sourceInterval
		if h.onProbation() {
			wait = healInterval
		} else if err := h.compareSource(ctx); err != nil && ctx.Err() == nil {
			wait = healInterval
			h.Logger.Warn("the tables cannot be compared with those of HQ; trying again in a minute", "error", err)
		}
		awaitChange(ctx, h.set.Migrated(), time.Now().Add(wait))
	}
}

// compareSource marks tables that are new at HQ as Missing, and records in h.set which tables HQ no
// longer has. If new tables are not to be imported, these tables get their changes from the stream.
func (h *healer) compareSource(ctx context.Context) error {
	latest, err := h.latest(ctx)
	malformed := errors.As(err, new(*schema.MalformedError))
	if err != nil && !malformed {
		return err
	}
	if !malformed && len(latest) > 0 { // otherwise HQ may have tables that it does not list
		h.set.SetGone(func(table string) bool { return latest[table] != nil })
	}
	var waiting []string // new tables that wait for their import
	for _, t := range h.set.States() {
		if t.Cause == sink.CauseNew {
			waiting = append(waiting, t.Table)
		}
	}
	if !h.backfill {
		return h.set.LeaveToStream(ctx, h.destination, waiting, reasonNotBackfill)
	}
	known, err := h.sourceTables(latest, waiting)
	if err != nil {
		return err
	}
	var fresh []sink.TableState
	for _, table := range slices.Sorted(maps.Keys(latest)) {
		_, imported := h.imports[table]
		if imported || slices.Contains(known, table) || schema.CheckTable(table) != nil {
			continue
		}
		fresh = append(fresh, sink.TableState{Table: table, State: sink.Missing, Cause: sink.CauseNew, Reason: reasonNew})
	}
	unobtainable := slices.DeleteFunc(waiting, func(table string) bool { return !slices.Contains(known, table) })
	return errors.Join(h.set.Mark(ctx, h.destination, fresh), h.set.LeaveToStream(ctx, h.destination, unobtainable, reasonNotBackfill))
}

// sourceTables returns the tables that are not new at HQ. An import of all tables records this
// list. If no list is recorded, as after an import by an earlier version, all current tables at HQ
// count as known, except the tables that the parameter waiting lists. HQ also lists tables without
// rows, which it does not export.
func (h *healer) sourceTables(latest map[string]*schema.Table, waiting []string) ([]string, error) {
	known, recorded, err := h.State.Tables(state.SourceTables, h.at.DestinationKey)
	if err != nil || recorded || len(latest) == 0 {
		return known, err
	}
	for table := range latest {
		if !slices.Contains(waiting, table) {
			known = append(known, table)
		}
	}
	return known, h.State.SetTables(state.SourceTables, h.at.DestinationKey, known)
}

// recordUnobtainable adds the tables that no import can load to the record of the tables known at
// HQ. Either HQ has no rows of such a table, or the destination has a table of that name that eds
// does not own. If such a table is new, it then receives its changes from the stream.
func (r *Reconciler) recordUnobtainable(job *importJob) error {
	var names []string
	for _, t := range job.report.Tables {
		if errors.Is(t.Err, snapshot.ErrNotExported) || errors.Is(t.Err, sink.ErrForeign) {
			names = append(names, t.Table)
		}
	}
	known, recorded, err := r.State.Tables(state.SourceTables, job.destination.DestinationKey)
	if err != nil || !recorded || len(names) == 0 {
		return err
	}
	known = slices.Compact(slices.Sorted(slices.Values(append(known, names...))))
	return r.State.SetTables(state.SourceTables, job.destination.DestinationKey, known)
}
