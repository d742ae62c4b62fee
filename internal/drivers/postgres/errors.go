package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// serverError is an error that the server returned. The text of the error contains no value of a
// row, because Error leaves out server messages that may quote a value.
type serverError struct {
	code, severity     string
	message            string
	constraint, column string
	what               string // the operation that failed
	checkpoint         bool   // the statement that moves the checkpoint caused the error
}

func (e *serverError) Error() string {
	text := e.message
	if !e.quotable() {
		text = "the server refused a value"
		if name, ok := conditions[e.code]; ok {
			text += ": " + name
		}
		if e.column != "" {
			text += fmt.Sprintf(" in column %q", e.column)
		}
	}
	if e.constraint != "" && !strings.Contains(text, e.constraint) {
		text += fmt.Sprintf(" (constraint %q)", e.constraint)
	}
	if e.what != "" {
		text = e.what + ": " + text
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", text, e.code)
}

// quotable reports whether messages of the error's class are free of values. Messages of data
// exceptions may contain values, and a trigger can raise an error with any message.
func (e *serverError) quotable() bool {
	switch e.class() {
	case "08", "0A", "21", "23", "25", "26", "28", "2B", "34", "3D", "3F", "40", "42", "53", "54", "55", "57", "58":
		return true
	}
	return false
}

func (e *serverError) class() string { return e.code[:min(2, len(e.code))] }

// conditions describes the data exceptions that a row can cause, by SQLSTATE.
var conditions = map[string]string{
	"22000": "data exception", "22001": "too long", "22003": "out of range",
	"22007": "invalid date or time", "22008": "date or time out of range",
	"22009": "invalid offset", "22012": "division by zero", "22021": "not in the character set", "22023": "invalid parameter",
	"22025": "invalid escape sequence", "22P02": "invalid text for the type", "22P03": "invalid binary form", "22P04": "bad copy format",
	"22P05": "untranslatable character", "22P06": "nonstandard use of an escape character",
	"22030": "duplicate json key", "22032": "invalid json", "2200N": "invalid xml",
	"P0001": "a trigger raised an exception",
}

// newServerError converts an error of pgconn. The text of the error starts with the name of the
// operation.
func newServerError(what string, e *pgconn.PgError) *serverError {
	return &serverError{
		code: e.Code, severity: e.SeverityUnlocalized, message: e.Message, constraint: e.ConstraintName, column: e.ColumnName, what: what,
	}
}

// sessionError converts an error of pgconn. An error that the server returned becomes a
// *serverError. If the connection is closed, sessionError wraps the error in a
// *sqlsink.ConnectionError. The text of the error starts with the name of the operation.
func (s *sqlSession) sessionError(what string, err error) error {
	if err == nil {
		return nil
	}
	if e := new(pgconn.PgError); errors.As(err, &e) {
		err = newServerError(what, e)
	} else {
		err = fmt.Errorf("%s: %w", what, err)
	}
	if s.pg.IsClosed() {
		err = &sqlsink.ConnectionError{Err: err}
	}
	return err
}
