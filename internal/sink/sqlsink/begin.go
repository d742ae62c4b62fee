package sqlsink

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// fenced returns the checkpoints that other processes must no longer move: those of this consumer,
// and those of other consumers that cover the same changes. A server may still use such a
// checkpoint if the server was disconnected while this process looked for writers.
func (s *Sink) fenced(all []checkpoint) []checkpoint {
	rows := s.ofConsumer(all)
	for i := range all {
		if c := &all[i]; (c.stream != s.env.Stream || c.consumer != s.env.Consumer) && s.concerns(c) {
			rows = append(rows, *c)
		}
	}
	return rows
}

// newEpoch returns an epoch that is higher than latest and than the epochs of the rows. Two
// processes that call newEpoch at the same time get different epochs, with high probability.
func newEpoch(latest int64, rows []checkpoint) int64 {
	for i := range rows {
		latest = max(latest, rows[i].epoch)
	}
	return (latest>>16+1)<<16 | int64(rand.Uint32N(1<<16))
}

// Begin takes over the checkpoint for this process, and returns the new epoch. It returns epoch 0
// if Records was not called before, or if the destination keeps no records.
func (s *Sink) Begin(ctx context.Context, b sink.Beginning) (epoch int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun == nil || s.unavailable != nil {
		return 0, nil
	}
	next, after := s.first(b)
	err = s.attempt(ctx, "take over the checkpoint", func(conn Conn) error {
		now, err := s.readRecords(ctx, conn)
		if err != nil {
			return err
		}
		ours := now.own != nil && now.own.epoch == next.epoch // the answer was lost
		if ours && now.own.position == next.position {
			return nil
		}
		if !ours && !s.begun.same(now) {
			return fault.Mark(fault.Fatal, s.begun.reopen(now))
		}
		found, err := s.identify(ctx, conn, now)
		if err != nil {
			return err
		}
		err = s.transact(ctx, conn, func(tx Tx) error {
			if err := s.writeObjects(ctx, tx, found); err != nil {
				return err
			}
			if err := s.begin(ctx, tx, now, &next, after, b); err != nil || found == nil {
				return err
			}
			return writeDestination(ctx, tx, s.layouts[s.ownTables[destinationTable]], found.destination)
		})
		if errors.Is(err, ErrMoved) {
			err = fault.Mark(fault.Fatal, &sink.ReopenError{Reason: "the checkpoint of the destination has changed"})
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	s.hold(&next, after)
	return s.epoch, nil
}

// first returns the checkpoint and the states that Begin stores.
func (s *Sink) first(b sink.Beginning) (checkpoint, states) {
	n := s.key()
	next := checkpoint{
		stream: n.stream, consumer: n.consumer, filter: n.filter, position: b.Position, seen: s.signOfLife(),
		writer: s.env.Writer, subjects: strings.Fields(s.env.Filter), epoch: s.beginning,
	}
	if next.position == (cdc.Position{}) {
		next.position.Stored = nothingStored
	}
	if own := s.begun.own; own != nil {
		next.generation = own.generation
	}
	next.followed = max(latestSnapshot(s.begun.snapshots), latestGeneration(s.begun.checkpoints))
	if base := s.begun.base; base != nil {
		next.added, next.addedAt = base.added, base.addedAt
	}
	s.states = states{positions: s.begun.states.positions}
	after, low := s.withChanges(b.Tables, next.position)
	next.low = low
	return next, after
}

// same reports whether r equals the newly read records, which are the parameter now, in everything
// that Begin depends on.
func (r *engineRecords) same(now *engineRecords) bool {
	if (r.own == nil) != (now.own == nil) || latestSnapshot(r.snapshots) != latestSnapshot(now.snapshots) || r.id != now.id {
		return false
	}
	return r.own == nil || r.own.position == now.own.position && r.own.epoch == now.own.epoch && r.own.generation == now.own.generation
}

// reopen returns an error that says that the sink must be opened again, because the newly read
// records differ from r.
func (r *engineRecords) reopen(now *engineRecords) *sink.ReopenError {
	was, is := latestSnapshot(r.snapshots), latestSnapshot(now.snapshots)
	before, after := *r, *now
	before.snapshots, after.snapshots = nil, nil
	if r.id == "" { // the first import has set the id
		before.id = now.id
	}
	if r.own != nil && now.own != nil {
		own := *now.own
		own.generation = r.own.generation // an import increments the generation
		after.own = &own
	}
	if is > was && before.same(&after) {
		return &sink.ReopenError{Reason: "tables have been imported", Imported: true}
	}
	return &sink.ReopenError{Reason: "the records of the destination have changed"}
}

// begin writes these records in the transaction tx: the identity, the snapshots of b, the table
// states in the parameter after, the checkpoint in the parameter next, and the new epoch of all
// fenced checkpoints.
func (s *Sink) begin(ctx context.Context, tx Tx, now *engineRecords, next *checkpoint, after states, b sink.Beginning) error {
	if now.id == "" {
		if err := s.writeID(ctx, tx, s.layouts[s.ownTables[destinationTable]]); err != nil {
			return err
		}
	}
	l := s.layouts[s.ownTables[snapshotTable]]
	for _, snapshot := range b.Snapshots {
		snapshot.Generation = next.followed
		if err := writeSnapshot(ctx, tx, l, snapshot, nil, nil); err != nil {
			return err
		}
	}
	if err := s.writeStates(ctx, tx, s.layouts[s.ownTables[stateTable]], now.states, after); err != nil {
		return err
	}
	l = s.layouts[s.ownTables[checkpointTable]]
	rows := []checkpoint{*next}
	for _, c := range s.fenced(now.checkpoints) {
		if err := tx.Checkpoint(ctx, l, c.low, c.asStored()); err != nil {
			return err
		}
		if c.key() != next.key() { // the other checkpoint's process must notice the new epoch, too
			c.epoch, c.writer, c.seen = next.epoch, next.writer, 0
			rows = append(rows, c)
		}
	}
	set := change.RowSet{Table: l.Table}
	for i := range rows {
		row, err := rows[i].row(l.Table)
		if err != nil {
			return err
		}
		set.Upserts = append(set.Upserts, row)
	}
	set.SortByKey()
	return tx.Write(ctx, &Write{Layout: l, Upserts: set.Upserts})
}

// writeID records Env.ID as the identity of the destination.
func (s *Sink) writeID(ctx context.Context, tx Tx, l *Layout) error {
	row, err := recordRow(l.Table, recordValues{"name": destinationKey, "id": s.env.ID, "version": s.env.Writer.Version})
	if err != nil {
		return err
	}
	return tx.Write(ctx, &Write{Layout: l, Upserts: []change.Row{row}})
}
