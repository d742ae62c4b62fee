package sqlsink

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// stagePrefix begins the name of every staging table.
const stagePrefix = "_eds_load_"

// loadsTable returns the record of the files that unfinished loads have staged:
// a row a file, written in the transaction of its rows, so that no file is
// staged twice.
func loadsTable() *schema.Table {
	return ownTable("_eds_load", []string{"target", "file", "job"}, "row_count")
}

// load is the load of one table, over a session of its own.
type load struct {
	sink *Sink
	job  string
	t    *schema.Table
	mode sink.LoadMode

	conn    Conn // nil: not connected
	live    *Layout
	stage   *Layout
	records *Layout
	files   map[string]int64 // staged files and their rows
	// recorded are the table's records of files, of whatever job.
	recorded []change.Row
	unsure   bool // a transaction's outcome is not known: files may lack one
	done     bool // finished or discarded
}

// BeginLoad begins or resumes the load of one table. It migrates the live table,
// of which it trusts nothing that was read before.
func (s *Sink) BeginLoad(ctx context.Context, job string, t *schema.Table, mode sink.LoadMode) (sink.Load, error) {
	s.mu.Lock()
	s.forgetTable(t.Name)
	s.mu.Unlock()
	if _, err := s.Migrate(ctx, []*schema.Table{t}); err != nil {
		return nil, err
	}
	l := &load{sink: s, job: job, t: t, mode: mode}
	if err := l.attempt(ctx, "begin to load", func(ctx context.Context) error { return l.begin(ctx) }); err != nil {
		_ = l.Close(ctx)
		return nil, err
	}
	return l, nil
}

// attempt runs do over the load's session, and leaves the load ready for another
// attempt where it fails.
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
	conn, err := l.sink.dialect.Connect(ctx)
	if err != nil {
		return err
	}
	l.conn = conn
	return nil
}

func (l *load) stageName() string { return l.sink.dialect.Name(stagePrefix + l.t.Name) }

// begin finds what an earlier run of the job has staged, or makes a new stage.
func (l *load) begin(ctx context.Context) error {
	s := l.sink
	var err error
	if l.live, err = s.readLayout(ctx, l.conn, l.t); err != nil {
		return err
	}
	if l.live == nil {
		return fmt.Errorf("table %q does not exist", l.t.Name)
	}
	if l.records, err = l.recordsLayout(ctx); err != nil {
		return err
	}
	if err := l.readRecords(ctx); err != nil {
		return err
	}
	if resumed, err := l.resume(ctx); resumed || err != nil {
		return err
	}
	if err := l.forget(ctx); err != nil {
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

// recordsLayout returns the layout of the record of files, made by the sink's
// own session where it does not exist, so that concurrent loads make it once.
func (l *load) recordsLayout(ctx context.Context) (*Layout, error) {
	s := l.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	var shared *Layout
	err := s.attempt(ctx, "prepare", func(conn Conn) error {
		var err error
		shared, err = s.layoutOfOwn(ctx, conn, "_eds_load", loadsTable)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.newLayout(shared.Table, shared.Real)
}

// readRecords reads which files of the table this job, and others, have staged.
func (l *load) readRecords(ctx context.Context) error {
	l.files, l.recorded = make(map[string]int64), nil
	t := l.records.Table
	for row, err := range l.conn.Read(ctx, l.records) {
		if err != nil {
			return fmt.Errorf("read the record of loaded files: %w", err)
		}
		target, file, job := columnText(t, row, "target"), columnText(t, row, "file"), columnText(t, row, "job")
		if target != l.t.Name {
			continue
		}
		rows, err := strconv.ParseInt(columnText(t, row, "row_count"), 10, 64)
		if err != nil {
			return errors.New("read the record of loaded files: a row count is not a number")
		}
		record, err := recordRow(t, []string{target, file, job}, rows)
		if err != nil {
			return err
		}
		l.recorded = append(l.recorded, record)
		if job == l.job {
			l.files[file] = rows
		}
	}
	return nil
}

// resume takes up the stage of an earlier run, where there is one that fits.
func (l *load) resume(ctx context.Context) (bool, error) {
	if len(l.files) == 0 {
		return false, nil
	}
	stage, err := l.describeStage(ctx)
	if stage == nil || err != nil || len(stage.Columns) != len(l.live.Columns) {
		return false, err
	}
	l.stage = stage
	return true, nil
}

// describeStage returns the layout of the staging table, nil where there is none.
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

// LoadFile stages the rows of a file and records it, in one transaction.
func (l *load) LoadFile(ctx context.Context, file string, rows iter.Seq2[*change.Row, error]) (int64, error) {
	var count int64
	var record change.Row
	err := l.attempt(ctx, "stage a file of", func(ctx context.Context) error {
		if n, ok := l.files[file]; ok {
			count = n
			return nil
		}
		return l.sink.transact(ctx, l.conn, func(tx Tx) error {
			var err error
			if count, err = tx.Append(ctx, l.stage, rows); err != nil {
				return err
			}
			if record, err = recordRow(l.records.Table, []string{l.t.Name, file, l.job}, count); err != nil {
				return err
			}
			return tx.Write(ctx, &Write{Layout: l.records, Upserts: []change.Row{record}})
		})
	})
	if err != nil {
		return 0, err
	}
	if !l.Loaded(file) {
		l.files[file] = count
		l.recorded = append(l.recorded, record)
	}
	return count, nil
}

// Finish puts the staged rows in place of the live table's, or upserts them, and
// forgets the load, in one transaction.
func (l *load) Finish(ctx context.Context) error {
	err := l.attempt(ctx, "finish loading", func(ctx context.Context) error {
		if l.done {
			return nil
		}
		stage, err := l.describeStage(ctx)
		if err != nil {
			return err
		}
		if stage == nil { // an earlier attempt was durable
			return nil
		}
		l.stage = stage
		if err := l.conn.Seal(ctx, l.stage, l.live); err != nil {
			return fmt.Errorf("index the staged rows: %w", err)
		}
		return l.sink.transact(ctx, l.conn, func(tx Tx) error {
			if err := tx.Place(ctx, l.stage, l.live, l.mode); err != nil {
				return err
			}
			return l.forgetFiles(ctx, tx)
		})
	})
	if err != nil {
		return err
	}
	l.done = true
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	l.sink.forgetTable(l.t.Name)
	return nil
}

// Discard drops the stage and the record of its files.
func (l *load) Discard(ctx context.Context) error {
	err := l.attempt(ctx, "discard the load of", func(ctx context.Context) error { return l.forget(ctx) })
	l.done = l.done || err == nil
	return err
}

// forget drops the stage and all records of the table, whatever their job.
func (l *load) forget(ctx context.Context) error {
	return l.sink.transact(ctx, l.conn, func(tx Tx) error {
		if err := tx.Drop(ctx, l.stageName()); err != nil {
			return err
		}
		return l.forgetFiles(ctx, tx)
	})
}

// forgetFiles deletes the table's records.
func (l *load) forgetFiles(ctx context.Context, tx Tx) error {
	if len(l.recorded) == 0 {
		return nil
	}
	set := change.Set{Table: l.records.Table, Deletes: keysOf(l.records.Table, l.recorded...)}
	set.SortByKey()
	return tx.Write(ctx, &Write{Layout: l.records, Deletes: set.Deletes})
}

// Close closes the session. The stage stays.
func (l *load) Close(ctx context.Context) error {
	if l.conn == nil {
		return nil
	}
	err := l.conn.Close(ctx)
	l.conn = nil
	return err
}
