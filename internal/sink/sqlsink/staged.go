package sqlsink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// stagePrefix begins the name of every staging table.
const stagePrefix = "_eds_load_"

// jobDigits is how many digits of a loadID tell its job.
const jobDigits = 8

// StageName returns the name of what a job stages of a table, before Dialect.Name.
func StageName(job, table string) string { return stageName(jobID(job), table) }

func stageName(id, table string) string { return stagePrefix + id[:jobDigits] + "_" + table }

// Beside returns the name, among those of eds's own, of something that belongs to a
// staging table. No staging table has it, as one might if the name only ended otherwise.
func Beside(kind, stage string) string {
	return "_eds_" + kind + "_" + strings.TrimPrefix(stage, stagePrefix)
}

func jobID(job string) string {
	sum := sha256.Sum256([]byte(job))
	return hex.EncodeToString(sum[:])[:jobDigits]
}

// loadID identifies a job, the columns that it stages values for, and what these are
// checked by. Rows that were staged for other columns or by other checks, or under another
// update strategy, are not this load's.
func loadID(job string, live *Layout) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", job)
	for _, c := range live.Columns {
		fmt.Fprintf(h, " %q %q %t %d %d %t", c.Real.Name, c.Real.Type, c.Real.Nullable, c.Type, c.Meta, c.Key)
	}
	for _, check := range live.Real.Checks {
		fmt.Fprintf(h, " %q", check)
	}
	return jobID(job) + hex.EncodeToString(h.Sum(nil))[:32-jobDigits]
}

// loadsTable returns the record of the files that unfinished loads have staged: one
// row per file, written in the transaction of its rows, so that no file is staged
// twice. The job is a loadID, and row_count how many rows the stage has more. Staged is
// the time, in Unix ms; it is null if an earlier version staged the file.
func loadsTable() *schema.Table {
	return ownTable(loadTable, []string{"target", "file", "job"}, integer("row_count"), optional("staged"))
}

// Records that are not of files.
const (
	// startRecord is the first record of a load. It precedes the staging table, so that
	// none is without a record.
	startRecord = "_eds_start"
	// duplicatesRecord tells how many staged rows were removed again because a later
	// one has their key, as a negative number.
	duplicatesRecord = "_eds_duplicates"
	// advancedRecord tells that the stage was brought forward, and to which sequence of
	// the stream, in the place of a number of rows.
	advancedRecord = "_eds_advanced"
)

// abandonedAfter is how long a load of another job is left alone after it has staged its
// latest file.
const abandonedAfter = 24 * time.Hour

// otherLoad is what another job has staged of the table.
type otherLoad struct {
	records []change.Row
	latest  time.Time // zero: by an earlier version
}

// recordsLayout returns the layout of the record of files, made by the sink's
// own session if it does not exist, so that concurrent loads make it once.
func (l *load) recordsLayout(ctx context.Context) (*Layout, error) {
	s := l.sink
	s.mu.Lock()
	defer s.mu.Unlock()
	var shared *Layout
	err := s.attempt(ctx, "prepare", func(conn Conn) error {
		var err error
		shared, err = s.layoutOfOwn(ctx, conn, loadTable)
		if err == nil {
			l.snapshot, err = s.snapshotRecord(ctx, conn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.newLayout(shared.Table, shared.Real)
}

// readRecords reads which files of the table this load and others have staged.
func (l *load) readRecords(ctx context.Context) error {
	l.files, l.recorded, l.others = make(map[string]int64), nil, make(map[string]*otherLoad)
	t := l.records.Table
	for row, err := range l.conn.Read(ctx, l.records) {
		if err != nil {
			return fmt.Errorf("read the record of loaded files: %w", err)
		}
		r := record{t, row}
		target, file, job := r.text("target"), r.text("file"), r.text("job")
		if target != l.t.Name {
			continue
		}
		rows, err := strconv.ParseInt(r.text("row_count"), 10, 64)
		if err != nil {
			return errors.New("read the record of loaded files: a row count is not a number")
		}
		record, err := recordRow(t, values{"target": target, "file": file, "job": job, "row_count": rows})
		if err != nil {
			return err
		}
		if !strings.HasPrefix(job, l.id[:jobDigits]) {
			l.noteOther(job, record, r.integer("staged"))
			continue
		}
		l.recorded = append(l.recorded, record)
		if job == l.id {
			l.files[file] = rows
		}
	}
	return nil
}

// noteOther adds a record of another job.
func (l *load) noteOther(job string, record change.Row, staged int64) {
	other := l.others[job]
	if other == nil {
		other = new(otherLoad)
		l.others[job] = other
	}
	other.records = append(other.records, record)
	if at := time.UnixMilli(staged); staged > 0 && at.After(other.latest) {
		other.latest = at
	}
}

// record writes how many rows the stage has more for a file.
func (l *load) record(ctx context.Context, tx Tx, file string, added int64) (change.Row, error) {
	record, err := recordRow(l.records.Table, values{"target": l.t.Name, "file": file, "job": l.id, "row_count": added, "staged": time.Now().UnixMilli()})
	if err != nil {
		return record, err
	}
	return record, tx.Write(ctx, &Write{Layout: l.records, Upserts: []change.Row{record}})
}

// startOver drops what the job has staged, and records that it begins.
func (l *load) startOver(ctx context.Context) error {
	if err := l.forget(ctx); err != nil {
		return err
	}
	var record change.Row
	err := l.sink.transact(ctx, l.conn, func(tx Tx) (err error) {
		record, err = l.record(ctx, tx, startRecord, 0)
		return err
	})
	if err == nil {
		l.files[startRecord] = 0
		l.recorded = append(l.recorded, record)
	}
	return err
}

// forgetOld drops what jobs staged that were abandoned, and what earlier versions
// staged, whose staging tables have no job in their name.
func (l *load) forgetOld(ctx context.Context) error {
	name := l.sink.dialect.Name
	var records []change.Row
	stages := []string{name(stagePrefix + l.t.Name)}
	for job, other := range l.others {
		if time.Since(other.latest) < abandonedAfter {
			continue
		}
		records = append(records, other.records...)
		if len(job) >= jobDigits {
			stages = append(stages, name(stageName(job, l.t.Name)))
		}
	}
	return l.sink.transact(ctx, l.conn, func(tx Tx) error {
		for _, stage := range stages {
			if err := tx.Drop(ctx, stage); err != nil {
				return err
			}
		}
		return l.deleteRecords(ctx, tx, records)
	})
}

// forget drops the stage and all records of the job.
func (l *load) forget(ctx context.Context) error {
	err := l.sink.transact(ctx, l.conn, func(tx Tx) error {
		if err := tx.Drop(ctx, l.stageName()); err != nil {
			return err
		}
		return l.forgetFiles(ctx, tx)
	})
	if err == nil {
		clear(l.files)
		l.recorded = nil
	}
	return err
}

// forgetFiles deletes the job's records.
func (l *load) forgetFiles(ctx context.Context, tx Tx) error {
	return l.deleteRecords(ctx, tx, l.recorded)
}

func (l *load) deleteRecords(ctx context.Context, tx Tx, records []change.Row) error {
	if len(records) == 0 {
		return nil
	}
	set := change.Set{Table: l.records.Table, Deletes: keysOf(l.records.Table, records...)}
	set.SortByKey()
	return tx.Write(ctx, &Write{Layout: l.records, Deletes: set.Deletes})
}
