package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
)

// connect connects to HQ's NATS with the session's credential, however long it
// takes, unless NATS refuses the credential, as it does once that has expired:
// only another session brings another. The connection repairs itself. The channel brings an error where NATS
// forbids something that the server can't do without.
func (s *Server) connect(ctx context.Context, credential hq.Credential) (*nats.Conn, <-chan error, error) {
	denied := make(chan error, 1)
	options := []nats.Option{
		nats.Name("eds " + s.Build.Version + " " + s.serverID), credential.Option(), nats.Timeout(10 * time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.PingInterval(20 * time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.Logger.Warn("the connection to nats is lost; connecting again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			s.Logger.Info("connected to nats again", "server", conn.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			s.Logger.Warn("nats reports an error", "error", err)
			if !errors.Is(err, nats.ErrPermissionViolation) {
				return
			}
			select {
			case denied <- fault.Mark(fault.Fatal, fmt.Errorf("nats does not permit what this server has to do; have HQ mend its permissions: %w", err)):
			default: // the first one says enough
			}
		}),
	}
	var conn *nats.Conn
	var refused error
	err := s.insist(ctx, "nats", func() (err error) {
		if conn, err = nats.Connect(s.servers(), options...); refuses(err) {
			refused, err = fmt.Errorf("%w: %w", errRefused, err), nil
		}
		return err
	})
	if err = errors.Join(err, refused); err != nil {
		return nil, nil, fmt.Errorf("connect to nats at %s: %w", s.servers(), err)
	}
	return conn, denied, nil
}

var errRefused = errors.New("it does not accept the credential of this session")

// refuses reports whether err is NATS's answer to a credential that it does not
// accept, or no more.
func refuses(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}
