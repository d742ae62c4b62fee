package sqlsink

import (
	"context"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// destinationRow is the content of the only row of the destination table.
type destinationRow struct{ id, version, object string }

func readDestination(ctx context.Context, conn Conn, l *Layout) (d destinationRow, err error) {
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return d, fmt.Errorf("read the identity of the destination: %w", err)
		}
		if r := (engineRow{l.Table, row}); r.text("name") == destinationKey {
			d = destinationRow{r.text("id"), r.text("version"), r.text("object")}
		}
	}
	return d, nil
}

func writeDestination(ctx context.Context, tx Tx, l *Layout, d destinationRow) error {
	v := recordValues{"name": destinationKey, "id": d.id, "version": d.version}
	if d.object != "" {
		v["object"] = d.object
	}
	row, err := recordRow(l.Table, v)
	if err != nil {
		return err
	}
	return tx.Write(ctx, &Write{Layout: l, Upserts: []change.Row{row}})
}

// sameCheckpoints reports whether the checkpoint table, given as an object, has the id that the
// destination has recorded for it. If not, the tables were restored from a dump, or an earlier
// version created them, and none of the recorded ids is valid.
func (s *Sink) sameCheckpoints(ctx context.Context, conn Conn, object Object) (bool, error) {
	l, err := s.readLayout(ctx, conn, s.ownTables[destinationTable])
	if l == nil || err != nil || object.ID == "" {
		return false, err
	}
	d, err := readDestination(ctx, conn, l)
	return d.object == object.ID, err
}

// identities has the new ids of tables, which are to be recorded.
type identities struct {
	destination destinationRow
	snapshots   []sink.LoadRecord
}

// identify returns the current ids of the checkpoint table and of all tables that have a
// snapshot. It returns nil if the recorded ids are still valid.
func (s *Sink) identify(ctx context.Context, conn Conn, now *engineRecords) (*identities, error) {
	if _, ok := conn.(Identifying); !ok {
		return nil, nil
	}
	d, err := readDestination(ctx, conn, s.layouts[s.ownTables[destinationTable]])
	if err != nil {
		return nil, err
	}
	tables := []string{checkpointTable}
	for i := range now.stored {
		tables = append(tables, now.stored[i].Table)
	}
	objects, err := s.objects(ctx, conn, tables)
	if err != nil {
		return nil, err
	}
	own := objects[s.dialect.Name(checkpointTable)].ID
	if own == d.object {
		return nil, nil
	}
	if d.id == "" {
		d.id, d.version = s.env.ID, s.env.Writer.Version
	}
	d.object = own
	found := &identities{destination: d}
	for _, snapshot := range now.stored {
		snapshot.Object = objects[s.dialect.Name(snapshot.Table)].ID
		found.snapshots = append(found.snapshots, snapshot)
	}
	return found, nil
}

// writeObjects records the ids of the tables that have a snapshot.
func (s *Sink) writeObjects(ctx context.Context, tx Tx, found *identities) error {
	if found == nil {
		return nil
	}
	l := s.layouts[s.ownTables[snapshotTable]]
	for _, snapshot := range found.snapshots {
		if err := writeSnapshot(ctx, tx, l, snapshot, nil, nil); err != nil {
			return err
		}
	}
	return nil
}
