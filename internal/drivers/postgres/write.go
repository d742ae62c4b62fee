package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// Limits that select how rows are written. According to measurements, one statement with array
// parameters is the cheapest way for fewer than stageRows rows. For more rows, a binary COPY into a
// temporary table and one upsert are cheapest. If the table is direct and has at least wideColumns
// columns, deleting the rows and copying directly into the table is cheapest.
const (
	stageRows   = 64
	wideColumns = 32
)

// arrayBytes and arrayRows limit the rows of one statement with array parameters.
const (
	arrayBytes = 4 << 20
	arrayRows  = 2000
)

// transaction implements sqlsink.Tx. Its methods encode and send data without waiting for
// responses, so an error of the server is returned only by Commit or Rollback.
type transaction struct {
	*sqlSession
	pipeline *wirePipeline
	created  []string // the temporary tables that this transaction creates
}

// Begin begins a transaction. It buffers the statement, and does not wait for the server.
func (s *sqlSession) Begin(ctx context.Context) (sqlsink.Tx, error) {
	tx := &transaction{sqlSession: s, pipeline: s.newPipeline(ctx)}
	tx.pipeline.sendPrepared(s.begin, "begin", nil, false, nil)
	if s.setLockWait != nil {
		tx.pipeline.sendPrepared(s.setLockWait, "begin", nil, false, nil)
	}
	return tx, nil
}

// Write deletes the rows of w.Deletes, then upserts the rows of w.Upserts.
func (tx *transaction) Write(_ context.Context, w *sqlsink.Write) error {
	ts := tx.tableStatements(w.Layout)
	direct := len(w.Upserts) >= stageRows && ts.direct && (len(ts.columns) >= wideColumns || !tx.features.canStage())
	if err := tx.deleteRows(ts, w.Deletes, w.Synced); err != nil {
		return err
	}
	if direct {
		if err := tx.deleteRows(ts, w.Upserts, w.Synced); err != nil {
			return err
		}
		return tx.copyRows(ts, ts.copyTable, "copy into "+ts.label, w.Upserts, w.Synced)
	}
	if len(w.Upserts) >= stageRows && tx.features.canStage() {
		return tx.stageRows(ts, w)
	}
	return tx.eachChunk(ts, ts.upsertArrays, ts.layout.All(), "upsert into "+ts.label, w.Upserts, w.Synced)
}

// deleteRows deletes the table's rows that have the keys of the given rows. If the layout is soft,
// it marks them as deleted instead.
func (tx *transaction) deleteRows(ts *tableStatements, rows []change.Row, synced time.Time) error {
	return tx.eachChunk(ts, []string{ts.deleteArrays}, ts.deleteColumns(), "delete from "+ts.label, rows, synced)
}

// eachChunk splits rows into chunks and runs all statements once per chunk. Each statement takes
// one array per column. The parameter indexes selects the columns by index.
func (tx *transaction) eachChunk(
	ts *tableStatements, statements []string, indexes []int, what string, rows []change.Row, synced time.Time,
) error {
	for len(rows) > 0 {
		n, size := 0, 0
		for n < len(rows) && n < arrayRows && (n == 0 || size < arrayBytes) {
			size += rowSize(&rows[n])
			n++
		}
		params, types, err := tx.encodeArrays(ts, indexes, rows[:n], synced)
		if err != nil {
			return err
		}
		for _, sql := range statements {
			tx.pipeline.sendPrepared(tx.prepared(sql, types), what, ts, false, params)
		}
		for i := range params {
			if cap(params[i]) > keepBuffer {
				params[i] = nil
			}
		}
		rows = rows[n:]
	}
	return nil
}

// rowSize returns the approximate size of a row, in bytes.
func rowSize(r *change.Row) int {
	size := 0
	for _, s := range r.Spans {
		size += int(s.End - s.Start)
	}
	return size
}

// encodeArrays encodes rows as one array per column, for the columns with the given indexes. It
// also returns the types of the arrays. The arrays are valid until the next call.
func (tx *transaction) encodeArrays(ts *tableStatements, indexes []int, rows []change.Row, synced time.Time) ([][]byte, []uint32, error) {
	for len(tx.params) < len(indexes) {
		tx.params = append(tx.params, nil)
	}
	types := make([]uint32, len(indexes))
	for i, index := range indexes {
		types[i] = ts.arrays[index]
		buf := tx.params[i][:0]
		buf = appendArrayHeader(buf, ts.element(index), len(rows))
		for r := range rows {
			var err error
			if buf, err = tx.appendParameter(buf, ts, index, &rows[r], synced); err != nil {
				return nil, nil, err
			}
		}
		tx.params[i] = buf
	}
	return tx.params[:len(indexes)], types, nil
}

// element returns the type of the elements in the array parameter of a column.
func (ts *tableStatements) element(index int) uint32 {
	a := ts.layout.Columns[index].Real.Native.(*attribute)
	if ts.arrays[index] == oidTextArray {
		return oidText
	}
	return a.oid
}

// appendArrayHeader appends the header of the binary form of an array. The array has one dimension.
// The parameter length is the number of elements, and the parameter element is the oid of their
// type.
func appendArrayHeader(dst []byte, element uint32, length int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 1) // dimensions
	dst = binary.BigEndian.AppendUint32(dst, 1) // flag: the array may contain NULLs
	dst = binary.BigEndian.AppendUint32(dst, element)
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	return binary.BigEndian.AppendUint32(dst, 1) // lower bound
}

// appendParameter appends the row's value of a column, encoded as an element of the column's array
// parameter.
func (tx *transaction) appendParameter(dst []byte, ts *tableStatements, index int, row *change.Row, synced time.Time) ([]byte, error) {
	c := &ts.columns[index]
	if c.kind == kindJSONB && ts.arrays[index] == oidTextArray {
		plain := *c
		plain.kind = kindJSON // the same text, without the version of the binary form
		c = &plain
	}
	var raw []byte
	raw, tx.scratch = ts.layout.Columns[index].Raw(row, synced, tx.scratch[:0])
	return c.append(dst, raw)
}

// stageRows copies w.Upserts into the session's temporary table, and from there upserts them into
// the live table.
func (tx *transaction) stageRows(ts *tableStatements, w *sqlsink.Write) error {
	if !tx.tempTables[ts.stage] {
		tx.pipeline.sendSimple(ts.createStage, "create a temporary table for "+ts.label, nil)
		tx.tempTables[ts.stage] = true
		tx.created = append(tx.created, ts.stage)
	}
	if err := tx.copyRows(ts, ts.copyStage, "copy rows for "+ts.label, w.Upserts, w.Synced); err != nil {
		return err
	}
	for _, sql := range ts.upsertStage {
		tx.pipeline.sendPrepared(tx.prepared(sql, nil), "upsert into "+ts.label, ts, false, nil)
	}
	return nil
}

// copyRows runs the COPY statement sql. The parameter rows, which must not be empty, has the data
// for the statement.
func (tx *transaction) copyRows(ts *tableStatements, sql, what string, rows []change.Row, synced time.Time) error {
	i := 0
	return tx.pipeline.copyIn(sql, what, ts, func(dst []byte) ([]byte, bool, error) {
		dst, err := tx.appendTuple(dst, ts, &rows[i], synced)
		i++
		return dst, i < len(rows), err
	})
}

// appendTuple appends a row in the format of binary COPY.
func (tx *transaction) appendTuple(dst []byte, ts *tableStatements, row *change.Row, synced time.Time) ([]byte, error) {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(ts.columns)))
	for i := range ts.columns {
		var raw []byte
		raw, tx.scratch = ts.layout.Columns[i].Raw(row, synced, tx.scratch[:0])
		var err error
		if dst, err = ts.columns[i].append(dst, raw); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// Append copies the rows of a snapshot into a staging table and returns the number of rows.
func (tx *transaction) Append(_ context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	ts := tx.tableStatements(stage)
	next, stop := iter.Pull2(rows)
	defer stop()
	var count int64
	now := time.Now().UTC()
	err := tx.pipeline.copyIn(ts.copyTable, "copy into "+ts.label, ts, func(dst []byte) ([]byte, bool, error) {
		row, err, ok := next()
		if !ok || err != nil {
			return dst, false, err
		}
		count++
		dst, err = tx.appendTuple(dst, ts, row, now)
		return dst, true, err
	})
	return count, err
}

// checkpointSQL moves a checkpoint. If the stored position is not the expected one, the statement
// divides by zero, which aborts the transaction with movedState.
const checkpointSQL = `INSERT INTO %s AS c (stream, consumer, filter, position, stored) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (stream, consumer, filter) DO UPDATE SET stored = excluded.stored,
position = CASE WHEN c.position = $6 AND c.stored = $7 THEN excluded.position ELSE 1 / (excluded.position - excluded.position) END`

var checkpointTypes = []uint32{oidText, oidText, oidText, oidInt8, oidInt8, oidInt8, oidInt8}

// guardedSQL moves a checkpoint that has this writer's epoch and generation. If another writer has
// moved the checkpoint, or changed the checkpoint's epoch or generation, the statement divides by
// zero, as checkpointSQL does.
const guardedSQL = `WITH moved AS (UPDATE %s SET position = $4, stored = $5, seen = $10 WHERE stream = $1 AND consumer = $2 AND filter = $3
AND position = $6 AND stored = $7 AND epoch = $8 AND coalesce(generation, 0) = $9 RETURNING 1) SELECT 1 / count(*) FROM moved`

var guardedTypes = append(slices.Clone(checkpointTypes), oidInt8, oidInt8, oidInt8)

const oidInt8 = 20

// Checkpoint moves the stored checkpoint to c. It must be the last statement of a batch. The
// parameter from is the expected stored position. If the stored position is another one, Commit
// returns sqlsink.ErrMoved.
func (tx *transaction) Checkpoint(_ context.Context, l *sqlsink.Layout, from cdc.Position, c sqlsink.Checkpoint) error {
	var params [][]byte
	for _, text := range []string{c.Stream, c.Consumer, c.Filter} {
		params = append(params, []byte(text))
	}
	for _, n := range []int64{int64(c.Position.Sequence), c.Position.Stored, int64(from.Sequence), from.Stored} {
		params = append(params, binary.BigEndian.AppendUint64(nil, uint64(n)))
	}
	sql, types := checkpointSQL, checkpointTypes
	if c.Epoch > 0 {
		sql, types = guardedSQL, guardedTypes
		for _, n := range []int64{c.Epoch, c.Generation, c.Seen} {
			params = append(params, binary.BigEndian.AppendUint64(nil, uint64(n)))
		}
	}
	tx.pipeline.sendPrepared(tx.prepared(fmt.Sprintf(sql, tx.qualify(l.Real.Name)), types), "move the checkpoint", nil, true, params)
	return nil
}

// Raise increments the generation of every checkpoint in the table.
func (tx *transaction) Raise(_ context.Context, l *sqlsink.Layout) error {
	sql := fmt.Sprintf("UPDATE %s SET generation = coalesce(generation, 0) + 1", tx.qualify(l.Real.Name))
	tx.pipeline.sendPrepared(tx.prepared(sql, nil), "raise the generation of the checkpoints", nil, false, nil)
	return nil
}

// Commit commits the transaction and waits for all responses. It returns sqlsink.ErrMoved if the
// stored checkpoint was not the expected one.
func (tx *transaction) Commit(context.Context) error {
	err := tx.pipeline.commit()
	if err == nil {
		return nil
	}
	if e := new(serverError); errors.As(err, &e) {
		if e.checkpoint && e.code == movedState {
			return sqlsink.ErrMoved
		}
		if e.code == "26000" || e.code == "42P05" {
			// The session lost its prepared statements, so it runs behind a pooler.
			tx.dialect.pooled.Store(true)
		}
	}
	return err
}

// Rollback undoes the transaction. It sends ROLLBACK, unless the server has already undone the
// transaction.
func (tx *transaction) Rollback(ctx context.Context) error {
	for _, stage := range tx.created {
		delete(tx.tempTables, stage)
	}
	stop := context.AfterFunc(ctx, tx.pipeline.interrupt)
	err := tx.pipeline.rollback()
	if !stop() {
		return &sqlsink.ConnectionError{Err: ctx.Err()}
	}
	if lost := new(sqlsink.ConnectionError); errors.As(err, &lost) {
		return err
	}
	if tx.pg.IsClosed() {
		return &sqlsink.ConnectionError{Err: errors.New("the connection is closed")}
	}
	if tx.pg.TxStatus() != 'I' {
		return tx.exec(ctx, "roll back", "ROLLBACK")
	}
	return nil
}
