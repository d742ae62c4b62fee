package mysql

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"github.com/go-sql-driver/mysql"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// lastError keeps the last error that the driver logs. If a connection breaks, the driver logs the
// cause, and returns an error that does not contain the cause.
type lastError struct {
	mu  sync.Mutex
	err error
}

// Print implements mysql.Logger.
func (l *lastError) Print(values ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range values {
		if err, ok := v.(error); ok {
			l.err = err
		}
	}
}

// cause returns the logged error if err reports only that the connection broke. Otherwise it
// returns err.
func (l *lastError) cause(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil && (errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)) {
		return l.err
	}
	return err
}

// explainConnect describes why a connection failed and how to fix the failure. The error contains
// no secret of the URL.
func (d *dialect) explainConnect(err error) error {
	e := new(mysql.MySQLError)
	if !errors.As(err, &e) {
		return &sqlsink.ConnectionError{Err: d.explainNetwork(err)}
	}
	user, database := d.config.User, quote(d.config.DBName)
	what := "connect to " + d.where
	switch e.Number {
	case 1045, 1698:
		what = fmt.Sprintf("%s refuses the password of user %q", d.where, user)
	case 1049:
		what = fmt.Sprintf("%s has no such database; run: CREATE DATABASE %s CHARACTER SET utf8mb4", d.where, database)
	case 1044:
		what = fmt.Sprintf("user %q may not use the database; run: GRANT %s ON %s.* TO %s", user, privileges, database, literal(user))
	case 1130:
		what = fmt.Sprintf("%s accepts no connections from this machine", d.where)
	}
	return &sqlsink.ConnectionError{Err: &serverError{number: e.Number, state: string(e.SQLState[:]), message: e.Message, what: what}}
}

// explainNetwork describes the failure of a connection if the server sent no error message. It
// marks errors that only the operator can fix as refused.
func (d *dialect) explainNetwork(err error) error {
	switch {
	case errors.Is(err, mysql.ErrNoTLS):
		return fault.Mark(fault.Refused, fmt.Errorf("tls with %s: the server does not offer it; "+
			"set it up there, or write tls=preferred", d.where))
	case errors.Is(err, mysql.ErrCleartextPassword):
		return fault.Mark(fault.Refused, fmt.Errorf("%s asks for the password in clear text; "+
			"add allowCleartextPasswords=true to the url, with tls=true", d.where))
	case errors.Is(err, mysql.ErrOldPassword), errors.Is(err, mysql.ErrNativePassword),
		errors.Is(err, mysql.ErrUnknownPlugin), errors.Is(err, mysql.ErrOldProtocol):
		return fault.Mark(fault.Refused, fmt.Errorf("log in to %s: the user has a kind of password that eds cannot use; "+
			"run: ALTER USER %s IDENTIFIED BY '...'", d.where, literal(d.config.User)))
	}
	server := sqlsink.ServerAddress{Address: d.where, Authority: "give it with tls-ca=FILE", Name: "give that with tls-server-name=NAME"}
	if explained := server.ConnectError(err); explained != nil {
		return explained
	}
	return fmt.Errorf("connect to %s: %w", d.where, err)
}
