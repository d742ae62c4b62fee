package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// load is the load of one table, over a session of its own.
type load struct {
	sink *Sink
	job  string
	t    *schema.Table
	mode sink.LoadMode
	// scope are the columns that tell which rows the load replaces; nil: all of them.
	scope []sink.ScopeColumn

	conn     Conn // nil: not connected
	live     *Layout
	stage    *Layout // nil: the load is lost
	records  *Layout
	id       string           // of the job and the stage's layout, in records
	files    map[string]int64 // staged files and how many rows the stage has more for each
	recorded []change.Row     // the job's records of them, also for other columns
	others   map[string]*otherLoad
	unsure   bool // a transaction's outcome is not known: files may lack one

	advance

	snapshot *snapshotRecord // to be recorded with the rows; nil: none

	placing bool  // a transaction was begun that puts the rows in place
	rows    int64 // that it puts there
	done    bool  // finished or discarded
}

// BeginLoad begins or resumes the load of one table. It migrates the live table,
// of which it trusts nothing that was read before.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	l := &load{sink: s, job: job, t: t, mode: mode}
	if mode.Replaces() {
		var ok bool
		if l.scope, ok = scope.Columns(t); !ok {
			return nil, fault.Mark(fault.Fatal, fmt.Errorf("replace some rows of table %q: it has no column that tells which; merge them instead", t.Name))
		}
	}
	s.mu.Lock()
	s.forgetTable(t.Name)
	s.mu.Unlock()
	if _, err := s.migrateFor(ctx, []*schema.Table{t}, true); err != nil {
		return nil, err
	}
	if err := l.attempt(ctx, "begin to load", func(ctx context.Context) error { return l.begin(ctx) }); err != nil {
		_ = l.Close(ctx)
		return nil, err
	}
	return l, nil
}

// attempt runs do over the load's session, and leaves the load ready for another
// attempt if it fails.
func (l *load) attempt(ctx context.Context, what string, do func(ctx context.Context) error) error {
	err := l.connect(ctx)
	if err == nil && l.unsure && l.stage != nil {
		err = l.readRecords(ctx)
	}
	if err == nil {
		l.unsure = false
		err = do(ctx)
	}
	if err == nil {
		return nil
	}
	l.unsure = true
	s := l.sink
	if l.conn != nil {
		err = s.blameWriters(ctx, l.conn, err, s.dialect.Name(l.t.Name), l.stageName())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict(err).Lost && l.conn != nil {
		s.abandon(ctx, l.conn)
		l.conn = nil
	}
	return s.fail(fmt.Sprintf("%s table %q", what, l.t.Name), err)
}

func (l *load) connect(ctx context.Context) error {
	if l.conn != nil {
		return nil
	}
	conn, err := l.sink.connect(ctx)
	if err != nil {
		return err
	}
	l.conn, l.layouts = conn, make(map[*schema.Table]*Layout)
	return nil
}

// stageName is the name of the job's staging table.
func (l *load) stageName() string { return l.sink.dialect.Name(StageName(l.job, l.t.Name)) }

// begin finds what an earlier run of the job has staged, or makes a new stage.
func (l *load) begin(ctx context.Context) error {
	var err error
	if l.live, err = l.readLive(ctx); err != nil {
		return err
	}
	if l.live == nil {
		return fmt.Errorf("table %q does not exist", l.t.Name)
	}
	l.id = loadID(l.job, l.live)
	if l.records, err = l.recordsLayout(ctx); err != nil {
		return err
	}
	if err := l.readRecords(ctx); err != nil {
		return err
	}
	if err := l.forgetOld(ctx); err != nil {
		return fmt.Errorf("remove what earlier loads staged: %w", err)
	}
	if resumed, err := l.resume(ctx); resumed || err != nil {
		return err
	}
	if err := l.startOver(ctx); err != nil {
		return err
	}
	if err := l.conn.Stage(ctx, l.live, l.stageName()); err != nil {
		return fmt.Errorf("make a staging table: %w", err)
	}
	l.stage, err = l.describeStage(ctx)
	if err == nil && l.stage == nil {
		err = fmt.Errorf("staging table %q was dropped", l.stageName())
	}
	return err
}

// readLive reads the layout of the live table, with the scope of the load; nil if there
// is no such table.
func (l *load) readLive(ctx context.Context) (*Layout, error) {
	live, err := l.sink.readLayout(ctx, l.conn, l.t)
	if live == nil || err != nil {
		return nil, err
	}
	for _, c := range l.scope {
		name := l.t.Columns[c.Slot].Name
		column := l.sink.find(live.Real, l.sink.dialect.Name(name))
		if column == nil {
			return nil, fault.Mark(fault.Fatal, fmt.Errorf("table %q has no column %q, which tells what rows to replace", live.Real.Name, name))
		}
		live.Scope = append(live.Scope, Within{Column: column, Values: c.Values})
	}
	return live, nil
}

// resume takes up the stage of an earlier run, if there is one that fits. One that was
// brought forward has other rows than its files, so that none can be missed.
func (l *load) resume(ctx context.Context) (bool, error) {
	if len(l.files) == 0 || l.Loaded(advancedRecord) {
		return false, nil
	}
	stage, err := l.describeStage(ctx)
	if stage == nil || err != nil || len(stage.Columns) != len(l.live.Columns) {
		return false, err
	}
	l.stage = stage
	return true, nil
}

// describeStage returns the layout of the staging table, nil if there is none.
func (l *load) describeStage(ctx context.Context) (*Layout, error) {
	found, err := l.conn.Tables(ctx, []string{l.stageName()})
	if err != nil || len(found) == 0 {
		return nil, err
	}
	stage, err := l.sink.newLayout(l.t, found[0])
	if err != nil {
		return nil, err
	}
	stage.Guard, stage.Soft = false, false
	return stage, nil
}

// Loaded reports whether the file is staged.
func (l *load) Loaded(file string) bool {
	_, ok := l.files[file]
	return ok
}

// LoadFile stages the rows of a file and records it, in one transaction. It returns
// how many rows the file has.
func (l *load) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	var count, added int64
	var record change.Row
	counted := func(yield func(*change.Row, error) bool) {
		for row, err := range rows {
			if err == nil {
				count++
			}
			if !yield(row, err) {
				return
			}
		}
	}
	err := l.attempt(ctx, "stage a file of", func(ctx context.Context) error {
		if l.stage == nil {
			return lost("the load has to begin again")
		}
		if n, ok := l.files[file]; ok {
			count, added = n, n
			return nil
		}
		return l.sink.transact(ctx, l.conn, func(tx Tx) error {
			var err error
			if added, err = tx.Append(ctx, l.stage, counted); err != nil {
				return err
			}
			record, err = l.record(ctx, tx, file, added)
			return err
		})
	})
	if err != nil {
		return 0, l.nameLive(err)
	}
	if !l.Loaded(file) {
		l.files[file] = added
		l.recorded = append(l.recorded, record)
	}
	return count, nil
}

// nameLive returns the error of a row that is refused with the live table's name in the
// place of the staging table's, which means nothing to the operator.
func (l *load) nameLive(err error) error {
	if fault.Of(err) != fault.Poison || l.live == nil {
		return err
	}
	return &namedError{strings.ReplaceAll(err.Error(), l.stageName(), l.live.Real.Name), err}
}

type namedError struct {
	text string
	err  error
}

func (e *namedError) Error() string { return e.text }
func (e *namedError) Unwrap() error { return e.err }

// Record has Finish record a snapshot.
func (l *load) Record(s sink.Snapshot) bool {
	if l.snapshot == nil {
		return false
	}
	s.Imported = time.Now().UTC()
	l.snapshot.s = &s
	return true
}

// Finish puts the staged rows in place of the live table's, or upserts them, and
// forgets the load, in one transaction.
func (l *load) Finish(ctx context.Context) (int64, error) {
	err := l.attempt(ctx, "finish loading", func(ctx context.Context) error {
		if l.done {
			return nil
		}
		placed, err := l.look(ctx)
		if err == nil {
			err = l.snapshot.prepare(ctx, l.conn)
		}
		switch {
		case err != nil:
			return err
		case placed:
			return l.conclude(ctx, func(tx Tx) error { return tx.Drop(ctx, l.stageName()) })
		}
		if l.rows, err = l.seal(ctx); err != nil {
			return err
		}
		if err := l.spare(ctx); err != nil {
			return err
		}
		mode := sink.Merge
		if l.mode.Replaces() {
			mode = sink.Replace
		}
		l.snapshot.identify(l.conn, l.stage, l.live, mode)
		if err := l.announce(ctx); err != nil {
			return fmt.Errorf("record what is put in place: %w", err)
		}
		l.placing = true
		return l.sink.retryLocked(ctx, l.conn, "put rows in place", []string{l.live.Real.Name}, func() error {
			return l.conclude(ctx, func(tx Tx) error { return tx.Place(ctx, l.stage, l.live, mode) })
		})
	})
	if err != nil {
		return 0, err
	}
	l.done = true
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	l.sink.forgetTable(l.t.Name)
	return l.rows, nil
}

// conclude does what is left to do and completes the load, in one transaction. The loads of
// a sink commit in the order of their snapshots' generations: a server that has read one
// takes all lower ones for read.
func (l *load) conclude(ctx context.Context, do func(Tx) error) error {
	numbered := false
	defer func() {
		if numbered {
			l.sink.numbering.Unlock()
		}
	}()
	return l.sink.transact(ctx, l.conn, func(tx Tx) error {
		if err := do(tx); err != nil {
			return err
		}
		l.sink.numbering.Lock()
		numbered = true
		return l.complete(ctx, tx)
	})
}

// complete forgets the load, whose rows are in place, and records the snapshot.
func (l *load) complete(ctx context.Context, tx Tx) error {
	if err := l.forgetFiles(ctx, tx); err != nil {
		return err
	}
	return l.snapshot.write(ctx, tx, l.rows)
}

// look reads what has become of the stage and of the live table. It reports that the
// rows are in place if an attempt to put them there was durable and only its answer
// was lost: the stage is gone then, or its records are.
func (l *load) look(ctx context.Context) (placed bool, err error) {
	if l.stage == nil {
		return false, lost("the load has to begin again")
	}
	l.layouts = make(map[*schema.Table]*Layout)
	stage, err := l.describeStage(ctx)
	if err != nil {
		return false, err
	}
	if l.placing && (stage == nil || len(l.files) == 0) {
		return l.wasPlaced(ctx)
	}
	if stage == nil {
		return false, l.lose(ctx, fmt.Sprintf("staging table %q does not exist any more", l.stageName()))
	}
	live, err := l.readLive(ctx)
	if err != nil {
		return false, err
	}
	if live == nil || loadID(l.job, live) != l.id {
		return false, l.lose(ctx, fmt.Sprintf("the columns or constraints of table %q were changed meanwhile", l.t.Name))
	}
	l.live, l.stage = live, stage
	return false, l.kept(ctx)
}

// wasPlaced reports whether an attempt to put the rows in place was durable, whose stage or
// records are gone. They are also gone from a database that was put back or replaced since.
func (l *load) wasPlaced(ctx context.Context) (bool, error) {
	live, err := l.readLive(ctx)
	if err != nil {
		return false, err
	}
	recorded := true
	if l.snapshot != nil && l.snapshot.s != nil {
		if recorded, err = l.snapshot.holds(ctx, l.conn, l.stageName()); err != nil {
			return false, err
		}
	}
	if live == nil || !recorded {
		return false, l.lose(ctx, fmt.Sprintf("the database has neither staging table %q nor its rows any more", l.stageName()))
	}
	return true, nil
}

// seal makes sure that all rows are staged, makes the stage ready to be put in place or
// brought forward, and returns how many rows it has then, one per key.
func (l *load) seal(ctx context.Context) (int64, error) {
	count, err := l.verify(ctx)
	if err != nil {
		return 0, err
	}
	err = l.conn.Seal(ctx, l.stage, l.live)
	if twice := new(DuplicatesError); errors.As(err, &twice) {
		if err := l.deduplicate(ctx, twice.Rows); err != nil {
			return 0, fmt.Errorf("remove rows that were staged twice: %w", err)
		}
		if count, err = l.verify(ctx); err != nil {
			return 0, err
		}
		err = l.conn.Seal(ctx, l.stage, l.live)
	}
	if err != nil {
		return 0, fmt.Errorf("index the staged rows: %w", err)
	}
	l.least, l.most = count, count // also if it is called again
	return count, nil
}

// verify compares the rows of the stage with those of its files, and returns how many
// there are.
func (l *load) verify(ctx context.Context) (int64, error) {
	least, most := l.bounds()
	count, err := l.conn.Count(ctx, l.stage)
	if err != nil {
		return 0, fmt.Errorf("count the staged rows: %w", err)
	}
	if count < least || count > most {
		return 0, l.lose(ctx, fmt.Sprintf("staging table %q has %d rows instead of %d", l.stageName(), count, least))
	}
	return count, nil
}

// deduplicate removes rows whose key was staged again later, and records how many.
func (l *load) deduplicate(ctx context.Context, rows int64) error {
	removed := l.files[duplicatesRecord] - rows
	var record change.Row
	err := l.sink.transact(ctx, l.conn, func(tx Tx) error {
		d, ok := tx.(Deduplicator)
		if !ok {
			return fmt.Errorf("%T cannot", tx)
		}
		err := d.Deduplicate(ctx, l.stage)
		if err == nil {
			record, err = l.record(ctx, tx, duplicatesRecord, removed)
		}
		return err
	})
	if err != nil {
		return err
	}
	l.files[duplicatesRecord] = removed
	l.recorded = append(l.recorded, record)
	return nil
}

// spare returns ErrWouldEmpty if nothing was loaded that could replace rows of the live
// table. Changes that were applied since do not count.
func (l *load) spare(ctx context.Context) error {
	if l.staged() > 0 || l.mode != sink.Replace {
		return nil
	}
	rows, err := l.conn.Count(ctx, l.live)
	if err != nil {
		return fmt.Errorf("count the rows of the table: %w", err)
	}
	if rows > 0 {
		return fault.Mark(fault.Fatal, sink.ErrWouldEmpty)
	}
	return nil
}

// lose forgets the load, and returns why it has to begin again.
func (l *load) lose(ctx context.Context, why string) error {
	if err := l.forget(ctx); err != nil {
		return err
	}
	l.stage = nil
	return lost(why)
}

func lost(why string) error {
	return fault.Mark(fault.Fatal, fmt.Errorf("%w: %s", sink.ErrLoadLost, why))
}

// Discard drops the stage and the record of its files.
func (l *load) Discard(ctx context.Context) error {
	err := l.attempt(ctx, "discard the load of", func(ctx context.Context) error { return l.forget(ctx) })
	l.done = l.done || err == nil
	return err
}

// Close closes the session. The stage stays.
func (l *load) Close(ctx context.Context) error {
	if l.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rollbackTimeout)
	defer cancel()
	err := l.conn.Close(ctx)
	l.conn = nil
	return err
}
