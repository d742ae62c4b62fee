package sqlsink

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// tableLoad is the load of one table. Each tableLoad has its own session.
type tableLoad struct {
	sink *Sink
	job  string
	t    *schema.Table
	mode sink.LoadMode
	// scope lists the columns that select the rows to replace. It is nil if all rows are
	// replaced.
	scope []sink.ScopeColumn

	conn     Conn // nil if not connected
	live     *Layout
	stage    *Layout // nil if the load is lost
	records  *Layout
	id       string           // the loadID in records
	files    map[string]int64 // number of rows that each staged file added to the stage
	recorded []change.Row     // the job's file records, including those with another loadID
	others   map[string]*otherLoad
	unsure   bool // the outcome of a transaction is unknown, so files may lack a staged file

	advance

	snapshot *snapshotRecord // nil if the destination keeps no records

	placing bool  // a transaction that places the rows has started
	rows    int64 // number of rows to place
	done    bool  // finished or discarded
}

// BeginLoad starts or resumes the load of one table. It reads the description of the live table
// again, and migrates the table.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode, scope sink.Scope) (sink.Load, error) {
	l := &tableLoad{sink: s, job: job, t: t, mode: mode}
	if mode.Replaces() {
		var ok bool
		if l.scope, ok = scope.Columns(t); !ok {
			return nil, fault.Mark(fault.Fatal, fmt.Errorf(
				"replace some rows of table %q: it has no column that selects them; merge them instead", t.Name))
		}
	}
	s.mu.Lock()
	s.forgetTable(t.Name)
	s.mu.Unlock()
	if _, err := s.migrateFor(ctx, []*schema.Table{t}, true); err != nil {
		return nil, err
	}
	if err := l.attempt(ctx, "begin to load", l.begin); err != nil {
		_ = l.Close(ctx)
		return nil, err
	}
	return l, nil
}

// attempt runs the callback do on the load's session. After an error, the caller may try again:
// the next attempt connects again if the session was lost.
func (l *tableLoad) attempt(ctx context.Context, what string, do func(ctx context.Context) error) error {
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

func (l *tableLoad) connect(ctx context.Context) error {
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

// stageName returns the name of the job's staging table.
func (l *tableLoad) stageName() string { return l.sink.dialect.Name(StageName(l.job, l.t.Name)) }

// begin resumes the staging table of an earlier run of the job, or creates a new staging table.
func (l *tableLoad) begin(ctx context.Context) error {
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
		return fmt.Errorf("remove the stages of earlier loads: %w", err)
	}
	if resumed, err := l.resume(ctx); resumed || err != nil {
		return err
	}
	if err := l.startOver(ctx); err != nil {
		return err
	}
	if err := l.conn.Stage(ctx, l.live, l.stageName()); err != nil {
		return fmt.Errorf("create a staging table: %w", err)
	}
	l.stage, err = l.describeStage(ctx)
	if err == nil && l.stage == nil {
		err = fmt.Errorf("staging table %q was dropped", l.stageName())
	}
	return err
}

// readLive returns the layout of the live table, with the scope of the load. It returns nil if
// the table does not exist.
func (l *tableLoad) readLive(ctx context.Context) (*Layout, error) {
	live, err := l.sink.readLayout(ctx, l.conn, l.t)
	if live == nil || err != nil {
		return nil, err
	}
	for _, c := range l.scope {
		name := l.t.Columns[c.Slot].Name
		column := l.sink.find(live.Real, l.sink.dialect.Name(name))
		if column == nil {
			err := fmt.Errorf("table %q has no column %q, which selects the rows to replace", live.Real.Name, name)
			return nil, fault.Mark(fault.Fatal, err)
		}
		live.Scope = append(live.Scope, Within{Column: column, Values: c.Values})
	}
	return live, nil
}

// resume continues with the staging table of an earlier run, and reports whether that run left a
// suitable staging table. A staging table to which changes were applied is not suitable, because
// the number of its rows cannot be verified.
func (l *tableLoad) resume(ctx context.Context) (bool, error) {
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

// describeStage returns the layout of the staging table, or nil if the table does not exist.
func (l *tableLoad) describeStage(ctx context.Context) (*Layout, error) {
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
func (l *tableLoad) Loaded(file string) bool {
	_, ok := l.files[file]
	return ok
}

// LoadFile stages the rows of a file and records the file, in one transaction. It returns the
// number of rows in the file. If the file is already staged, it returns the number of rows that
// the file added to the stage.
func (l *tableLoad) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
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
			return lost("the load must start again")
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

// nameLive changes the error of a refused row: it replaces the name of the staging table with the
// name of the live table, which the operator knows.
func (l *tableLoad) nameLive(err error) error {
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

// Discard drops the staging table and deletes the records of its files.
func (l *tableLoad) Discard(ctx context.Context) error {
	err := l.attempt(ctx, "discard the load of", l.forget)
	l.done = l.done || err == nil
	return err
}

// Close closes the session. The staging table stays for a later run.
func (l *tableLoad) Close(ctx context.Context) error {
	if l.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, rollbackTimeout)
	defer cancel()
	err := l.conn.Close(ctx)
	l.conn = nil
	return err
}
