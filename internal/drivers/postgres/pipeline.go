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

// wirePipeline sends a transaction without waiting for the responses in between. It waits
// for all of them once, at the end, so a batch costs one round trip. After an error the server
// refuses everything up to the end of the transaction, so nothing that follows an error takes
// effect.
//
// A segment ends where the server reports that it is ready: it is a run of prepared statements
// ended by Sync, or one simple query. COPY must be a simple query, because poolers and relatives
// of PostgreSQL know it only so.
type wirePipeline struct {
	session *session
	front   *pgproto3.Frontend

	open     []sentStatement // since the last Sync
	parsed   []*preparedStatement
	buffered int  // approximate bytes in the frontend
	closed   bool // the last segment was sent
	finished bool // the last segment was answered, or never will be

	failed     atomic.Bool // the server returned an error: further statements have no effect
	readerDone chan struct{}
	stopWatch  func() bool           // stops watching the context
	call       *sqlsink.Deadline     // paused while eds encodes data
	callError  func(err error) error // adds why the context ended

	mu       sync.Mutex
	segments []segment // sent, not answered yet

	// The reader owns these until it ends.
	serverErr error // the first error that the server returned
	connErr   error // why the connection failed
	tag       string
}

// sentStatement is one statement of a segment.
type sentStatement struct {
	what       string             // for errors: "upsert into table x"
	table      *tableStatements   // of the table that it reads or writes; nil if there is none
	prepares   *preparedStatement // prepared by this statement; may be nil
	checkpoint bool
}

type segment struct {
	statements []sentStatement
	last       bool
}

// flushBytes is how many bytes are collected before they are sent. So few fit into the socket's
// buffers, so sending them cannot block even if no goroutine reads the responses.
const flushBytes = 48 << 10

func (s *session) newPipeline(ctx context.Context) *wirePipeline {
	p := &wirePipeline{session: s, front: s.front}
	ctx, p.call = s.calls.Await(ctx)
	p.call.Pause()
	p.callError = func(err error) error { return sqlsink.CallError(ctx, err) }
	p.stopWatch = context.AfterFunc(ctx, p.interrupt)
	return p
}

// interrupt ends all waits for the server.
func (p *wirePipeline) interrupt() { _ = p.session.pg.Conn().SetDeadline(time.Unix(1, 0)) }

// preparedStatement is a statement that the session prepares once.
type preparedStatement struct {
	name string // "" if the session does not keep it
	sql  string
	oids []uint32 // of the parameters

	sent  bool // a Parse was sent
	ready bool // the server has prepared it; known only at the end of the pipeline
}

// sendPrepared appends a prepared statement with binary parameters.
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

// sendSimple appends one simple query, of one or more statements.
func (p *wirePipeline) sendSimple(sql, what string, table *tableStatements) {
	p.sync(false)
	p.addSegment(segment{statements: []sentStatement{{what: what, table: table}}})
	p.front.SendQuery(&pgproto3.Query{String: sql})
	p.buffered += len(sql)
	p.flushIfFull()
}

// sync ends the segment of prepared statements, if one is open.
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

// flush sends the collected messages. From then on a goroutine reads the responses.
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

// send calls fn, which may have to wait until the server accepts data.
func (p *wirePipeline) send(fn func() error) {
	p.call.Resume()
	defer p.call.Pause()
	if fn() != nil {
		// The socket takes no data: close it, which ends the reader too.
		p.failed.Store(true)
		_ = p.session.pg.Conn().Close()
	}
}

// copyHeader begins binary COPY data: signature, flags, no extension.
const copyHeader = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// copyMessage is the size from which a message of COPY data is sent, in bytes.
const copyMessage = 128 << 10

// keepBuffer is the size up to which a buffer is reused, in bytes.
const keepBuffer = 4 << 20

// copyIn runs a COPY ... FROM STDIN (FORMAT binary). next appends one tuple to its argument, and
// reports false at the end. If next fails, copyIn cancels the COPY and returns the error.
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

// copyData sends one message of COPY data: 'd', four bytes for its length, and the data.
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

// wait sends the remaining messages, after the last segment was added, and returns the outcome.
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
		if !st.ready { // the server may or may not have it: use another name next time
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

// read reads responses up to the last segment's. It runs concurrently with the sender once the
// sender has sent more than fits into the socket's buffers.
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
			// A server that ends a session also sends its outstanding responses, even of a segment
			// that is still open here. The session is lost then.
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

// keepError keeps the first error, with the statement that caused it.
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

// current returns the statement of the current segment that the next response belongs to.
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

// commit ends the transaction. It returns an error if the server could only roll back.
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

// rollback undoes the transaction. It returns the error that made the transaction fail, if that
// came from the server.
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
