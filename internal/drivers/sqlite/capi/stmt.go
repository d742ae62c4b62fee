package capi

import (
	"math"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Stmt is a prepared statement. Only the goroutine that uses the statement's DB may use it.
type Stmt struct {
	db     *DB
	stmt   uintptr
	params int
	memory uintptr // C memory for bound texts, valid until the next execution
	size   int     // size of memory, in bytes
}

// Finalize releases the statement. A second call does nothing.
func (s *Stmt) Finalize() {
	if s.stmt == 0 {
		return
	}
	sqlite3.Xsqlite3_finalize(s.db.tls, s.stmt)
	if s.memory != 0 {
		libc.Xfree(s.db.tls, s.memory)
	}
	s.stmt, s.memory, s.size = 0, 0, 0
}

// Params returns the number of parameters.
func (s *Stmt) Params() int { return s.params }

// Exec executes the statement once for each set of values in args, and returns the number of
// successful executions. The statement must not return rows. Exec may free the texts of args.
func (s *Stmt) Exec(args *Args) (int, error) {
	if err := s.hold(args); err != nil {
		return 0, err
	}
	defer s.trim()
	args.trim() // SQLite reads the copy in C memory
	if s.params == 0 {
		return 1, s.exec(nil)
	}
	n := 0
	for cells := args.cells; len(cells) > 0; n++ {
		if err := s.exec(cells[:s.params]); err != nil {
			return n, err
		}
		cells = cells[s.params:]
	}
	return n, nil
}

// ExecElse executes the statement once for each set of values in args, like Exec. If an execution
// changes no row, ExecElse executes a second statement, the parameter other, with the same values.
// It returns two numbers: the number of sets, and the number of sets for which the first statement
// changed a row.
func (s *Stmt) ExecElse(other *Stmt, args *Args) (n, changed int, err error) {
	if err := s.hold(args); err != nil {
		return 0, 0, err
	}
	defer s.trim()
	held := false
	for cells := args.cells; len(cells) > 0; n++ {
		if err := s.exec(cells[:s.params]); err != nil {
			return n, changed, err
		}
		if s.db.Changes() > 0 {
			changed++
		} else {
			if !held {
				held = true
				if err := other.hold(args); err != nil {
					return n, changed, err
				}
				defer other.trim()
			}
			if err := other.exec(cells[:s.params]); err != nil {
				return n, changed, err
			}
		}
		cells = cells[s.params:]
	}
	return n, changed, nil
}

func (s *Stmt) exec(cells []cell) error {
	if err := s.bind(cells); err != nil {
		return err
	}
	_, err := s.Step()
	s.Reset()
	return err
}

// Bind binds a copy of the values in args to the statement's parameters, in the same order. There
// must be one value per parameter.
func (s *Stmt) Bind(args *Args) error {
	if err := s.hold(args); err != nil {
		return err
	}
	return s.bind(args.cells)
}

// The constant keep is the maximum size of the C memory that a statement keeps between executions,
// in bytes.
const keep = 1 << 20

// hold copies the texts of args to C memory.
func (s *Stmt) hold(args *Args) error {
	// Allocate memory even for empty texts: the address 0 would mean NULL.
	if s.memory == 0 || len(args.text) > s.size || s.size > keep && len(args.text) <= keep/2 {
		s.release()
		s.size = max(4096, len(args.text)+min(len(args.text)/4, keep))
		s.memory = libc.Xmalloc(s.db.tls, libc.Tsize_t(s.size))
		if s.memory == 0 {
			s.size = 0
			return &Error{Code: sqlite3.SQLITE_NOMEM, text: "out of memory"}
		}
	}
	copy(bytesAt(s.memory, s.size), args.text)
	return nil
}

// trim releases the statement's C memory if it is larger than keep.
func (s *Stmt) trim() {
	if s.size > keep {
		s.release()
	}
}

// release releases the statement's C memory.
func (s *Stmt) release() {
	if s.memory != 0 {
		// Clear the bindings first, because they point to the memory.
		sqlite3.Xsqlite3_clear_bindings(s.db.tls, s.stmt)
		libc.Xfree(s.db.tls, s.memory)
	}
	s.memory, s.size = 0, 0
}

func (s *Stmt) bind(cells []cell) error {
	tls, static := s.db.tls, uintptr(0)
	for i, a := range cells {
		n, rc := int32(i+1), int32(0)
		switch a.kind {
		case null:
			rc = sqlite3.Xsqlite3_bind_null(tls, s.stmt, n)
		case integer:
			rc = sqlite3.Xsqlite3_bind_int64(tls, s.stmt, n, a.bits)
		case real:
			rc = sqlite3.Xsqlite3_bind_double(tls, s.stmt, n, math.Float64frombits(uint64(a.bits)))
		case text:
			p, size := s.memory+uintptr(a.bits), sqlite3.Tsqlite3_uint64(a.size)
			rc = sqlite3.Xsqlite3_bind_text64(tls, s.stmt, n, p, size, static, sqlite3.SQLITE_UTF8)
		}
		if rc != sqlite3.SQLITE_OK {
			return s.db.fail(rc)
		}
	}
	return nil
}

// Step executes the statement up to the next row of its result, and reports whether there is such a
// row.
func (s *Stmt) Step() (bool, error) {
	switch rc := sqlite3.Xsqlite3_step(s.db.tls, s.stmt); rc {
	case sqlite3.SQLITE_ROW:
		return true, nil
	case sqlite3.SQLITE_DONE:
		return false, nil
	default:
		return false, s.db.fail(rc)
	}
}

// Reset makes the statement ready to be executed again.
func (s *Stmt) Reset() { sqlite3.Xsqlite3_reset(s.db.tls, s.stmt) }

// Columns returns the number of columns of the statement's result.
func (s *Stmt) Columns() int { return int(sqlite3.Xsqlite3_column_count(s.db.tls, s.stmt)) }

// StorageClass is the type of a stored value.
type StorageClass int32

const (
	Integer StorageClass = sqlite3.SQLITE_INTEGER
	Real    StorageClass = sqlite3.SQLITE_FLOAT
	Text    StorageClass = sqlite3.SQLITE_TEXT
	Blob    StorageClass = sqlite3.SQLITE_BLOB
	Null    StorageClass = sqlite3.SQLITE_NULL
)

// Kind returns the type of value i of the current row. The first value has index 0.
func (s *Stmt) Kind(i int) StorageClass {
	return StorageClass(sqlite3.Xsqlite3_column_type(s.db.tls, s.stmt, int32(i)))
}

// Int returns value i of the current row as an integer.
func (s *Stmt) Int(i int) int64 {
	return sqlite3.Xsqlite3_column_int64(s.db.tls, s.stmt, int32(i))
}

// Float returns value i of the current row as a real number.
func (s *Stmt) Float(i int) float64 {
	return sqlite3.Xsqlite3_column_double(s.db.tls, s.stmt, int32(i))
}

// Bytes returns the bytes of value i of the current row, which is a text or a blob. The bytes are
// valid until the next Step.
func (s *Stmt) Bytes(i int) []byte {
	var p uintptr
	if s.Kind(i) == Blob {
		p = sqlite3.Xsqlite3_column_blob(s.db.tls, s.stmt, int32(i))
	} else {
		p = sqlite3.Xsqlite3_column_text(s.db.tls, s.stmt, int32(i))
	}
	return bytesAt(p, int(sqlite3.Xsqlite3_column_bytes(s.db.tls, s.stmt, int32(i))))
}

// String returns value i of the current row as text, or "" for NULL.
func (s *Stmt) String(i int) string { return string(s.Bytes(i)) }

// Args are the parameter values for one or more executions of a statement. The zero value has no
// values and is ready to use.
type Args struct {
	cells []cell
	text  []byte
}

type cell struct {
	bits int64 // an integer, the bits of a float, or the index of the first byte of a text
	size int   // the length of a text, in bytes
	kind cellKind
}

type cellKind uint8

const (
	null cellKind = iota
	integer
	real
	text
)

// keepText is the maximum capacity, in bytes, at which Reset keeps the buffer for texts.
const keepText = 4 << 20

// Reset removes all values from a, and keeps the memory for reuse.
func (a *Args) Reset() {
	a.trim()
	a.cells, a.text = a.cells[:0], a.text[:0]
}

// trim frees the buffer for texts if its capacity exceeds keepText.
func (a *Args) trim() {
	if cap(a.text) > keepText {
		a.text = nil
	}
}

// Null appends NULL.
func (a *Args) Null() { a.cells = append(a.cells, cell{kind: null}) }

// Int appends an integer.
func (a *Args) Int(v int64) { a.cells = append(a.cells, cell{kind: integer, bits: v}) }

// Float appends a real number.
func (a *Args) Float(v float64) {
	a.cells = append(a.cells, cell{kind: real, bits: int64(math.Float64bits(v))})
}

// Text appends a text.
func (a *Args) Text(v []byte) { a.End(append(a.Begin(), v...)) }

// String appends a text.
func (a *Args) String(v string) { a.End(append(a.Begin(), v...)) }

// Begin returns a buffer for a text. The caller appends the text to the buffer and passes the
// result to End, before appending any other value.
func (a *Args) Begin() []byte { return a.text }

// End appends a value: the text that the caller has appended to the buffer returned by Begin.
func (a *Args) End(buffer []byte) {
	a.cells = append(a.cells, cell{kind: text, bits: int64(len(a.text)), size: len(buffer) - len(a.text)})
	a.text = buffer
}

// Size returns the approximate size of the values in memory, in bytes.
func (a *Args) Size() int { return len(a.text) + len(a.cells)*int(unsafe.Sizeof(cell{})) }
