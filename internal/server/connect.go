package server

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
)

// connect connects to HQ's NATS with the session's credential, however long it
// takes, unless NATS refuses the credential, as it does once that has expired:
// only another session brings another. The connection repairs itself. The channel brings an error where NATS
// forbids something that the server can't do without.
func (s *Server) connect(ctx context.Context, credential hq.Credential, serverID string) (*nats.Conn, <-chan error, error) {
	denied := make(chan error, 1)
	var insecure atomic.Bool // the server that it connects to again does not use TLS, and must
	options := []nats.Option{
		nats.Name("eds " + s.Build.Version + " " + serverID),
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.PingInterval(20 * time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.Logger.Warn("the connection to nats is lost; connecting again", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if errors.As(err, new(*hq.InsecureError)) && !insecure.Swap(true) {
				s.Health.Set("nats", err)
				s.Logger.Warn("waiting for NATS, and trying again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			if insecure.Swap(false) {
				s.Health.Set("nats", nil)
			}
			s.Logger.Info("connected to nats again", "server", hq.Redacted(conn.ConnectedUrl()))
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
	err := reconciler.Retry(ctx, s.Health, s.Logger, "nats", func() (err error) {
		if conn, err = hq.Connect(s.servers(), credential, s.security, options...); refuses(err) {
			refused, err = fmt.Errorf("%w: %w", errRefused, err), nil
		}
		return err
	})
	if err = errors.Join(err, refused); err != nil {
		return nil, nil, fmt.Errorf("connect to nats at %s: %w", hq.Redacted(s.servers()), err)
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
