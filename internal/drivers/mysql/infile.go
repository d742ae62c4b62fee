package mysql

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/shopmonkeyus/eds/internal/change"
)

// cursor returns the next row, or nil after the last row.
type cursor func() (*change.Row, error)

// rowCursor returns a cursor over rows.
func rowCursor(rows []change.Row) cursor {
	i := 0
	return func() (*change.Row, error) {
		if i == len(rows) {
			return nil, nil
		}
		i++
		return &rows[i-1], nil
	}
}

// Sizes, in bytes. A rowReader encodes about sendBytes at a time. A buffer of at most keepBuffer is
// kept for reuse. A LOAD DATA statement whose rows may have to be sent again has about replayBytes.
const (
	sendBytes   = 128 << 10
	keepBuffer  = 4 << 20
	replayBytes = 16 << 20
)

// rowReader is an io.Reader that supplies the file for LOAD DATA LOCAL INFILE, with one line per
// row. It encodes rows while the server reads the file.
type rowReader struct {
	table   *tableStatements
	columns []int
	next    cursor
	synced  time.Time
	buffer  []byte
	scratch []byte
	at      int  // the index in buffer of the next byte to read
	done    bool // all rows have been encoded
	err     error

	// If replayable is set, the file ends after about replayBytes even if more rows follow, and
	// the field sent keeps the content of the file.
	replayable bool
	sent       []byte
	count      int64 // the number of rows in the file
}

// begin starts the next file.
func (r *rowReader) begin() { r.sent, r.count = r.sent[:0], 0 }

func (r *rowReader) Read(p []byte) (int, error) {
	if r.at == len(r.buffer) {
		if r.err != nil {
			return 0, r.err
		}
		if r.done || len(r.sent) >= replayBytes {
			return 0, io.EOF
		}
		if r.err = r.fill(); r.err != nil {
			return 0, r.err
		}
		if len(r.buffer) == 0 {
			return 0, io.EOF
		}
		if r.replayable {
			r.sent = append(r.sent, r.buffer...)
		}
	}
	n := copy(p, r.buffer[r.at:])
	r.at += n
	return n, nil
}

func (r *rowReader) fill() error {
	r.buffer, r.at = r.buffer[:0], 0
	for len(r.buffer) < sendBytes {
		row, err := r.next()
		if err != nil {
			return err
		}
		if row == nil {
			r.done = true
			return nil
		}
		if err := r.appendLine(row); err != nil {
			return err
		}
		r.count++
	}
	return nil
}

func (r *rowReader) appendLine(row *change.Row) error {
	for k, i := range r.columns {
		if k > 0 {
			r.buffer = append(r.buffer, '\t')
		}
		var raw []byte
		raw, r.scratch = r.table.layout.Columns[i].Raw(row, r.synced, r.scratch[:0])
		var err error
		if r.buffer, err = r.table.columns[i].appendField(r.buffer, raw); err != nil {
			return err
		}
	}
	r.buffer = append(r.buffer, '\n')
	return nil
}

// errNoInfile reports that the server refused LOAD DATA LOCAL INFILE before reading any row.
var errNoInfile = errors.New("load data local infile is not allowed")

// noInfileWarning is logged when eds notices that the server does not allow LOAD DATA LOCAL INFILE.
const noInfileWarning = "the server does not allow LOAD DATA LOCAL INFILE, so eds writes rows with INSERT statements, which is slower; " +
	"to allow it, run: SET GLOBAL local_infile = ON"

// loadData loads rows with LOAD DATA LOCAL INFILE and returns the number of written rows. The
// server only warns about invalid values, so loadData returns a warning as an error. If the server
// does not allow LOAD DATA LOCAL INFILE, it returns errNoInfile.
func (s *sqlSession) loadData(ctx context.Context, ts *tableStatements, to *rowWriter, next cursor, synced time.Time) (int64, error) {
	r := &rowReader{
		table: ts, columns: to.columns, next: next, synced: synced, buffer: s.buffer[:0], scratch: s.scratch,
		replayable: to.replace != nil, sent: s.sent,
	}
	defer func() {
		s.scratch = r.scratch
		if cap(r.buffer) <= keepBuffer {
			s.buffer = r.buffer
		}
		if cap(r.sent) <= 2*replayBytes {
			s.sent = r.sent
		}
	}()
	var count int64
	for first := true; !r.done; first = false {
		r.begin()
		written, err := s.loadFrom(ctx, to.what, to.load, r)
		switch {
		case r.err != nil:
			// The caller's rollback removes the rows that the server has already written.
			return 0, r.err
		case numbered(err, 1148, 3948, 4166) && first && r.count == 0:
			return 0, errNoInfile
		case err != nil:
			return 0, err
		}
		count += written
		if written < r.count && r.replayable {
			if _, err := s.loadFrom(ctx, to.what, to.replace.load, bytes.NewReader(r.sent)); err != nil {
				return 0, err
			}
		}
		if err := s.checkWarnings(ctx, to); err != nil {
			return 0, err
		}
	}
	return count, nil
}

// loadFrom runs one LOAD DATA statement and returns the number of written rows. The parameter from
// is a reader that supplies the content of the statement's file. The parameter load is the part of
// the statement that follows the file.
func (s *sqlSession) loadFrom(ctx context.Context, what, load string, from io.Reader) (int64, error) {
	s.source = from
	defer func() { s.source = nil }()
	return s.execRows(ctx, what, "LOAD DATA LOCAL INFILE 'Reader::"+s.handler+"' "+load)
}

// checkWarnings returns the first warning of the previous statement as an error.
func (s *sqlSession) checkWarnings(ctx context.Context, to *rowWriter) error {
	rows, err := s.query(ctx, to.what, "SELECT @@warning_count")
	if err != nil || len(rows) == 1 && rows[0][0] == "0" {
		return err
	}
	if rows, err = s.query(ctx, to.what, "SHOW WARNINGS LIMIT 1"); err != nil {
		return err
	}
	return warning(to.what, rows)
}

// fill writes rows and returns the number of written rows. It uses LOAD DATA if the server allows
// it, and INSERT statements otherwise. If the writer skips existing keys, fill counts each key
// once.
func (s *sqlSession) fill(ctx context.Context, ts *tableStatements, to *rowWriter, next cursor, synced time.Time) (int64, error) {
	if to.load != "" && !s.dialect.noInfile.Load() {
		n, err := s.loadData(ctx, ts, to, next, synced)
		if !errors.Is(err, errNoInfile) {
			return n, err
		}
		s.dialect.noInfile.Store(true)
		s.dialect.env.Logger.Warn(noInfileWarning)
	}
	return s.insertRows(ctx, ts, to, next, synced)
}

// parametersOf encodes a row's values as statement parameters and appends them to dst. The
// parameter columns selects the columns by index.
func (s *sqlSession) parametersOf(ts *tableStatements, columns []int, row *change.Row, synced time.Time, dst arguments) (arguments, error) {
	for _, i := range columns {
		var raw []byte
		raw, s.scratch = ts.layout.Columns[i].Raw(row, synced, s.scratch[:0])
		if raw == nil {
			dst.values = append(dst.values, nil)
			continue
		}
		start := len(dst.text)
		var err error
		if dst.text, err = ts.columns[i].append(dst.text, raw); err != nil {
			return dst, err
		}
		if len(dst.text)-start > s.maxPacket-1024 {
			return dst, tooLarge(&ts.columns[i], s.maxPacket)
		}
		if len(dst.text) == start {
			dst.values = append(dst.values, "") // empty bytes would be NULL
			continue
		}
		dst.values = append(dst.values, dst.text[start:len(dst.text):len(dst.text)])
	}
	return dst, nil
}
