package sqlsink

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// destinationsTable returns the table that stores the destination's identity, in one row.
// "object" is the database's id of the checkpoint table. A restore from a dump changes the ids of
// all tables.
func destinationsTable() *schema.Table {
	return ownTable(destinationTable, []string{"name"}, text("id"), text("version"), text("object"))
}

// snapshotsTable returns the table of snapshots, which has one row per table and scope. The key
// column "scope" may contain a hash of the scope; "detail" contains the complete scope. "imported"
// is a Unix time in ms. Some rows describe a placing, which is a snapshot whose rows are about to
// be put in place. Only these rows have values in "stage" and "load". "object" is the database's id
// of the table, or NULL if the table has no id. "applied" and "applied_stored" store
// LoadRecord.Applied.
func snapshotsTable() *schema.Table {
	return ownTable(snapshotTable, []string{"target", "scope"},
		text("clock"), optional("row_count"), optional("generation"), optional("whole"), optional("merged"), text("job"),
		optional("imported"), text("detail"), text("stage"), text("load"), text("object"),
		optional("applied"), optional("applied_stored"))
}

// readSnapshots returns the rows of the table of snapshots, divided into snapshots and placings.
func readSnapshots(ctx context.Context, conn Conn, l *Layout) (snapshots []sink.LoadRecord, placings []placing, err error) {
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return nil, nil, fmt.Errorf("read the snapshots: %w", err)
		}
		r := engineRow{l.Table, row}
		s := sink.LoadRecord{
			Table: r.text("target"), Rows: r.integer("row_count"), Generation: r.integer("generation"),
			Whole: r.integer("whole") != 0, Merged: r.integer("merged") != 0, Job: r.text("job"),
			Imported: time.UnixMilli(r.integer("imported")).UTC(), Object: r.text("object"),
			Applied: cdc.Position{Sequence: uint64(r.integer("applied")), Stored: r.integer("applied_stored")},
		}
		if s.Clock, err = cdc.ParseTimestamp(r.text("clock")); err == nil {
			err = json.Unmarshal([]byte(r.text("detail")), &s.Scope)
		}
		if err != nil {
			err = fmt.Errorf("read the snapshot of table %q in %s: it is malformed", s.Table, snapshotTable)
			return nil, nil, fault.Mark(fault.Fatal, err)
		}
		if stage := r.text("stage"); stage != "" {
			placings = append(placings, placing{stage: stage, load: r.text("load"), s: s})
		} else {
			snapshots = append(snapshots, s)
		}
	}
	return snapshots, placings, nil
}

// current returns the snapshots whose rows were not replaced by a later complete load. Replaced
// snapshots can remain, because imports that run at the same time do not delete each other's
// snapshots.
func current(snapshots []sink.LoadRecord) []sink.LoadRecord {
	complete := make(map[string]int64) // the generation of each table's latest complete snapshot
	for _, s := range snapshots {
		if s.Complete() {
			complete[s.Table] = max(complete[s.Table], s.Generation)
		}
	}
	return slices.DeleteFunc(snapshots, func(s sink.LoadRecord) bool { return s.Generation < complete[s.Table] })
}

// snapshotRow returns s as a row of the table of snapshots.
func snapshotRow(t *schema.Table, s sink.LoadRecord) (change.Row, error) {
	return recordRow(t, snapshotValues(s))
}

func snapshotValues(s sink.LoadRecord) recordValues {
	detail, _ := json.Marshal(s.Scope) // strings and times always encode
	scope := string(detail)
	if s.Merged {
		scope = "merged " + scope
	}
	v := recordValues{
		"target": s.Table, "scope": keyText(scope), "clock": string(s.Clock.Append(nil)), "row_count": s.Rows, "generation": s.Generation,
		"whole": number(s.Whole), "merged": number(s.Merged), "job": s.Job, "imported": s.Imported.UnixMilli(), "detail": string(detail),
	}
	if s.Object != "" {
		v["object"] = s.Object
	}
	if s.Applied != (cdc.Position{}) {
		v["applied"], v["applied_stored"] = int64(s.Applied.Sequence), s.Applied.Stored
	}
	return v
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// writeSnapshot writes s. It deletes recordedPlacing, unless that is nil. The parameter before is a
// list of snapshots. If s is complete, writeSnapshot also deletes those of the same table.
func writeSnapshot(
	ctx context.Context, tx Tx, l *Layout, s sink.LoadRecord, before []sink.LoadRecord, recordedPlacing *placing,
) error {
	row, err := snapshotRow(l.Table, s)
	if err != nil {
		return err
	}
	set := change.RowSet{Table: l.Table}
	if recordedPlacing != nil {
		old, err := recordedPlacing.row(l.Table)
		if err != nil {
			return err
		}
		set.Deletes = keysOf(l.Table, old)
	}
	for _, other := range before {
		if other.Table != s.Table || !s.Complete() {
			continue
		}
		old, err := snapshotRow(l.Table, other)
		if err != nil {
			return err
		}
		set.Deletes = append(set.Deletes, keysOf(l.Table, old)...)
	}
	set.SortByKey()
	return tx.Write(ctx, &Write{Layout: l, Deletes: set.Deletes, Upserts: []change.Row{row}})
}

// FinishImport marks the snapshots of a whole import as Whole. It deletes the snapshots of tables
// that are no longer in the source.
func (s *Sink) FinishImport(ctx context.Context, scope sink.Scope, imported, source []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attempt(ctx, "finish the import", func(conn Conn) error {
		l, err := s.layoutOfOwn(ctx, conn, snapshotTable)
		if s.unavailable != nil {
			return nil
		}
		if err != nil {
			return err
		}
		snapshots, _, err := readSnapshots(ctx, conn, l)
		if err != nil {
			return err
		}
		set := change.RowSet{Table: l.Table}
		for _, snapshot := range snapshots {
			here := slices.Contains(source, snapshot.Table)
			ours := !snapshot.Merged && reflect.DeepEqual(snapshot.Scope, scope) && slices.Contains(imported, snapshot.Table)
			if here && !ours {
				continue
			}
			snapshot.Whole = true
			row, err := snapshotRow(l.Table, snapshot)
			if err != nil {
				return err
			}
			if here {
				set.Upserts = append(set.Upserts, row)
			} else {
				set.Deletes = append(set.Deletes, keysOf(l.Table, row)...)
			}
		}
		if len(set.Deletes)+len(set.Upserts) == 0 {
			return nil
		}
		set.SortByKey()
		return s.transact(ctx, conn, func(tx Tx) error {
			return tx.Write(ctx, &Write{Layout: l, Deletes: set.Deletes, Upserts: set.Upserts})
		})
	})
}

// snapshotRecord writes the records that a load makes in addition to the records of its files.
type snapshotRecord struct {
	sink                                *Sink
	checkpoints, destination, snapshots *Layout // not shared with other loads
	id                                  string  // id of the destination, or "" if it has none yet
	object                              string  // id of the table that gets the rows, or "" if unknown
	before                              []sink.LoadRecord
	above                               int64            // the latest generation at the time of prepare
	s                                   *sink.LoadRecord // the snapshot to record, or nil
	recordedPlacing                     *placing         // the recorded placing of s, or nil
	// clock is the clock to record. It is usually the clock of s. If s replaces the record of an
	// older snapshot from which no server has read yet, clock is the clock of that snapshot.
	clock cdc.Timestamp
}

// snapshotRecord returns the snapshotRecord of a load, or nil if the destination keeps no
// records.
func (s *Sink) snapshotRecord(ctx context.Context, conn Conn) (*snapshotRecord, error) {
	found, err := s.readRecords(ctx, conn)
	if err != nil || s.unavailable != nil {
		return nil, err
	}
	if err := s.recordPlaced(ctx, conn, found); err != nil {
		return nil, err
	}
	r := &snapshotRecord{sink: s}
	for name, l := range map[string]**Layout{
		checkpointTable: &r.checkpoints, destinationTable: &r.destination, snapshotTable: &r.snapshots,
	} {
		shared := s.layouts[s.ownTables[name]]
		if *l, err = s.newLayout(shared.Table, shared.Real); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// prepare reads the records on which the method write depends. It uses the load's session.
func (r *snapshotRecord) prepare(ctx context.Context, conn Conn) error {
	if r == nil || r.s == nil {
		return nil
	}
	var err error
	if r.id, err = readID(ctx, conn, r.destination); err != nil {
		return err
	}
	if r.before, _, err = readSnapshots(ctx, conn, r.snapshots); err != nil {
		return err
	}
	checkpoints, err := readCheckpoints(ctx, conn, r.checkpoints)
	if err != nil {
		return err
	}
	r.clock, r.above = r.s.Clock, max(latestSnapshot(r.before), latestGeneration(checkpoints))
	for i := range r.before {
		if s := &r.before[i]; sameScope(s, r.s) && !followed(s, checkpoints) && s.Clock.Compare(r.clock) < 0 {
			r.clock = s.Clock
		}
	}
	return nil
}

// holds reports whether the destination has recorded the snapshot of the load's job, or a placing
// of the given staging table.
func (r *snapshotRecord) holds(ctx context.Context, conn Conn, stage string) (bool, error) {
	l, err := r.sink.readLayout(ctx, conn, r.snapshots.Table)
	if l == nil || err != nil {
		return false, err
	}
	snapshots, placings, err := readSnapshots(ctx, conn, l)
	return slices.ContainsFunc(snapshots, func(s sink.LoadRecord) bool { return s.Table == r.s.Table && s.Job == r.s.Job }) ||
		slices.ContainsFunc(placings, func(p placing) bool { return p.stage == stage }), err
}

// sameScope reports whether a snapshot b replaces the record of a snapshot a, even if the rows of b
// do not replace all rows of a.
func sameScope(a, b *sink.LoadRecord) bool {
	return a.Table == b.Table && !a.Complete() && !b.Complete() && snapshotValues(*a)["scope"] == snapshotValues(*b)["scope"]
}

// followed reports whether a server has already read the stream from the snapshot s or a later
// one.
func followed(s *sink.LoadRecord, checkpoints []checkpoint) bool {
	return slices.ContainsFunc(checkpoints, func(c checkpoint) bool { return c.followed >= s.Generation })
}

// identify sets r.object to the id that the live table will have after Place.
func (r *snapshotRecord) identify(conn Conn, stage, live *Layout, mode sink.LoadMode) {
	if known, ok := conn.(Identifying); ok && r != nil {
		r.object = known.PlacedID(stage, live, mode)
	}
}

// numbered returns the snapshot to record, with the number of loaded rows and a new generation.
func (r *snapshotRecord) numbered(rows int64) sink.LoadRecord {
	s := *r.s
	s.Rows, s.Clock, s.Generation, s.Object = rows, r.clock, r.sink.issue(r.above), r.object
	return s
}

// write records the snapshot with its number of rows. It raises the generation of all
// checkpoints, which running servers check.
func (r *snapshotRecord) write(ctx context.Context, tx Tx, rows int64) error {
	if r == nil || r.s == nil {
		return nil
	}
	if r.id == "" {
		if err := r.sink.writeID(ctx, tx, r.destination); err != nil {
			return err
		}
	}
	if err := writeSnapshot(ctx, tx, r.snapshots, r.numbered(rows), r.before, r.recordedPlacing); err != nil {
		return err
	}
	return tx.Raise(ctx, r.checkpoints)
}

// issue returns a generation that is higher than the given generation and than all earlier results.
// For imports in several processes at the same time, it relies on the clocks of their machines.
func (s *Sink) issue(above int64) int64 {
	for {
		latest := s.issued.Load()
		next := max(latest+1, above+1, time.Now().UnixMilli())
		if s.issued.CompareAndSwap(latest, next) {
			return next
		}
	}
}
