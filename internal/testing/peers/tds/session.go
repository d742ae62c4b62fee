package tds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// signedIn is a connection whose client has signed in.
type signedIn struct {
	server *Server
	conn   net.Conn
	engine *engine
	size   int // size of packets, in bytes
	bulk   *bulkTarget
	meta   bool // SET FMTONLY ON: results have columns and no rows
}

// serve serves a connection until the client disconnects.
func (s *Server) serve(conn net.Conn, number int64) {
	if conn.SetDeadline(time.Now().Add(patience)) != nil {
		return
	}
	before, after, err := s.prelogin(conn)
	if err != nil {
		return
	}
	d, size, err := s.signIn(before, after)
	if err != nil || conn.SetDeadline(time.Time{}) != nil {
		return
	}
	// The context ends with the connection.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e, err := d.session(ctx, number)
	if err != nil {
		return
	}
	defer e.close()
	one := &signedIn{server: s, conn: after, engine: e, size: size}
	for one.turn(ctx) == nil {
	}
}

var errCut = errors.New("tds: the connection is cut")

// turn reads and answers one message.
func (s *signedIn) turn(ctx context.Context) error {
	kind, body, err := readMessage(s.conn)
	if err != nil {
		return err
	}
	var out []byte
	switch kind {
	case messageBatch:
		out, err = s.batch(ctx, body)
	case messageRPC:
		out, err = s.call(ctx, body)
	case messageBulk:
		out, err = s.load(ctx, body)
	case messageAttention:
		out = done(doneAttn, 0)
	default:
		err = fmt.Errorf("tds: a message of type %#x", kind)
	}
	if err != nil {
		return err
	}
	return writeMessage(s.conn, messageReply, out, s.size)
}

// skipHeaders returns the body without the header section ALL_HEADERS.
func skipHeaders(body []byte) []byte {
	if len(body) < 4 || int(le.Uint32(body)) > len(body) {
		return nil
	}
	return body[le.Uint32(body):]
}

// run records and executes statements. It returns the tokens of the answer without the final DONE
// token. If the third result is not nil, it is an error to send to the client. After an error in
// the fourth result, the connection ends.
func (s *signedIn) run(ctx context.Context, text string, arguments map[string]any) (out []byte, rows int64, failed *Error, err error) {
	planned := s.server.record(text)
	if planned != nil && planned.Cut && !planned.After {
		return nil, 0, nil, errCut
	}
	if planned != nil && !planned.Cut {
		return nil, 0, planned, nil
	}
	result, err := s.execute(ctx, text, arguments)
	if planned != nil {
		return nil, 0, nil, errCut
	}
	if e := new(Error); errors.As(err, &e) {
		return nil, 0, e, nil
	}
	if err != nil {
		return nil, 0, nil, err
	}
	return result.tokens, result.rows, nil, nil
}

// execute executes a batch. It handles statements about the connection itself, and passes all
// others to the engine.
func (s *signedIn) execute(ctx context.Context, text string, arguments map[string]any) (result, error) {
	switch upper := strings.ToUpper(strings.TrimSpace(text)); {
	case upper == "SET FMTONLY ON":
		s.meta = true
		return result{}, nil
	case upper == "SET FMTONLY OFF":
		s.meta = false
		return result{}, nil
	case strings.HasSuffix(upper, " SET FMTONLY OFF") && s.meta:
		s.meta = false
		return s.engine.columnsOf(ctx, text[:len(text)-len(" SET FMTONLY OFF")])
	case strings.HasPrefix(upper, "INSERT BULK "):
		var err error
		s.bulk, err = s.engine.bulk(ctx, text)
		return result{}, err
	}
	return s.engine.batch(ctx, text, arguments)
}

// fail returns the answer for a failed statement. It rolls the transaction back, as if XACT_ABORT
// were ON.
func (s *signedIn) fail(ctx context.Context, e *Error) ([]byte, error) {
	var out []byte
	if s.engine.open && e.Number != 50001 {
		if err := s.engine.rollback(ctx); err != nil {
			return nil, err
		}
		out = environment(environmentRollback, []byte{0}, s.engine.descriptor())
	}
	return append(out, errorToken(e)...), nil
}

// batch answers a message with statements without parameters.
func (s *signedIn) batch(ctx context.Context, body []byte) ([]byte, error) {
	out, rows, failed, err := s.run(ctx, fromUCS2(skipHeaders(body)), nil)
	if failed != nil {
		out, err = s.fail(ctx, failed)
		return append(out, done(doneError, 0)...), err
	}
	return append(out, done(doneCount, rows)...), err
}

// call answers a call of sp_executesql.
func (s *signedIn) call(ctx context.Context, body []byte) ([]byte, error) {
	text, arguments, err := parseCall(skipHeaders(body))
	if err != nil {
		return nil, err
	}
	out, rows, failed, err := s.run(ctx, text, arguments)
	if failed != nil {
		out, err = s.fail(ctx, failed)
		return append(out, doneProc(doneError, 0)...), err
	}
	return append(out, doneProc(0, rows)...), err
}

// maxCall is the maximum number of parameters of a call.
const maxCall = 2100

// parseCall parses a call of sp_executesql. It returns the text of the statement and the values of
// its parameters, by name and converted to their declared types.
func parseCall(body []byte) (text string, arguments map[string]any, err error) {
	r := &reader{b: body}
	if n := r.uint16(); n != 0xFFFF {
		if name := r.text(int(n)); !strings.EqualFold(name, "sp_executesql") {
			return "", nil, fmt.Errorf("tds: a call of %q", name)
		}
	} else if number := r.uint16(); number != 10 {
		return "", nil, fmt.Errorf("tds: a call of procedure %d", number)
	}
	r.uint16() // options
	var values []any
	for len(r.b) > 0 && !r.bad {
		r.text(int(r.uint8())) // parameter name
		r.uint8()              // status
		t, err := r.readType()
		if err != nil {
			return "", nil, err
		}
		values = append(values, r.readValue(t))
	}
	if r.bad || len(values) == 0 {
		return "", nil, errors.New("tds: the call is cut short")
	}
	if len(values) > maxCall {
		return "", nil, &Error{Number: 8003, Class: 16, State: 1, Message: "The incoming request has too many parameters."}
	}
	text, _ = values[0].(string)
	declaration := ""
	if len(values) > 1 {
		declaration, _ = values[1].(string)
		values = values[2:]
	}
	arguments, err = declare(declaration, values)
	return text, arguments, err
}

// declare parses a parameter declaration. It returns the values by parameter name, converted to the
// declared types.
func declare(declaration string, values []any) (map[string]any, error) {
	arguments := make(map[string]any)
	tokens, err := lex(declaration)
	if err != nil {
		return nil, err
	}
	for _, part := range splitTop(tokens, ",") {
		if len(part) < 2 || len(arguments) >= len(values) {
			return nil, fmt.Errorf("tds: %d values for the declaration %.100s", len(values), declaration)
		}
		t, err := parseType(plain(part[1:]))
		if err != nil {
			return nil, err
		}
		v, err := t.convert(values[len(arguments)])
		if err != nil {
			return nil, err
		}
		arguments[strings.TrimPrefix(part[0].text, "@")] = v
	}
	if len(arguments) != len(values) {
		return nil, fmt.Errorf("tds: %d values for the declaration %.100s", len(values), declaration)
	}
	return arguments, nil
}

// load answers the message that contains the rows of a bulk load.
func (s *signedIn) load(ctx context.Context, body []byte) ([]byte, error) {
	target := s.bulk
	s.bulk = nil
	if target == nil {
		return nil, errors.New("tds: rows without INSERT BULK")
	}
	count, err := target.load(ctx, body)
	if e := new(Error); errors.As(err, &e) {
		out, err := s.fail(ctx, e)
		return append(out, done(doneError, 0)...), err
	}
	return done(doneCount, count), err
}
