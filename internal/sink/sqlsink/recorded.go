package sqlsink

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// nothingStored is the stored time of a position before the first message. The time is not 0,
// because earlier versions treat a position without a time as one that has no row yet.
const nothingStored = 1

// fromStored converts a position that was read from the database. It returns the zero Position if
// the time of p is nothingStored. Otherwise it returns p.
func fromStored(p cdc.Position) cdc.Position {
	if p.Sequence == 0 && p.Stored == nothingStored {
		return cdc.Position{}
	}
	return p
}

// destinationKey is the key of the only row of the destination table.
const destinationKey = "eds"

// Records reads the records of the destination.
func (s *Sink) Records(ctx context.Context) (sink.Records, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r *engineRecords
	err := s.attempt(ctx, "read the records", func(conn Conn) (err error) {
		s.epoch, s.known, s.held, s.begun = 0, false, false, nil
		if s.unavailable != nil { // privileges may have been granted since
			s.unavailable = nil
			s.forgetTables()
		}
		r, err = s.readRecords(ctx, conn)
		return err
	})
	if err != nil {
		return sink.Records{}, err
	}
	s.placings = r.placings
	s.begun, s.beginning = r, newEpoch(s.env.Epoch, r.checkpoints)
	found := sink.Records{ID: r.id, Snapshots: r.snapshots, Unavailable: s.unavailable}
	for _, name := range slices.Sorted(maps.Keys(r.states.tables)) {
		found.Tables = append(found.Tables, r.states.tables[name])
	}
	if r.base != nil {
		found.Checkpoint = &sink.Recorded{
			Position: fromStored(r.base.position), Followed: r.base.followed, Epoch: r.base.epoch, Added: r.base.added,
		}
	}
	return found, nil
}

// engineRecords is the content of the engine's tables.
type engineRecords struct {
	id          string
	checkpoints []checkpoint
	own         *checkpoint // this sink's element of checkpoints, or nil
	// base is the checkpoint from which this sink's filter continues, or nil if there is none. It
	// may be stored under another filter.
	base      *checkpoint
	snapshots []sink.LoadRecord // the current snapshots among stored and placed
	stored    []sink.LoadRecord
	placings  []placing // pending placings
	placed    []placing
	states    states
}

// readRecords reads the engine's tables, and creates the tables that are missing. If the user
// lacks the privileges for that, readRecords sets s.unavailable, and the result has only the
// checkpoints.
func (s *Sink) readRecords(ctx context.Context, conn Conn) (*engineRecords, error) {
	r := new(engineRecords)
	layouts := make(map[string]*Layout)
	for _, name := range []string{checkpointTable, destinationTable, snapshotTable, stateTable} {
		l, err := s.layoutOfOwn(ctx, conn, name)
		if err != nil && (s.unavailable == nil || name == checkpointTable) {
			return nil, err
		}
		layouts[name] = l
	}
	var err error
	if r.checkpoints, err = readCheckpoints(ctx, conn, layouts[checkpointTable]); err != nil {
		return nil, err
	}
	r.own = findCheckpoint(r.checkpoints, s.key())
	if s.unavailable != nil {
		r.base = r.own
		return r, nil
	}
	if r.id, err = readID(ctx, conn, layouts[destinationTable]); err == nil {
		r.stored, r.placings, err = readSnapshots(ctx, conn, layouts[snapshotTable])
	}
	if err == nil {
		r.placed, r.placings, err = s.placed(ctx, conn, r.placings)
	}
	if err == nil {
		r.states, err = readStates(ctx, conn, layouts[stateTable], s.env.Consumer)
	}
	if err != nil && s.denied(err) {
		s.unavailable = fmt.Errorf("the user needs the privileges SELECT, INSERT, UPDATE and DELETE on tables %s, %s and %s: %w",
			destinationTable, snapshotTable, stateTable, err)
		r.base = r.own
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.states.restorePositions(r.checkpoints, s.env.Consumer)
	r.own = findCheckpoint(r.checkpoints, s.key())
	r.snapshots = slices.Clone(r.stored)
	for _, p := range r.placed {
		r.snapshots = append(r.snapshots, p.s)
	}
	r.snapshots = current(r.snapshots)
	r.base = s.base(r)
	return r, nil
}

func readID(ctx context.Context, conn Conn, l *Layout) (id string, err error) {
	for row, err := range conn.Read(ctx, l) {
		if err != nil {
			return "", fmt.Errorf("read the identity of the destination: %w", err)
		}
		if r := (engineRow{l.Table, row}); r.text("name") == destinationKey {
			id = r.text("id")
		}
	}
	return id, nil
}

// base returns the checkpoint from which this sink's filter continues. The position of a subject is
// the highest position of the consumer's checkpoints that select the subject. The result has the
// lowest of these positions, which is safe for all subjects. Subjects that no checkpoint selects
// are new in the filter.
func (s *Sink) base(r *engineRecords) *checkpoint {
	rows := s.ofConsumer(r.checkpoints)
	unknown := slices.ContainsFunc(rows, func(c checkpoint) bool { return !c.known() })
	var latest, lowest *checkpoint
	for i := range rows {
		latest = later(latest, &rows[i])
	}
	var added []string
	since := latestGeneration(rows)
	for _, subject := range strings.Fields(s.env.Filter) {
		var at *checkpoint
		for i := range rows {
			if selects(rows[i].subjects, subject) {
				at = later(at, &rows[i])
			}
		}
		switch {
		case at == nil && unknown: // a filter that is known only by its hash may select the subject
		case at == nil && !covered(r.snapshots, since, subject):
			added = append(added, subject)
		case at != nil && selects(at.added, subject) && !covered(r.snapshots, at.addedAt, subject):
			added, since = append(added, subject), min(since, at.addedAt)
		}
		if at != nil && (lowest == nil || at.position.Sequence < lowest.position.Sequence) {
			lowest = at
		}
	}
	if lowest == nil {
		lowest = latest
	}
	if lowest == nil {
		return nil
	}
	base := *lowest
	base.added, base.addedAt = added, 0
	if len(added) > 0 {
		base.addedAt = since
	}
	return &base
}

// ofConsumer returns the checkpoints of this sink's consumer.
func (s *Sink) ofConsumer(all []checkpoint) []checkpoint {
	var rows []checkpoint
	for _, c := range all {
		if c.stream != s.env.Stream || c.consumer != s.env.Consumer {
			continue
		}
		if c.key() == s.key() {
			c.subjects = strings.Fields(s.env.Filter) // an earlier version stored only a hash
		}
		rows = append(rows, c)
	}
	return rows
}

// later returns the checkpoint with the higher position. The parameter a may be nil.
func later(a, b *checkpoint) *checkpoint {
	if a == nil || b.position.Sequence > a.position.Sequence {
		return b
	}
	return a
}

func latestGeneration(rows []checkpoint) (latest int64) {
	for i := range rows {
		latest = max(latest, rows[i].followed)
	}
	return latest
}

// latestSnapshot returns the highest generation of the snapshots, or 0 if there are none.
func latestSnapshot(snapshots []sink.LoadRecord) (latest int64) {
	for i := range snapshots {
		latest = max(latest, snapshots[i].Generation)
	}
	return latest
}
