// Package capi provides the part of SQLite's C interface that package sqlite needs. It calls the Go
// translation of SQLite in modernc.org/sqlite/lib. It does not use database/sql, because that
// package would double the cost of writing a row, and cannot end a wait for a lock when a context
// ends.
package capi

import (
	"context"
	"errors"
	"time"
	"unsafe"

	"modernc.org/libc"
	_ "modernc.org/sqlite" // its init prepares lib on every platform
	sqlite3 "modernc.org/sqlite/lib"
)

// DB is one connection to a database. Only one goroutine at a time may use it.
type DB struct {
	tls *libc.TLS
	db  uintptr
	out uintptr // C memory of 8 bytes, for results that C functions return through a pointer

	options Options
	onBusy  func(tls *libc.TLS, arg uintptr, count int32) int32

	// State of the current call, set by Within:
	done     <-chan struct{} // closed when the context of the call ends; nil outside Within
	deadline time.Time       // for the current wait for a lock

	functions []any // registered functions, kept here so that they are not garbage-collected
}

// Options are the options of Open.
type Options struct {
	Create      bool          // create an empty database if the file does not exist
	BusyTimeout time.Duration // maximum time to wait for a lock of another connection
	Waiting     func()        // called when a call starts to wait for a lock; may be nil
}

// Open opens the database at path.
func Open(path string, options Options) (*DB, error) {
	name, err := libc.CString(path)
	if err != nil {
		return nil, err
	}
	d := &DB{tls: libc.NewTLS(), options: options}
	defer libc.Xfree(d.tls, name)
	d.out = libc.Xmalloc(d.tls, 8)
	flags := int32(sqlite3.SQLITE_OPEN_READWRITE | sqlite3.SQLITE_OPEN_NOMUTEX | sqlite3.SQLITE_OPEN_EXRESCODE)
	if options.Create {
		flags |= sqlite3.SQLITE_OPEN_CREATE
	}
	rc := sqlite3.Xsqlite3_open_v2(d.tls, name, d.out, flags, 0)
	d.db = d.result()
	if rc != sqlite3.SQLITE_OK {
		err := d.fail(rc)
		return nil, errors.Join(err, d.Close())
	}
	d.onBusy = d.waitForLock
	sqlite3.Xsqlite3_busy_handler(d.tls, d.db, *(*uintptr)(unsafe.Pointer(&d.onBusy)), 0)
	return d, nil
}

// Close closes the connection, including all statements that have not been finalized.
func (d *DB) Close() error {
	if d.tls == nil {
		return nil
	}
	rc := sqlite3.Xsqlite3_close_v2(d.tls, d.db)
	libc.Xfree(d.tls, d.out)
	d.tls.Close()
	d.tls, d.db = nil, 0
	if rc != sqlite3.SQLITE_OK {
		return &Error{Code: int(rc), text: "close"}
	}
	return nil
}

func (d *DB) result() uintptr { return *(*uintptr)(at(d.out)) }

// interruptEvery is the time between two interrupts of a call whose context has ended. Several
// interrupts may be needed, because SQLite ignores an interrupt if no statement is running.
const interruptEvery = 5 * time.Millisecond

// Within runs the function do. If ctx ends, Within interrupts the running statement or the wait for
// a lock, and returns the error of ctx. In a nested call, the context of the outer call applies.
func (d *DB) Within(ctx context.Context, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.done != nil { // a nested call: the context of the outer call applies
		return do()
	}
	returned, finished := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(finished)
		// Each goroutine needs its own TLS.
		tls := libc.NewTLS()
		defer tls.Close()
		again := time.NewTicker(interruptEvery)
		defer again.Stop()
		for {
			sqlite3.Xsqlite3_interrupt(tls, d.db)
			select {
			case <-again.C:
			case <-returned:
				return
			}
		}
	})
	if d.done = ctx.Done(); d.done == nil {
		d.done = make(chan struct{}) // never closed
	}
	defer func() { d.done = nil }()
	err := do()
	close(returned)
	if !stop() {
		<-finished
	}
	e := new(Error)
	if ctx.Err() != nil && errors.As(err, &e) && (e.Primary() == CodeInterrupt || e.Primary() == CodeBusy) {
		return ctx.Err()
	}
	return err
}

// waitForLock is SQLite's busy handler. SQLite calls it on the goroutine of the blocked call. If
// waitForLock returns 1, SQLite tries to get the lock again; if it returns 0, the call fails.
// SQLite does not report when a lock is released, so waitForLock waits for a short time and returns
// 1. The parameter count is the number of earlier calls for the same lock.
func (d *DB) waitForLock(_ *libc.TLS, _ uintptr, count int32) int32 {
	now := time.Now()
	if count == 0 {
		d.deadline = now.Add(d.options.BusyTimeout)
		if d.options.Waiting != nil {
			d.options.Waiting()
		}
	}
	wait := min(time.Millisecond<<min(count, 6), d.deadline.Sub(now))
	if wait <= 0 {
		return 0
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 1
	case <-d.done:
		return 0
	}
}

// Exec executes one or more statements and discards the rows of their results.
func (d *DB) Exec(sql string) error {
	text, err := libc.CString(sql)
	if err != nil {
		return err
	}
	defer libc.Xfree(d.tls, text)
	for rest := text; *(*byte)(at(rest)) != 0; {
		s, next, err := d.prepare(rest)
		if err != nil {
			return err
		}
		rest = next
		if s == nil { // white space or a comment
			continue
		}
		for more := true; more && err == nil; {
			more, err = s.Step()
		}
		s.Finalize()
		if err != nil {
			return err
		}
	}
	return nil
}

// Prepare prepares one statement.
func (d *DB) Prepare(sql string) (*Stmt, error) {
	text, err := libc.CString(sql)
	if err != nil {
		return nil, err
	}
	defer libc.Xfree(d.tls, text)
	s, _, err := d.prepare(text)
	if err == nil && s == nil {
		err = errors.New("the statement is empty")
	}
	return s, err
}

// prepare prepares the first statement of a C string, whose address is the parameter text. It also
// returns the address of the rest of the string. The statement is nil if the string begins with
// only white space or a comment.
func (d *DB) prepare(text uintptr) (*Stmt, uintptr, error) {
	tail := libc.Xmalloc(d.tls, 8)
	defer libc.Xfree(d.tls, tail)
	if rc := sqlite3.Xsqlite3_prepare_v2(d.tls, d.db, text, -1, d.out, tail); rc != sqlite3.SQLITE_OK {
		return nil, 0, d.fail(rc)
	}
	rest := *(*uintptr)(at(tail))
	p := d.result()
	if p == 0 {
		return nil, rest, nil
	}
	return &Stmt{db: d, stmt: p, params: int(sqlite3.Xsqlite3_bind_parameter_count(d.tls, p))}, rest, nil
}

// Changes returns the number of rows that the last INSERT, UPDATE or DELETE changed. Rows that
// triggers changed do not count.
func (d *DB) Changes() int64 { return sqlite3.Xsqlite3_changes64(d.tls, d.db) }

// Moved reports whether the database's path no longer refers to the open file.
func (d *DB) Moved() bool {
	*(*int32)(at(d.out)) = 0
	rc := sqlite3.Xsqlite3_file_control(d.tls, d.db, 0, sqlite3.SQLITE_FCNTL_HAS_MOVED, d.out)
	return rc == sqlite3.SQLITE_OK && *(*int32)(at(d.out)) != 0
}

// InTransaction reports whether a transaction is open. Some errors make SQLite roll back and end
// the transaction.
func (d *DB) InTransaction() bool { return sqlite3.Xsqlite3_get_autocommit(d.tls, d.db) == 0 }

// Function registers f on this connection as an SQL function. The parameter args is the number of
// arguments of the SQL function. The arguments and the result are text. If f returns an error, the
// statement fails with CodeConstraint.
func (d *DB) Function(name string, args int, f func(args []string) (string, error)) error {
	zName, err := libc.CString(name)
	if err != nil {
		return err
	}
	defer libc.Xfree(d.tls, zName)
	call := func(tls *libc.TLS, ctx uintptr, argc int32, argv uintptr) {
		in := make([]string, argc)
		for i, v := range unsafe.Slice((*uintptr)(at(argv)), argc) {
			n := sqlite3.Xsqlite3_value_bytes(tls, v)
			in[i] = string(bytesAt(sqlite3.Xsqlite3_value_text(tls, v), int(n)))
		}
		out, err := f(in)
		if err != nil {
			out = err.Error()
		}
		p, cerr := libc.CString(out)
		switch {
		case cerr != nil:
			sqlite3.Xsqlite3_result_error_nomem(tls, ctx)
			return
		case err != nil:
			sqlite3.Xsqlite3_result_error(tls, ctx, p, int32(len(out)))
			sqlite3.Xsqlite3_result_error_code(tls, ctx, sqlite3.SQLITE_CONSTRAINT_FUNCTION)
		default:
			sqlite3.Xsqlite3_result_text(tls, ctx, p, int32(len(out)), sqlite3.SQLITE_TRANSIENT)
		}
		libc.Xfree(tls, p)
	}
	d.functions = append(d.functions, &call)
	const flags = sqlite3.SQLITE_UTF8 | sqlite3.SQLITE_DETERMINISTIC | sqlite3.SQLITE_DIRECTONLY
	callback := *(*uintptr)(unsafe.Pointer(&call))
	rc := sqlite3.Xsqlite3_create_function_v2(d.tls, d.db, zName, int32(args), flags, 0, callback, 0, 0, 0)
	if rc != sqlite3.SQLITE_OK {
		return d.fail(rc)
	}
	return nil
}

// The function named at converts the address p to a pointer. The address must be in C memory, which
// the garbage collector does not manage.
func at(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// bytesAt returns the n bytes of C memory at p.
func bytesAt(p uintptr, n int) []byte {
	if p == 0 || n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(at(p)), n)
}
