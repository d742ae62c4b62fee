package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// flight is a transaction on the wire. Statements and rows are sent one after
// another without waiting for the answers, which are awaited once, at the end:
// a batch costs one round trip. What goes wrong on the way makes the server
// refuse everything up to the end of the transaction, so nothing that follows an
// error takes effect.
//
// Segments end where the server says that it is ready: a run of prepared
// statements ended by Sync, or one simple query. COPY must be a simple query,
// because poolers and relatives of PostgreSQL know it only so.
type flight struct {
	session *session
	front   *pgproto3.Frontend

	open   []step // statements sent since the last Sync
	parsed []*statement
	buffer int  // bytes that wait in the frontend, about
	closed bool // the last segment was sent
	done   bool // the last segment was answered, or never will be

	failed  atomic.Bool // an error was answered; what follows is in vain
	reading chan struct{}
	stop    func() bool           // ends the watch of the context
	call    *sqlsink.Deadline     // paused while eds makes what is to be sent
	explain func(err error) error // says why the context ended

	mu       sync.Mutex
	segments []segment // sent, not answered yet

	// These are the reader's until it has ended.
	err  error // the first error that was answered
	gone error // the connection failed
	tag  string
}

// step is one statement.
type step struct {
	what       string     // for errors: "upsert into table x"
	shape      *shape     // of the table that it reads or writes; nil if there is none
	prepares   *statement // the statement that it prepares, or nil
	checkpoint bool
}

type segment struct {
	steps []step
	last  bool
}

// flushBytes is how much is collected before it is sent. So little can always be
// sent without anybody reading the answers: it fits into the socket's buffers.
const flushBytes = 48 << 10

func (s *session) newFlight(ctx context.Context) *flight {
	f := &flight{session: s, front: s.front}
	ctx, f.call = s.calls.Await(ctx)
	f.call.Pause()
	f.explain = func(err error) error { return sqlsink.CallError(ctx, err) }
	f.stop = context.AfterFunc(ctx, f.interrupt)
	return f
}

// interrupt ends whatever waits for the server.
func (f *flight) interrupt() { _ = f.session.pg.Conn().SetDeadline(time.Unix(1, 0)) }

// statement is a prepared statement of the session.
type statement struct {
	name string // "" where the session prepares none for later
	sql  string
	oids []uint32 // of the parameters

	sent  bool // the server was told to prepare it
	ready bool // and it has, which nobody knows before the end of the flight
}

// run appends a prepared statement with binary parameters.
func (f *flight) run(st *statement, what string, shape *shape, checkpoint bool, params [][]byte) {
	this := step{what: what, shape: shape, checkpoint: checkpoint}
	if !st.sent || st.name == "" {
		f.front.SendParse(&pgproto3.Parse{Name: st.name, Query: st.sql, ParameterOIDs: st.oids})
		f.buffer += len(st.sql)
		this.prepares, st.sent = st, true
		f.parsed = append(f.parsed, st)
	}
	f.front.SendBind(&pgproto3.Bind{PreparedStatement: st.name, Parameters: params, ParameterFormatCodes: []int16{1}})
	f.front.SendExecute(&pgproto3.Execute{})
	f.buffer += 64
	for _, p := range params {
		f.buffer += len(p) + 4
	}
	f.open = append(f.open, this)
	f.flushIfFull()
}

// simple appends one simple query, of one statement or several.
func (f *flight) simple(sql, what string, shape *shape) {
	f.sync(false)
	f.add(segment{steps: []step{{what: what, shape: shape}}})
	f.front.SendQuery(&pgproto3.Query{String: sql})
	f.buffer += len(sql)
	f.flushIfFull()
}

// sync ends the segment of prepared statements, if one is open.
func (f *flight) sync(last bool) {
	if len(f.open) == 0 {
		return
	}
	f.add(segment{steps: f.open, last: last})
	f.open = nil
	f.front.SendSync(&pgproto3.Sync{})
}

func (f *flight) add(s segment) {
	f.mu.Lock()
	f.segments = append(f.segments, s)
	f.mu.Unlock()
	f.closed = s.last
}

func (f *flight) flushIfFull() {
	if f.buffer >= flushBytes {
		f.flush()
	}
}

// flush sends what is collected. From then on the answers are read as they come.
func (f *flight) flush() {
	if f.reading == nil {
		f.reading = make(chan struct{})
		go func() {
			defer close(f.reading)
			f.read()
		}()
	}
	f.buffer = 0
	f.send(f.front.Flush)
}

// send sends something, for which the server may have to take what was sent before.
func (f *flight) send(send func() error) {
	f.call.Resume()
	defer f.call.Pause()
	if err := send(); err != nil {
		f.cut(err)
	}
}

// cut closes the socket after it failed to take data, which ends the reader too.
func (f *flight) cut(error) {
	f.failed.Store(true)
	_ = f.session.pg.Conn().Close()
}

// copyHeader begins binary COPY data: signature, flags, no extension.
const copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyMessage is the size from which a message of COPY data is sent.
const copyMessage = 128 << 10

// keepBuffer is the size up to which a buffer is kept for the next use.
const keepBuffer = 4 << 20

// copyIn runs a COPY ... FROM STDIN (FORMAT binary). next appends one tuple to
// its argument, and reports false at the end. An error of next cancels the COPY
// and is returned.
func (f *flight) copyIn(sql, what string, shape *shape, next func(dst []byte) ([]byte, bool, error)) error {
	f.simple(sql, what, shape)
	buf := append(f.session.copyBuffer[:0], 'd', 0, 0, 0, 0)
	buf = append(buf, copyHeader...)
	var failed error
	for more := true; more && failed == nil && !f.failed.Load(); {
		if buf, more, failed = next(buf); len(buf) >= copyMessage && failed == nil {
			f.copyData(buf)
			buf = buf[:5]
		}
	}
	if failed == nil {
		buf = append(buf, 0xff, 0xff)
		f.copyData(buf)
		f.front.Send(&pgproto3.CopyDone{})
	} else {
		f.front.Send(&pgproto3.CopyFail{Message: "a row could not be encoded"})
	}
	if cap(buf) <= keepBuffer {
		f.session.copyBuffer = buf
	}
	return failed
}

// copyData sends one message of COPY data: 'd', its length, and what follows.
func (f *flight) copyData(message []byte) {
	if f.buffer+len(message) < flushBytes {
		f.front.Send(&pgproto3.CopyData{Data: message[5:]})
		f.buffer += len(message)
		return
	}
	f.flush()
	binary.BigEndian.PutUint32(message[1:], uint32(len(message)-1))
	f.send(func() error { return f.front.SendUnbufferedEncodedCopyData(message) })
}

// wait sends what is left, after the last segment was added, and returns the
// outcome.
func (f *flight) wait() error {
	if f.reading == nil {
		f.send(f.front.Flush)
		f.call.Resume()
		f.read()
	} else {
		f.flush()
		f.call.Resume()
		<-f.reading
	}
	f.done = true
	f.session.calls.Hurry()
	for _, st := range f.parsed {
		if !st.ready { // whether the server has it is not known: it gets another name
			st.sent, st.name = false, f.session.nextName(st.name)
		}
	}
	if !f.stop() && f.gone == nil {
		f.gone = context.Canceled
	}
	f.gone = f.explain(f.gone)
	f.call.End()
	f.session.unanswered = f.gone != nil
	switch {
	case f.gone != nil && f.err == nil:
		return &connectionError{f.gone}
	case f.gone != nil:
		return &connectionError{f.err}
	default:
		return f.err
	}
}

// read reads answers until the last segment's. It runs beside the sender once
// more is sent than the socket's buffers take.
func (f *flight) read() {
	completed := 0
	for {
		msg, err := f.session.pg.ReceiveMessage(context.Background())
		if fatal := new(pgconn.PgError); errors.As(err, &fatal) {
			f.answerError(fatal, completed)
		}
		if err != nil {
			f.gone = err
			f.failed.Store(true)
			return
		}
		f.call.Progress()
		switch msg := msg.(type) {
		case *pgproto3.ParseComplete:
			// A server that ends a session also sends what it has not answered yet, of a
			// segment that is still open here. The session is lost then.
			if st := f.step(completed).prepares; st != nil {
				st.ready = true
			}
		case *pgproto3.CommandComplete:
			f.tag = string(msg.CommandTag)
			completed++
		case *pgproto3.ErrorResponse:
			f.answerError(pgconn.ErrorResponseToPgError(msg), completed)
		case *pgproto3.ReadyForQuery:
			completed = 0
			if f.answered() {
				return
			}
		}
	}
}

// answerError keeps the first error with the statement that it belongs to.
func (f *flight) answerError(e *pgconn.PgError, completed int) {
	f.failed.Store(true)
	if f.err != nil {
		return
	}
	this := f.step(completed)
	err := &serverError{code: e.Code, severity: e.SeverityUnlocalized, message: e.Message, constraint: e.ConstraintName, column: e.ColumnName, what: this.what, checkpoint: this.checkpoint}
	if f.err = err; this.shape != nil {
		f.err = sqlsink.About(this.shape.layout, err)
	}
}

// step returns the statement of the segment at hand that the next answer is of.
func (f *flight) step(completed int) step {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.segments) == 0 {
		return step{what: "begin"}
	}
	steps := f.segments[0].steps
	return steps[min(completed, len(steps)-1)]
}

// answered drops the segment at hand and reports whether it was the last one.
func (f *flight) answered() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.segments) == 0 {
		return false
	}
	last := f.segments[0].last
	f.segments = f.segments[1:]
	return last
}

// commit ends the transaction. A transaction that the server could only roll
// back is an error.
func (f *flight) commit() error {
	if f.failed.Load() {
		return f.rollback()
	}
	f.run(f.session.commit, "commit", nil, false, nil)
	f.sync(true)
	err := f.wait()
	if err == nil && f.tag != "COMMIT" {
		err = fmt.Errorf("commit: the server answered %s", f.tag)
	}
	return err
}

// rollback ends the transaction in vain. It returns the error that made it so,
// if that came from the server.
func (f *flight) rollback() error {
	if !f.closed {
		f.sync(false)
		f.add(segment{steps: []step{{what: "roll back"}}, last: true})
		f.front.SendQuery(&pgproto3.Query{String: "ROLLBACK"})
	}
	if f.done {
		return nil
	}
	return f.wait()
}
