package capi

import (
	"fmt"
	"syscall"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Primary result codes.
const (
	CodeError      = sqlite3.SQLITE_ERROR
	CodeBusy       = sqlite3.SQLITE_BUSY
	CodePerm       = sqlite3.SQLITE_PERM
	CodeReadOnly   = sqlite3.SQLITE_READONLY
	CodeInterrupt  = sqlite3.SQLITE_INTERRUPT
	CodeIOErr      = sqlite3.SQLITE_IOERR
	CodeCorrupt    = sqlite3.SQLITE_CORRUPT
	CodeFull       = sqlite3.SQLITE_FULL
	CodeCantOpen   = sqlite3.SQLITE_CANTOPEN
	CodeSchema     = sqlite3.SQLITE_SCHEMA
	CodeTooBig     = sqlite3.SQLITE_TOOBIG
	CodeConstraint = sqlite3.SQLITE_CONSTRAINT
	CodeMismatch   = sqlite3.SQLITE_MISMATCH
	CodeMisuse     = sqlite3.SQLITE_MISUSE
	CodeAuth       = sqlite3.SQLITE_AUTH
	CodeRange      = sqlite3.SQLITE_RANGE
	CodeNotADB     = sqlite3.SQLITE_NOTADB
	CodeFormat     = sqlite3.SQLITE_FORMAT
)

// Error is an error of SQLite: a result code and a message. The message may name tables and
// columns, but contains no values.
type Error struct {
	Code int           // the extended result code
	OS   syscall.Errno // the error of the operating system, or 0
	text string
}

// Primary returns the primary result code.
func (e *Error) Primary() int { return e.Code & 0xff }

func (e *Error) Error() string {
	if e.OS != 0 {
		return fmt.Sprintf("%s (code %d): %v", e.text, e.Code, e.OS)
	}
	return fmt.Sprintf("%s (code %d)", e.text, e.Code)
}

// fail converts the result code rc of the last call to an error.
func (d *DB) fail(rc int32) error {
	e := &Error{Code: int(rc), text: libc.GoString(sqlite3.Xsqlite3_errstr(d.tls, rc))}
	if d.db == 0 || sqlite3.Xsqlite3_extended_errcode(d.tls, d.db) != rc {
		return e
	}
	switch {
	case rc == sqlite3.SQLITE_CONSTRAINT_TRIGGER:
		// The trigger chooses the message, which may contain values.
		e.text = "a trigger raised an error"
	default:
		e.text = libc.GoString(sqlite3.Xsqlite3_errmsg(d.tls, d.db))
	}
	if p := e.Primary(); p == CodeCantOpen || p == CodeIOErr {
		e.OS = syscall.Errno(sqlite3.Xsqlite3_system_errno(d.tls, d.db))
	}
	return e
}
