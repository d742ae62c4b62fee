package postgres

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

// explainConnect describes why a connection failed and how to fix the failure. The error contains
// no secret of the URL.
func (d *dialect) explainConnect(err error) error {
	address := net.JoinHostPort(d.config.Host, fmt.Sprint(d.config.Port))
	e := &pgconn.PgError{}
	if !errors.As(err, &e) {
		return &sqlsink.ConnectionError{Err: explainNetwork(address, err)}
	}
	what := "connect to " + address
	switch {
	case e.Code == "28P01":
		what = fmt.Sprintf("%s refuses the password of user %q", address, d.config.User)
	case strings.HasPrefix(e.Code, "28"):
		what = fmt.Sprintf("%s does not let user %q in", address, d.config.User)
	case e.Code == "3D000":
		what = fmt.Sprintf("%s has no such database; run: CREATE DATABASE %s", address, quote(d.config.Database))
	case e.Code == "42501":
		what = fmt.Sprintf("user %q may not connect; run: GRANT CONNECT ON DATABASE %s TO %s",
			d.config.User, quote(d.config.Database), quote(d.config.User))
	}
	return &sqlsink.ConnectionError{Err: &serverError{code: e.Code, severity: e.SeverityUnlocalized, message: e.Message, what: what}}
}

// explainNetwork describes why a connection failed before the server sent any message.
func explainNetwork(address string, err error) error {
	server := sqlsink.ServerAddress{Address: address, Authority: "give it with sslrootcert=FILE"}
	if explained := server.ConnectError(err); explained != nil {
		return explained
	}
	if inner := new(pgconn.ConnectError); errors.As(err, &inner) {
		err = inner.Unwrap()
	}
	return fmt.Errorf("connect to %s: %w", address, err)
}
