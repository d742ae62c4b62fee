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

// wirePipeline sends the statements of a transaction without waiting for the response to each one.
// It waits for all responses at the end, so a batch costs one round trip. After an error, the
// server refuses all further statements of the transaction, so no statement after an error takes
// effect.
//
// The statements are sent in segments. A segment is a sequence of prepared statements followed by
// Sync, or one simple query. The server answers the end of each segment with ReadyForQuery. COPY
// must be a simple query, because poolers and compatible databases support COPY only in that form.
type wirePipeline struct {
	session *sqlSession
	front   *pgproto3.Frontend

	open     []sentStatement // the prepared statements since the last Sync
	parsed   []*preparedStatement
	buffered int  // approximate number of unsent bytes in the frontend
	closed   bool // the last segment was added
	finished bool // wait has returned

	failed     atomic.Bool // the server or the connection failed, so further statements have no effect
	readerDone chan struct{}
	stopWatch  func() bool           // stops watching the context
	call       *sqlsink.Deadline     // paused while eds encodes data
	callError  func(err error) error // adds the reason to err if the context has ended

	mu       sync.Mutex
	segments []segment // the segments that the server has not answered yet

	// The goroutine that runs the method read owns these fields until the method returns.
	serverErr error  // the first error that the server returned
	connErr   error  // the error that broke the connection, or nil
	tag       string // the last command tag, such as COMMIT
}

// sentStatement is one statement of a segment.
type sentStatement struct {
	what       string             // the operation, for errors: "upsert into table x"
	table      *tableStatements   // of the table that the statement reads or writes, or nil
	prepares   *preparedStatement // the statement whose Parse was sent with this statement, or nil
	checkpoint bool               // the statement moves the checkpoint
}

type segment struct {
	statements []sentStatement
	last       bool
}

// flushBytes is the number of bytes that are collected before they are sent. The socket's buffers
// can hold that many bytes, so sending them does not block even if no goroutine reads the
// responses.
const flushBytes = 48 << 10

func (s *sqlSession) newPipeline(ctx context.Context) *wirePipeline {
	p := &wirePipeline{session: s, front: s.front}
	ctx, p.call = s.calls.Await(ctx)
	p.call.Pause()
	p.callError = func(err error) error { return sqlsink.CallError(ctx, err) }
	p.stopWatch = context.AfterFunc(ctx, p.interrupt)
	return p
}

// interrupt makes all reads and writes on the connection return at once with a timeout error.
func (p *wirePipeline) interrupt() { _ = p.session.pg.Conn().SetDeadline(time.Unix(1, 0)) }

// preparedStatement is a statement that the session prepares once.
type preparedStatement struct {
	name string // "" if the session does not keep prepared statements
	sql  string
	oids []uint32 // the types of the parameters

	sent  bool // a Parse was sent
	ready bool // the server has prepared the statement; valid only after the pipeline has finished
}

// sendPrepared adds a prepared statement with binary parameters to the open segment. If the
// parameter checkpoint is true, the statement moves the checkpoint.
func (p *wirePipeline) sendPrepared(st *preparedStatement, what string, table *tableStatements, checkpoint bool, params [][]byte) {
	this := sentStatement{what: what, table: table, checkpoint: checkpoint}
	if !st.sent || st.name == "" {
		p.front.SendParse(&pgproto3.Parse{Name: st.name, Query: st.sql, ParameterOIDs: st.oids})
		p.buffered += len(st.sql)
		this.prepares, st.sent = st, true
		p.parsed = append(p.parsed, st)
	}
	p.front.SendBind(&pgproto3.Bind{PreparedStatement: st.name, Parameters: params, ParameterFormatCodes: []int16{1}})
	p.front.SendExecute(&pgproto3.Execute{})
	p.buffered += 64
	for _, param := range params {
		p.buffered += len(param) + 4
	}
	p.open = append(p.open, this)
	p.flushIfFull()
}

// sendSimple adds a segment with one simple query, which may contain several statements.
func (p *wirePipeline) sendSimple(sql, what string, table *tableStatements) {
	p.sync(false)
	p.addSegment(segment{statements: []sentStatement{{what: what, table: table}}})
	p.front.SendQuery(&pgproto3.Query{String: sql})
	p.buffered += len(sql)
	p.flushIfFull()
}

// sync ends the open segment of prepared statements, if there is one. If the parameter last is
// true, the segment is the last of the pipeline.
func (p *wirePipeline) sync(last bool) {
	if len(p.open) == 0 {
		return
	}
	p.addSegment(segment{statements: p.open, last: last})
	p.open = nil
	p.front.SendSync(&pgproto3.Sync{})
}

func (p *wirePipeline) addSegment(s segment) {
	p.mu.Lock()
	p.segments = append(p.segments, s)
	p.mu.Unlock()
	p.closed = s.last
}

func (p *wirePipeline) flushIfFull() {
	if p.buffered >= flushBytes {
		p.flush()
	}
}

// flush sends the collected messages. The first call starts a goroutine that reads the responses.
func (p *wirePipeline) flush() {
	if p.readerDone == nil {
		p.readerDone = make(chan struct{})
		go func() {
			defer close(p.readerDone)
			p.read()
		}()
	}
	p.buffered = 0
	p.send(p.front.Flush)
}

// send calls fn, which sends data and may block until the server accepts the data. If fn fails,
// send closes the connection.
func (p *wirePipeline) send(fn func() error) {
	p.call.Resume()
	defer p.call.Pause()
	if fn() != nil {
		// The socket accepts no data. Closing it also ends the goroutine that reads.
		p.failed.Store(true)
		_ = p.session.pg.Conn().Close()
	}
}

// copyHeader is the header of binary COPY data: the signature, the flags and the length of an empty
// extension.
const copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyMessage is the size, in bytes, at which copyIn sends a message of COPY data.
const copyMessage = 128 << 10

// keepBuffer is the maximum capacity, in bytes, of a buffer that is kept for reuse.
const keepBuffer = 4 << 20

// copyIn runs the statement sql, which must be a COPY ... FROM STDIN (FORMAT binary). The function
// next appends one tuple to dst, and reports whether to call it again. If next fails, copyIn
// cancels the COPY and returns the error of next.
func (p *wirePipeline) copyIn(sql, what string, table *tableStatements, next func(dst []byte) ([]byte, bool, error)) error {
	p.sendSimple(sql, what, table)
	buf := append(p.session.copyBuffer[:0], 'd', 0, 0, 0, 0)
	buf = append(buf, copyHeader...)
	var failed error
	for more := true; more && failed == nil && !p.failed.Load(); {
		if buf, more, failed = next(buf); len(buf) >= copyMessage && failed == nil {
			p.copyData(buf)
			buf = buf[:5]
		}
	}
	if failed == nil {
		buf = append(buf, 0xff, 0xff)
		p.copyData(buf)
		p.front.Send(&pgproto3.CopyDone{})
	} else {
		p.front.Send(&pgproto3.CopyFail{Message: "a row could not be encoded"})
	}
	if cap(buf) <= keepBuffer {
		p.session.copyBuffer = buf
	}
	return failed
}

// copyData sends one message of COPY data. The message must start with 'd' and four bytes, which
// copyData sets to the length.
func (p *wirePipeline) copyData(message []byte) {
	if p.buffered+len(message) < flushBytes {
		p.front.Send(&pgproto3.CopyData{Data: message[5:]})
		p.buffered += len(message)
		return
	}
	p.flush()
	binary.BigEndian.PutUint32(message[1:], uint32(len(message)-1))
	p.send(func() error { return p.front.SendUnbufferedEncodedCopyData(message) })
}

// wait sends the remaining messages and waits for all responses. It returns the first error of the
// server, or a *sqlsink.ConnectionError if the connection failed. The caller must have added the
// last segment.
func (p *wirePipeline) wait() error {
	if p.readerDone == nil {
		p.send(p.front.Flush)
		p.call.Resume()
		p.read()
	} else {
		p.flush()
		p.call.Resume()
		<-p.readerDone
	}
	p.finished = true
	p.session.calls.DisallowLong()
	for _, st := range p.parsed {
		if !st.ready { // the server may or may not have prepared it, so the next attempt needs another name
			st.sent, st.name = false, p.session.nextName(st.name)
		}
	}
	if !p.stopWatch() && p.connErr == nil {
		p.connErr = context.Canceled
	}
	p.connErr = p.callError(p.connErr)
	p.call.End()
	p.session.unanswered = p.connErr != nil
	switch {
	case p.connErr != nil && p.serverErr == nil:
		return &sqlsink.ConnectionError{Err: p.connErr}
	case p.connErr != nil:
		return &sqlsink.ConnectionError{Err: p.serverErr}
	default:
		return p.serverErr
	}
}

// read reads responses until the last segment has been answered or the connection fails. It runs
// concurrently with the sender if the transaction exceeds flushBytes.
func (p *wirePipeline) read() {
	completed := 0
	for {
		msg, err := p.session.pg.ReceiveMessage(context.Background())
		if fatal := new(pgconn.PgError); errors.As(err, &fatal) {
			p.keepError(fatal, completed)
		}
		if err != nil {
			p.connErr = err
			p.failed.Store(true)
			return
		}
		p.call.Progress()
		switch msg := msg.(type) {
		case *pgproto3.ParseComplete:
			// A server that ends a session first sends the outstanding responses. They may belong to
			// a segment that is still open here, so current may return another statement. This does
			// no harm, because the session is lost.
			if st := p.current(completed).prepares; st != nil {
				st.ready = true
			}
		case *pgproto3.CommandComplete:
			p.tag = string(msg.CommandTag)
			completed++
		case *pgproto3.ErrorResponse:
			p.keepError(pgconn.ErrorResponseToPgError(msg), completed)
		case *pgproto3.ReadyForQuery:
			completed = 0
			if p.endSegment() {
				return
			}
		}
	}
}

// keepError keeps e as serverErr if e is the pipeline's first error. It adds the operation and the
// table of the failed statement to the error. The parameter completed is the number of statements
// of the current segment that have completed.
func (p *wirePipeline) keepError(e *pgconn.PgError, completed int) {
	p.failed.Store(true)
	if p.serverErr != nil {
		return
	}
	this := p.current(completed)
	err := newServerError(this.what, e)
	err.checkpoint = this.checkpoint
	if p.serverErr = err; this.table != nil {
		p.serverErr = sqlsink.About(this.table.layout, err)
	}
}

// current returns the statement that the next response belongs to. The parameter completed is the
// number of statements of the current segment that have completed.
func (p *wirePipeline) current(completed int) sentStatement {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.segments) == 0 {
		return sentStatement{what: "begin"}
	}
	statements := p.segments[0].statements
	return statements[min(completed, len(statements)-1)]
}

// endSegment drops the current segment and reports whether it was the last one.
func (p *wirePipeline) endSegment() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.segments) == 0 {
		return false
	}
	last := p.segments[0].last
	p.segments = p.segments[1:]
	return last
}

// commit commits the transaction and waits for all responses. If the server rolled the transaction
// back instead, commit returns an error.
func (p *wirePipeline) commit() error {
	if p.failed.Load() {
		return p.rollback()
	}
	p.sendPrepared(p.session.commit, "commit", nil, false, nil)
	p.sync(true)
	err := p.wait()
	if err == nil && p.tag != "COMMIT" {
		err = fmt.Errorf("commit: the server answered %s", p.tag)
	}
	return err
}

// rollback undoes the transaction and waits for all responses. It returns the error that made the
// transaction fail, if the server or the connection reported one and commit has not returned it.
func (p *wirePipeline) rollback() error {
	if !p.closed {
		p.sync(false)
		p.addSegment(segment{statements: []sentStatement{{what: "roll back"}}, last: true})
		p.front.SendQuery(&pgproto3.Query{String: "ROLLBACK"})
	}
	if p.finished {
		return nil
	}
	return p.wait()
}
