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

// stagePrefix is the prefix of the names of all staging tables.
const stagePrefix = "_eds_load_"

// jobDigits is the number of digits at the start of a loadID that identify the job.
const jobDigits = 8

// StageName returns the name of a job's staging table for the given table. The caller passes the
// result to Dialect.Name.
func StageName(job, table string) string { return stageName(jobID(job), table) }

func stageName(id, table string) string { return stagePrefix + id[:jobDigits] + "_" + table }

// StageObjectName returns the name for an object of the given kind, such as an index, that
// belongs to a staging table. No staging table has such a name.
func StageObjectName(kind, stage string) string {
	return "_eds_" + kind + "_" + strings.TrimPrefix(stage, stagePrefix)
}

func jobID(job string) string {
	sum := sha256.Sum256([]byte(job))
	return hex.EncodeToString(sum[:])[:jobDigits]
}

// loadID returns an id that depends on the job, and on the columns and checks of the job's staging
// table. A load does not reuse rows that were staged with other columns, other checks or another
// update strategy.
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

// loadsTable returns the table that records which files unfinished loads have staged. It has one
// row per file, written in the same transaction as the file's rows, so that no file is staged
// twice. "job" is a loadID. "row_count" is the number of rows that the file added to the staging
// table. "staged" is a Unix time in ms, or NULL if an earlier version staged the file.
func loadsTable() *schema.Table {
	return ownTable(loadTable, []string{"target", "file", "job"}, integer("row_count"), optional("staged"))
}

// Placeholder file names, for records that do not describe a file.
const (
	// startRecord is the first record of a load. It is written before the staging table is
	// created, so every staging table has at least one record.
	startRecord = "_eds_start"
	// duplicatesRecord stores the number of rows that deduplication has removed, as a negative
	// number of rows.
	duplicatesRecord = "_eds_duplicates"
	// advancedRecord stores the sequence of the latest change that was applied to the staging
	// table, in place of a number of rows.
	advancedRecord = "_eds_advanced"
)

// abandonedAfter is the time without a newly staged file after which the load of another job
// counts as abandoned and is deleted.
const abandonedAfter = 24 * time.Hour

// otherLoad is the load of the same table by another job.
type otherLoad struct {
	records []change.Row
	latest  time.Time // time of the latest file, or zero if an earlier version staged it
}

// recordsLayout returns the layout of the table of staged files. The table is created over the
// sink's session, so concurrent loads do not try to create it at the same time.
func (l *tableLoad) recordsLayout(ctx context.Context) (*Layout, error) {
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

// readRecords reads which files of the table this load and other loads have staged.
func (l *tableLoad) readRecords(ctx context.Context) error {
	l.files, l.recorded, l.others = make(map[string]int64), nil, make(map[string]*otherLoad)
	t := l.records.Table
	for row, err := range l.conn.Read(ctx, l.records) {
		if err != nil {
			return fmt.Errorf("read the record of loaded files: %w", err)
		}
		r := engineRow{t, row}
		target, file, job := r.text("target"), r.text("file"), r.text("job")
		if target != l.t.Name {
			continue
		}
		rows, err := strconv.ParseInt(r.text("row_count"), 10, 64)
		if err != nil {
			return errors.New("read the record of loaded files: a row count is not a number")
		}
		record, err := recordRow(t, recordValues{"target": target, "file": file, "job": job, "row_count": rows})
		if err != nil {
			return err
		}
		if !strings.HasPrefix(job, l.id[:jobDigits]) {
			l.addOther(job, record, r.integer("staged"))
			continue
		}
		l.recorded = append(l.recorded, record)
		if job == l.id {
			l.files[file] = rows
		}
	}
	return nil
}

// addOther adds a record to the records of another job's load.
func (l *tableLoad) addOther(job string, record change.Row, staged int64) {
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

// fileRecord returns the record of a file that added the given number of rows to the staging
// table.
func (l *tableLoad) fileRecord(file string, added int64) (change.Row, error) {
	return recordRow(l.records.Table, recordValues{
		"target": l.t.Name, "file": file, "job": l.id, "row_count": added, "staged": time.Now().UnixMilli(),
	})
}

// record creates the record of a file with fileRecord, writes the record, and returns it.
func (l *tableLoad) record(ctx context.Context, tx Tx, file string, added int64) (change.Row, error) {
	record, err := l.fileRecord(file, added)
	if err != nil {
		return record, err
	}
	return record, tx.Write(ctx, &Write{Layout: l.records, Upserts: []change.Row{record}})
}

// startOver drops the job's staging table and writes its startRecord.
func (l *tableLoad) startOver(ctx context.Context) error {
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

// forgetOld drops the staging tables of abandoned jobs and deletes their records. It also drops
// the staging table of earlier versions, which has no job in its name.
func (l *tableLoad) forgetOld(ctx context.Context) error {
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

// forget drops the job's staging table and deletes all its records.
func (l *tableLoad) forget(ctx context.Context) error {
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

// forgetFiles deletes the job's file records.
func (l *tableLoad) forgetFiles(ctx context.Context, tx Tx) error {
	return l.deleteRecords(ctx, tx, l.recorded)
}

func (l *tableLoad) deleteRecords(ctx context.Context, tx Tx, records []change.Row) error {
	if len(records) == 0 {
		return nil
	}
	set := change.RowSet{Table: l.records.Table, Deletes: keysOf(l.records.Table, records...)}
	set.SortByKey()
	return tx.Write(ctx, &Write{Layout: l.records, Deletes: set.Deletes})
}
