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

// sourceInterval is how often the tables are compared with those of HQ.
const sourceInterval = time.Hour

// Why a table that is new at HQ is not OK.
const (
	reasonNew         = "it is new at HQ and was not imported yet"
	reasonNotBackfill = "it is new at HQ and cannot or is not to be imported, so it gets the changes from the stream"
)

// watchSource compares the tables with those of HQ: at first, every hour, and after the
// stream has made or changed one, until ctx ends.
func (h *healer) watchSource(ctx context.Context) {
	for ctx.Err() == nil {
		wait := sourceInterval
		if h.onProbation() {
			wait = healInterval
		} else if err := h.compareSource(ctx); err != nil && ctx.Err() == nil {
			wait = healInterval
			h.Logger.Warn("the tables cannot be compared with those of HQ; trying again in a minute", "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-h.set.Migrated():
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// compareSource marks tables that are new at HQ as missing, and tells the set which tables
// HQ does not have any more.
func (h *healer) compareSource(ctx context.Context) error {
	latest, err := h.latest(ctx)
	malformed := errors.As(err, new(*schema.MalformedError))
	if err != nil && !malformed {
		return err
	}
	if !malformed && len(latest) > 0 { // else a table that is not listed may be there
		h.set.SetGone(func(table string) bool { return latest[table] != nil })
	}
	var waiting []string // tables that are new and wait for their import
	for _, t := range h.set.States() {
		if t.Cause == sink.CauseNew {
			waiting = append(waiting, t.Table)
		}
	}
	if !h.backfill {
		return h.set.Release(ctx, h.destination, waiting, reasonNotBackfill)
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
	return errors.Join(h.set.Mark(ctx, h.destination, fresh), h.set.Release(ctx, h.destination, unobtainable, reasonNotBackfill))
}

// sourceTables returns the tables that are not new at HQ. An import of all tables records
// them. If the data directory knows of none, as after an earlier version's import, none of
// the present ones is new, except those that wait already: HQ lists tables of which it has
// no rows to export.
func (h *healer) sourceTables(latest map[string]*schema.Table, waiting []string) ([]string, error) {
	known, recorded, err := h.State.Tables(state.SourceTables, h.at.Destination)
	if err != nil || recorded || len(latest) == 0 {
		return known, err
	}
	for table := range latest {
		if !slices.Contains(waiting, table) {
			known = append(known, table)
		}
	}
	return known, h.State.SetTables(state.SourceTables, h.at.Destination, known)
}

// noteUnobtainable remembers the tables that the job could not import and that a later
// import could not either: HQ has no rows of them, or the destination has a table of that
// name that is not eds's. If they are new, they get the changes from the stream.
func (r *Reconciler) noteUnobtainable(job *importJob) error {
	var names []string
	for _, t := range job.report.Tables {
		if errors.Is(t.Err, snapshot.ErrNotExported) || errors.Is(t.Err, sink.ErrForeign) {
			names = append(names, t.Table)
		}
	}
	known, recorded, err := r.State.Tables(state.SourceTables, job.destination.Destination)
	if err != nil || !recorded || len(names) == 0 {
		return err
	}
	return r.State.SetTables(state.SourceTables, job.destination.Destination, slices.Compact(slices.Sorted(slices.Values(append(known, names...)))))
}
