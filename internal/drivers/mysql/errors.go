package mysql

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// serverError is an error that the server returned. The text of the error contains no value of a
// row, because Error leaves out server messages that may quote a value.
type serverError struct {
	number  uint16
	state   string
	message string
	what    string // the operation that failed
	warned  bool   // the server returned the error as a warning about a value of a row
}

func (e *serverError) Error() string {
	text := e.message
	if (e.warned || isPoison(e.number, e.state)) && !namesOnly[e.number] {
		text = "the server refused a value"
		if name, ok := conditions[e.number]; ok {
			text += ": " + name
		}
	}
	if e.what != "" {
		text = e.what + ": " + text
	}
	return fmt.Sprintf("%s (error %d)", text, e.number)
}

// namesOnly lists numbers of errors about rows. The messages of these errors contain only names of
// tables, columns and constraints, and no values.
var namesOnly = map[uint16]bool{
	1048: true, 1118: true, 1153: true, 1216: true, 1217: true, 1264: true, 1265: true, 1364: true, 1406: true, 1451: true, 1452: true,
	3819: true, 4025: true,
}

// conditions describes the other errors about rows, by number.
var conditions = map[uint16]string{
	1062: "another row has the same value in a unique index",
	1292: "invalid for the column's type", 1366: "invalid for the column's type",
	1367: "invalid for the column's type", 1411: "invalid for the column's type",
	1416: "no geometry", 1526: "no partition for it", 1644: "a trigger raised an error", 1690: "out of range",
	3140: "invalid json", 3141: "invalid json", 3157: "json that is nested too deeply",
}

// sessionError converts an error of the driver. An error that the server returned becomes a
// *serverError, and any other error a *sqlsink.ConnectionError. The parameter ctx is the context of
// the call that failed. The text of the error starts with the name of the operation.
func (s *sqlSession) sessionError(ctx context.Context, what string, err error) error {
	if e := new(mysql.MySQLError); errors.As(err, &e) {
		return &serverError{number: e.Number, state: string(e.SQLState[:]), message: e.Message, what: what}
	}
	s.unanswered = s.unanswered || ctx.Err() != nil
	return &sqlsink.ConnectionError{Err: fmt.Errorf("%s: %w", what, sqlsink.CallError(ctx, err))}
}

// numbered reports whether err is an error of the server that has one of the numbers.
func numbered(err error, numbers ...uint16) bool {
	e := new(serverError)
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range numbers {
		if e.number == n {
			return true
		}
	}
	return false
}
