package sqlserver

import (
	"errors"
	"fmt"

	mssql "github.com/microsoft/go-mssqldb"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// serverError is an error that the server returned. The text of the error contains no value of a
// row, because Error leaves out server messages that may quote a value.
type serverError struct {
	number       int32
	state, class uint8
	message      string
	what         string // the operation that failed
}

// newServerError converts the most specific error of a request. The server may return several
// errors: after the cause, it adds an error such as 3621 ("the statement has been terminated"). The
// text of the error starts with the name of the operation.
func newServerError(operation string, e mssql.Error) *serverError {
	for _, each := range e.All {
		if (each.Class > e.Class || follows(e.Number)) && !follows(each.Number) {
			e = each
		}
	}
	return &serverError{number: e.Number, state: e.State, class: e.Class, message: e.Message, what: operation}
}

// follows reports whether an error with the given number only states the consequence of another
// error: a statement or transaction was ended, a constraint was not created, or a login was
// refused.
func follows(number int32) bool {
	switch number {
	case 3621, 3616, 1750, 18456:
		return true
	}
	return false
}

func (e *serverError) Error() string {
	text := e.message
	if !e.quotable() {
		text = "the server refused"
		if name, ok := conditions[e.number]; ok {
			text = "the server refused a value: " + name
		}
	}
	if e.what != "" {
		text = e.what + ": " + text
	}
	return fmt.Sprintf("%s (error %d, state %d)", text, e.number, e.state)
}

// quotable reports whether messages with the error's number are free of values. Messages of errors
// about values may contain values, and a trigger can raise an error with any message.
func (e *serverError) quotable() bool {
	n := e.number
	if _, quotes := conditions[n]; quotes || n >= 50000 && n < 100000 {
		return false
	}
	switch {
	case e.class >= 17, n >= 100 && n < 213, n == 229, n == 230, n == 262, n == 297, n == 300, n == 515, n == 547,
		n >= 900 && n < 2000, n >= 2700 && n < 2800, n >= 3700 && n < 4070, n >= 4900 && n < 5100, n == 9002,
		n >= 8670 && n < 8680, n >= 10000 && n < 11000, n >= 15000 && n < 16000, n >= 18000 && n < 19000, n >= 40000 && n < 50000:
		return true
	}
	return false
}

// conditions describes the errors whose messages may quote a value, by number.
var conditions = map[int32]string{
	220: "out of the type's range", 232: "out of the type's range", 241: "not a date and time",
	242: "date and time out of range", 244: "out of the type's range", 245: "not of the type",
	248: "out of the type's range", 257: "not of the type", 295: "not a date and time",
	296: "date and time out of range", 402: "not of the type", 529: "not of the type", 1505: "a key comes twice",
	1946: "the key is too long for its index", 2601: "a unique index has the key already",
	2627: "a unique constraint has the key already", 2628: "too long", 4815: "too long for the bulk load",
	4863: "too long", 4864: "not of the type", 4879: "not of the type", 6354: "not xml",
	8023: "not a valid number", 8114: "not of the type", 8115: "out of the type's range", 8134: "division by zero",
	8152: "too long", 8169: "not a uniqueidentifier", 9420: "not xml", 13609: "not json",
}

// sessionError converts an error of the driver. An error that the server returned becomes a
// *serverError. If the connection broke or the error did not come from the server, sessionError
// marks the session as broken and returns a *sqlsink.ConnectionError, because the outcome of the
// request is unknown. The text of the error starts with the name of the operation.
func (s *sqlSession) sessionError(operation string, err error) error {
	if err == nil {
		return nil
	}
	e := mssql.Error{}
	if !errors.As(err, &e) {
		s.broken = true
		return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", operation, err)}
	}
	explained := newServerError(operation, e)
	if explained.class >= 20 || !s.conn.IsValid() {
		s.broken = true
		return &sqlsink.ConnectionError{Err: explained}
	}
	return explained
}
