package sqlsink

import (
	"context"
	"fmt"
	"slices"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Placing is a Conn of a database in which Place may be durable before the rest of its transaction.
type Placing interface {
	// PlacesFirst reports whether Place commits before the rest of the transaction for the given
	// live table. When Place has committed, the sealed staging table no longer exists.
	PlacesFirst(live *Layout) bool
}

// placing is a snapshot whose rows are about to be placed. If its staging table no longer exists
// but the placingRecord of its load still exists, the rows are in place. This is certain because
// discarding a load deletes the record before the staging table.
type placing struct {
	stage string
	load  string // loadID of the snapshot's load
	s     sink.LoadRecord
}

// placingRecord is stored, in place of a file name, in the record that says that a load has a
// placing.
const placingRecord = "_eds_placing"

// row returns p as a row of the table of snapshots.
func (p *placing) row(t *schema.Table) (change.Row, error) {
	v := snapshotValues(p.s)
	v["scope"], v["stage"], v["load"] = keyText("placing "+p.stage), p.stage, p.load
	return recordRow(t, v)
}

// recordPlacing records the snapshot before its rows are placed, if Place may be durable before
// the rest of the transaction. Running servers then check the placing.
func (l *tableLoad) recordPlacing(ctx context.Context) error {
	r := l.snapshot
	first, ok := l.conn.(Placing)
	if r == nil || r.s == nil || !ok || !l.mode.Replaces() || !first.PlacesFirst(l.live) {
		return nil
	}
	p := &placing{stage: l.stage.Real.Name, load: l.id, s: r.numbered(l.rows)}
	row, err := p.row(r.snapshots.Table)
	if err != nil {
		return err
	}
	var record change.Row
	err = l.sink.transact(ctx, l.conn, func(tx Tx) error {
		if err := tx.Write(ctx, &Write{Layout: r.snapshots, Upserts: []change.Row{row}}); err != nil {
			return err
		}
		if record, err = l.record(ctx, tx, placingRecord, 0); err != nil {
			return err
		}
		return tx.Raise(ctx, r.checkpoints)
	})
	if err != nil {
		return err
	}
	r.recordedPlacing = p
	if !l.Loaded(placingRecord) {
		l.files[placingRecord] = 0
		l.recorded = append(l.recorded, record)
	}
	return nil
}

// placed divides placings into two groups. The rows of the first group are already in place, but
// the import was interrupted afterwards. The placings of the second group are still pending. A
// placing whose load was discarded is in neither group.
func (s *Sink) placed(ctx context.Context, conn Conn, all []placing) (placed, pending []placing, err error) {
	if len(all) == 0 {
		return nil, nil, nil
	}
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].stage
	}
	stages, err := conn.Tables(ctx, names)
	if err != nil {
		return nil, nil, fmt.Errorf("find staging tables: %w", err)
	}
	loads, err := s.placingLoads(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		switch {
		case slices.ContainsFunc(stages, func(t *RealTable) bool { return t.Name == p.stage }):
			pending = append(pending, p)
		case loads[p.load]:
			placed = append(placed, p)
		}
	}
	return placed, pending, nil
}

// placingLoads returns the loadIDs of the loads that have a placingRecord.
func (s *Sink) placingLoads(ctx context.Context, conn Conn) (map[string]bool, error) {
	l, err := s.readLayout(ctx, conn, s.ownTables[loadTable])
	if l == nil || err != nil {
		return nil, err
	}
	loads := make(map[string]bool)
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return nil, fmt.Errorf("read the record of loaded files: %w", err)
		}
		if r := (engineRow{l.Table, row}); r.text("file") == placingRecord {
			loads[r.text("job")] = true
		}
	}
	return loads, nil
}

// recordPlaced records the snapshots of interrupted imports if the snapshots' rows are in place. It
// is called before other records of these imports are deleted.
func (s *Sink) recordPlaced(ctx context.Context, conn Conn, found *engineRecords) error {
	l := s.layouts[s.ownTables[snapshotTable]]
	for i := range found.placed {
		p := &found.placed[i]
		err := s.transact(ctx, conn, func(tx Tx) error { return writeSnapshot(ctx, tx, l, p.s, found.stored, p) })
		if err != nil {
			return fmt.Errorf("record the snapshot of table %q: %w", p.s.Table, err)
		}
	}
	return nil
}

// checkPlacings checks the placings that were pending when Records found them. If the rows of one of
// them are in place now, it returns an error: the import may have been interrupted after it placed
// the rows, and before it could inform the server.
func (s *Sink) checkPlacings(ctx context.Context, conn Conn) error {
	placed, pending, err := s.placed(ctx, conn, s.placings)
	if err != nil {
		return err
	}
	if len(placed) > 0 {
		reason := fmt.Sprintf("table %q has been imported", placed[0].s.Table)
		return fault.Mark(fault.Fatal, &sink.ReopenError{Reason: reason, Imported: true})
	}
	s.placings = pending
	return nil
}
