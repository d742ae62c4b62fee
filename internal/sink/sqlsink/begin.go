package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// nothingStored is stored as the time of a position before the first message. Earlier
// versions take a position without a time for one that has no row yet.
const nothingStored = 1

// known returns a stored position without the time that nothingStored stands for.
func known(p cdc.Position) cdc.Position {
	if p.Sequence == 0 && p.Stored == nothingStored {
		return cdc.Position{}
	}
	return p
}

// destinationKey is the key of the only row of the destination table.
const destinationKey = "eds"

// Records reads what the destination records.
func (s *Sink) Records(ctx context.Context) (sink.Records, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r *records
	err := s.attempt(ctx, "read the records", func(conn Conn) (err error) {
		s.epoch, s.known, s.held, s.begun = 0, false, false, nil
		if s.unavailable != nil { // what was denied may have been granted since
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
		found.Checkpoint = &sink.Recorded{Position: known(r.base.position), Followed: r.base.followed, Epoch: r.base.epoch, Added: r.base.added}
	}
	return found, nil
}

// records is all that the engine's tables say.
type records struct {
	id          string
	checkpoints []checkpoint
	own         *checkpoint // of checkpoints; nil: none
	// base is where this sink's filter is at; nil if nothing was begun. It may not be
	// stored under its filter yet.
	base      *checkpoint
	snapshots []sink.Snapshot
	stored    []sink.Snapshot // those in the table; the others are placed
	placings  []placing       // that may be placed yet
	placed    []placing
	states    states
}

// readRecords reads the engine's tables, which it makes. If it may not, s.unavailable
// is set, and the records are the checkpoint's position.
func (s *Sink) readRecords(ctx context.Context, conn Conn) (*records, error) {
	r := new(records)
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
	r.own = own(r.checkpoints, s.names())
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
		s.unavailable = fmt.Errorf("the user needs the privileges SELECT, INSERT, UPDATE and DELETE on tables %s, %s and %s: %w", destinationTable, snapshotTable, stateTable, err)
		r.base = r.own
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	r.states.place(r.checkpoints, s.env.Consumer)
	r.own = own(r.checkpoints, s.names())
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
		if r := (record{l.Table, row}); r.text("name") == destinationKey {
			id = r.text("id")
		}
	}
	return id, nil
}

// base returns the checkpoint from which this sink's filter goes on: for each subject,
// what was applied is known from the checkpoints of the consumer that select it. The
// lowest of these positions is safe for all. Subjects that none selects were added.
func (s *Sink) base(r *records) *checkpoint {
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
		case at == nil && unknown: // it may have been selected by a filter of which only the hash is left
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

// ofConsumer returns those of the checkpoints that are of this sink's consumer.
func (s *Sink) ofConsumer(all []checkpoint) []checkpoint {
	var rows []checkpoint
	for _, c := range all {
		if c.stream != s.env.Stream || c.consumer != s.env.Consumer {
			continue
		}
		if c.names() == s.names() {
			c.subjects = strings.Fields(s.env.Filter) // of which an earlier version stored a hash only
		}
		rows = append(rows, c)
	}
	return rows
}

// fenced returns those of the checkpoints that other processes must not move any more:
// the consumer's, and of others those of the same changes. A server that was cut off from
// the destination while this one looked for writers may go on with them.
func (s *Sink) fenced(all []checkpoint) []checkpoint {
	rows := s.ofConsumer(all)
	for i := range all {
		if c := &all[i]; (c.stream != s.env.Stream || c.consumer != s.env.Consumer) && s.concerns(c) {
			rows = append(rows, *c)
		}
	}
	return rows
}

// later returns the one of two checkpoints with the higher position; a may be nil.
func later(a, b *checkpoint) *checkpoint {
	if a == nil || b.position.Sequence > a.position.Sequence {
		return b
	}
	return a
}

// selects reports whether one of the filters selects all messages of the given subject.
func selects(filters []string, subject string) bool {
	return slices.ContainsFunc(filters, func(pattern string) bool { return matches(pattern, subject) })
}

// matches reports whether every subject that the second filter selects is selected by
// the first one.
func matches(pattern, subject string) bool {
	p, t := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return i < len(t)
		case i >= len(t), token != "*" && token != t[i]:
			return false
		}
	}
	return len(p) == len(t)
}

func latestGeneration(rows []checkpoint) (latest int64) {
	for i := range rows {
		latest = max(latest, rows[i].followed)
	}
	return latest
}

// newEpoch returns an epoch above all that are known. Two processes that begin at once
// have different ones all the same.
func newEpoch(latest int64, rows []checkpoint) int64 {
	for i := range rows {
		latest = max(latest, rows[i].epoch)
	}
	return (latest>>16+1)<<16 | int64(rand.Uint32N(1<<16))
}

// latestSnapshot returns the generation of the latest of the snapshots.
func latestSnapshot(snapshots []sink.Snapshot) (latest int64) {
	for i := range snapshots {
		latest = max(latest, snapshots[i].Generation)
	}
	return latest
}

// Begin takes the checkpoint over for this process.
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
	n := s.names()
	next := checkpoint{
		stream: n.stream, consumer: n.consumer, filter: n.filter, position: b.Position, seen: s.sign(),
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
	after, low := s.with(b.Tables, next.position)
	next.low = low
	return next, after
}

// covered reports whether every table that was ever imported was imported since a
// generation with the rows of the subject's company.
func covered(snapshots []sink.Snapshot, since int64, subject string) bool {
	company := cdc.SubjectCompany(subject)
	has := make(map[string]bool) // by table
	for _, s := range snapshots {
		has[s.Table] = has[s.Table] || s.Scope.Has(company) && s.Generation > since
	}
	for _, ok := range has {
		if !ok {
			return false
		}
	}
	return len(has) > 0
}

// same reports whether what Begin depends on has not changed.
func (r *records) same(now *records) bool {
	if (r.own == nil) != (now.own == nil) || latestSnapshot(r.snapshots) != latestSnapshot(now.snapshots) || r.id != now.id {
		return false
	}
	return r.own == nil || r.own.position == now.own.position && r.own.epoch == now.own.epoch && r.own.generation == now.own.generation
}

// reopen says how records that are not the same differ.
func (r *records) reopen(now *records) *sink.ReopenError {
	was, is := latestSnapshot(r.snapshots), latestSnapshot(now.snapshots)
	before, after := *r, *now
	before.snapshots, after.snapshots = nil, nil
	if r.id == "" { // the first import has made it
		before.id = now.id
	}
	if r.own != nil && now.own != nil {
		own := *now.own
		own.generation = r.own.generation // an import counts it up
		after.own = &own
	}
	if is > was && before.same(&after) {
		return &sink.ReopenError{Reason: "tables have been imported", Imported: true}
	}
	return &sink.ReopenError{Reason: "the records of the destination have changed"}
}

// begin writes what Begin does.
func (s *Sink) begin(ctx context.Context, tx Tx, now *records, next *checkpoint, after states, b sink.Beginning) error {
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
		if c.names() != next.names() { // another process has to notice as well
			c.epoch, c.writer, c.seen = next.epoch, next.writer, 0
			rows = append(rows, c)
		}
	}
	set := change.Set{Table: l.Table}
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

// writeID gives the destination its identity.
func (s *Sink) writeID(ctx context.Context, tx Tx, l *Layout) error {
	row, err := recordRow(l.Table, values{"name": destinationKey, "id": s.env.ID, "version": s.env.Writer.Version})
	if err != nil {
		return err
	}
	return tx.Write(ctx, &Write{Layout: l, Upserts: []change.Row{row}})
}
