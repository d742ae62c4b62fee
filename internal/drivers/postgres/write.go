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

// How many rows, and of how many columns, take which path. Measured: below some
// dozens of rows one statement over arrays is cheapest; above, binary COPY into a
// temporary table and one upsert; of wide rows, all of whose columns an update
// would write anyway, deleting and copying straight into the table.
const (
	stageRows   = 64
	wideColumns = 32
)

// arrayBytes and arrayRows bound one statement over arrays.
const (
	arrayBytes = 4 << 20
	arrayRows  = 2000
)

// transaction implements sqlsink.Tx: it encodes and sends at once, and learns
// from the server only at the end.
type transaction struct {
	*session
	flight *flight
	stages []string // temporary tables that it makes
}

// Begin begins a transaction, which the server hears of with the first statement.
func (s *session) Begin(ctx context.Context) (sqlsink.Tx, error) {
	tx := &transaction{session: s, flight: s.newFlight(ctx)}
	tx.flight.run(s.begin, "begin", nil, false, nil)
	if s.wait != nil {
		tx.flight.run(s.wait, "begin", nil, false, nil)
	}
	return tx, nil
}

// Write applies deletes, then upserts.
func (tx *transaction) Write(_ context.Context, w *sqlsink.Write) error {
	sh := tx.shape(w.Layout)
	direct := len(w.Upserts) >= stageRows && sh.direct && (len(sh.columns) >= wideColumns || !tx.can.stages())
	if err := tx.remove(sh, w.Deletes, w.Synced); err != nil {
		return err
	}
	if direct {
		if err := tx.remove(sh, w.Upserts, w.Synced); err != nil {
			return err
		}
		return tx.copyRows(sh, sh.copyTable, "copy into "+sh.label, w.Upserts, w.Synced)
	}
	if len(w.Upserts) >= stageRows && tx.can.stages() {
		return tx.stageRows(sh, w)
	}
	return tx.eachChunk(sh, sh.upsertArrays, allColumns(sh), "upsert into "+sh.label, w.Upserts, w.Synced)
}

// allColumns returns the indexes of all columns.
func allColumns(sh *shape) []int {
	indexes := make([]int, len(sh.columns))
	for i := range indexes {
		indexes[i] = i
	}
	return indexes
}

// remove deletes, or marks as deleted, the rows of the given keys.
func (tx *transaction) remove(sh *shape, rows []change.Row, synced time.Time) error {
	return tx.eachChunk(sh, []string{sh.deleteArrays}, sh.deleteColumns(), "delete from "+sh.label, rows, synced)
}

// eachChunk runs statements whose parameters are arrays, one a column of
// indexes, with as many rows at a time as are good for a statement.
func (tx *transaction) eachChunk(sh *shape, statements []string, indexes []int, what string, rows []change.Row, synced time.Time) error {
	for len(rows) > 0 {
		n, size := 0, 0
		for n < len(rows) && n < arrayRows && (n == 0 || size < arrayBytes) {
			size += rowSize(&rows[n])
			n++
		}
		params, types, err := tx.encodeArrays(sh, indexes, rows[:n], synced)
		if err != nil {
			return err
		}
		for _, sql := range statements {
			tx.flight.run(tx.statement(sql, types), what, sh, false, params)
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

// rowSize returns about how large a row is.
func rowSize(r *change.Row) int {
	size := 0
	for _, s := range r.Spans {
		size += int(s.End - s.Start)
	}
	return size
}

// encodeArrays encodes rows as arrays, one a column. The arrays are valid until
// the next call.
func (tx *transaction) encodeArrays(sh *shape, indexes []int, rows []change.Row, synced time.Time) ([][]byte, []uint32, error) {
	for len(tx.params) < len(indexes) {
		tx.params = append(tx.params, nil)
	}
	types := make([]uint32, len(indexes))
	for i, index := range indexes {
		types[i] = sh.arrays[index]
		buf := tx.params[i][:0]
		buf = appendArrayHeader(buf, sh.element(index), len(rows))
		for r := range rows {
			var err error
			if buf, err = tx.appendParameter(buf, sh, index, &rows[r], synced); err != nil {
				return nil, nil, err
			}
		}
		tx.params[i] = buf
	}
	return tx.params[:len(indexes)], types, nil
}

// element returns the type of the elements of a column's array parameter.
func (sh *shape) element(index int) uint32 {
	a := sh.layout.Columns[index].Real.Native.(*attribute)
	if sh.arrays[index] == oidTextArray {
		return oidText
	}
	return a.oid
}

// appendArrayHeader begins the binary form of an array of one dimension.
func appendArrayHeader(dst []byte, element uint32, length int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 1) // dimensions
	dst = binary.BigEndian.AppendUint32(dst, 1) // there may be NULLs
	dst = binary.BigEndian.AppendUint32(dst, element)
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	return binary.BigEndian.AppendUint32(dst, 1) // lower bound
}

// appendParameter appends a column's value as an element of its array.
func (tx *transaction) appendParameter(dst []byte, sh *shape, index int, row *change.Row, synced time.Time) ([]byte, error) {
	c := &sh.columns[index]
	if c.kind == kindJSONB && sh.arrays[index] == oidTextArray {
		plain := *c
		plain.kind = kindJSON // the same text, without the version of the binary form
		c = &plain
	}
	var raw []byte
	raw, tx.scratch = sh.layout.Columns[index].Raw(row, synced, tx.scratch[:0])
	return c.append(dst, raw)
}

// stageRows copies the upserts into the session's temporary table, and from
// there upserts them.
func (tx *transaction) stageRows(sh *shape, w *sqlsink.Write) error {
	if !tx.session.stages[sh.stage] {
		tx.flight.simple(sh.makeStage, "make a temporary table for "+sh.label, nil)
		tx.session.stages[sh.stage] = true
		tx.stages = append(tx.stages, sh.stage)
	}
	if err := tx.copyRows(sh, sh.copyStage, "copy rows for "+sh.label, w.Upserts, w.Synced); err != nil {
		return err
	}
	for _, sql := range sh.upsertStage {
		tx.flight.run(tx.statement(sql, nil), "upsert into "+sh.label, sh, false, nil)
	}
	return nil
}

// copyRows sends rows as binary COPY data.
func (tx *transaction) copyRows(sh *shape, sql, what string, rows []change.Row, synced time.Time) error {
	i := 0
	return tx.flight.copyIn(sql, what, sh, func(dst []byte) ([]byte, bool, error) {
		dst, err := tx.appendTuple(dst, sh, &rows[i], synced)
		i++
		return dst, i < len(rows), err
	})
}

// appendTuple appends a row as binary COPY has it.
func (tx *transaction) appendTuple(dst []byte, sh *shape, row *change.Row, synced time.Time) ([]byte, error) {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(sh.columns)))
	for i := range sh.columns {
		var raw []byte
		raw, tx.scratch = sh.layout.Columns[i].Raw(row, synced, tx.scratch[:0])
		var err error
		if dst, err = sh.columns[i].append(dst, raw); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// Append copies the rows of a snapshot into a staging table.
func (tx *transaction) Append(_ context.Context, stage *sqlsink.Layout, rows iter.Seq2[*change.Row, error]) (int64, error) {
	sh := tx.shape(stage)
	next, stop := iter.Pull2(rows)
	defer stop()
	var count int64
	now := time.Now().UTC()
	err := tx.flight.copyIn(sh.copyTable, "copy into "+sh.label, sh, func(dst []byte) ([]byte, bool, error) {
		row, err, ok := next()
		if !ok || err != nil {
			return dst, false, err
		}
		count++
		dst, err = tx.appendTuple(dst, sh, row, now)
		return dst, true, err
	})
	return count, err
}

// checkpointSQL moves a checkpoint. Where the stored one is not the expected
// one, it divides by zero (movedState), which undoes the transaction.
const checkpointSQL = `INSERT INTO %s AS c (stream, consumer, filter, position, stored) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (stream, consumer, filter) DO UPDATE SET stored = excluded.stored,
position = CASE WHEN c.position = $6 AND c.stored = $7 THEN excluded.position ELSE 1 / (excluded.position - excluded.position) END`

var checkpointTypes = []uint32{oidText, oidText, oidText, oidInt8, oidInt8, oidInt8, oidInt8}

// guardedSQL moves a checkpoint of this writer. It divides by zero as well.
const guardedSQL = `WITH moved AS (UPDATE %s SET position = $4, stored = $5, seen = $10 WHERE stream = $1 AND consumer = $2 AND filter = $3
AND position = $6 AND stored = $7 AND epoch = $8 AND coalesce(generation, 0) = $9 RETURNING 1) SELECT 1 / count(*) FROM moved`

var guardedTypes = append(slices.Clone(checkpointTypes), oidInt8, oidInt8, oidInt8)

const oidInt8 = 20

// Checkpoint moves the stored checkpoint, as the last statement of a batch.
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
	tx.flight.run(tx.statement(fmt.Sprintf(sql, tx.qualify(l.Real.Name)), types), "move the checkpoint", nil, true, params)
	return nil
}

// Raise raises the generation of all checkpoints.
func (tx *transaction) Raise(_ context.Context, l *sqlsink.Layout) error {
	sql := fmt.Sprintf("UPDATE %s SET generation = coalesce(generation, 0) + 1", tx.qualify(l.Real.Name))
	tx.flight.run(tx.statement(sql, nil), "raise the generation of the checkpoints", nil, false, nil)
	return nil
}

// Commit sends what is left and waits for all answers.
func (tx *transaction) Commit(context.Context) error {
	err := tx.flight.commit()
	if err == nil {
		return nil
	}
	if e := new(serverError); errors.As(err, &e) {
		if e.checkpoint && e.code == movedState {
			return sqlsink.ErrMoved
		}
		if e.code == "26000" || e.code == "42P05" {
			// The session's statements are not its own: a pooler is between.
			tx.dialect.pooled.Store(true)
		}
	}
	return err
}

// Rollback undoes the transaction, also on the server where that has not done it.
func (tx *transaction) Rollback(ctx context.Context) error {
	for _, stage := range tx.stages {
		delete(tx.session.stages, stage)
	}
	stop := context.AfterFunc(ctx, tx.flight.interrupt)
	err := tx.flight.rollback()
	if !stop() {
		return &connectionError{ctx.Err()}
	}
	if lost := new(connectionError); errors.As(err, &lost) {
		return err
	}
	if tx.pg.IsClosed() {
		return &connectionError{errors.New("the connection is closed")}
	}
	if tx.pg.TxStatus() != 'I' {
		return tx.exec(ctx, "roll back", "ROLLBACK")
	}
	return nil
}
