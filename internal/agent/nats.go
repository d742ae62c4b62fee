package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// NATS connects to HQ's NATS. It implements Dialer.
type NATS struct {
	Servers  string // addresses of the NATS servers, separated by commas
	Version  string // of eds
	Security *hq.Security
	Health   *telemetry.Health
	Logger   *slog.Logger
}

// natsConnection implements Connection.
type natsConnection struct {
	*nats.Conn
	denied chan error
}

func (c *natsConnection) NATS() *nats.Conn     { return c.Conn }
func (c *natsConnection) Denied() <-chan error { return c.denied }
func (c *natsConnection) OpenControlChannel(session string) (ControlChannel, error) {
	return hq.OpenControlChannel(c.Conn, session)
}

// Connect implements Dialer. It also returns errRefused for an expired credential, because only
// a new session provides a new credential.
func (n *NATS) Connect(ctx context.Context, credential hq.Credential, serverID string) (Connection, error) {
	c := &natsConnection{denied: make(chan error, 1)}
	options := append(n.events(c.denied),
		nats.Name("eds "+n.Version+" "+serverID), nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.PingInterval(20*time.Second), nats.MaxPingsOutstanding(2),
	)
	var refused error
	err := reconciler.Retry(ctx, n.Health, n.Logger, "nats", func() (err error) {
		if c.Conn, err = hq.Connect(n.Servers, credential, n.Security, options...); refusesCredential(err) {
			refused, err = fmt.Errorf("%w: %w", errRefused, err), nil
		}
		return err
	})
	if err = errors.Join(err, refused); err != nil {
		return nil, fmt.Errorf("connect to nats at %s: %w", hq.Redacted(n.Servers), err)
	}
	return c, nil
}

// events returns options that report the events of a connection to the log and to health. The
// options also send errors about denied permissions to the given channel.
func (n *NATS) events(denied chan<- error) []nats.Option {
	var insecure atomic.Bool // the last server that was tried does not use TLS, although it must
	return []nats.Option{
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				n.Logger.Warn("the connection to nats is lost; connecting again", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			if errors.As(err, new(*hq.InsecureError)) && !insecure.Swap(true) {
				n.Health.Set("nats", err)
				n.Logger.Warn("waiting for NATS, and trying again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			if insecure.Swap(false) {
				n.Health.Set("nats", nil)
			}
			n.Logger.Info("connected to nats again", "server", hq.Redacted(conn.ConnectedUrl()))
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			n.Logger.Warn("nats reports an error", "error", err)
			if !errors.Is(err, nats.ErrPermissionViolation) {
				return
			}
			err = fmt.Errorf("nats denies this server a permission that it needs; ask for it to be granted at HQ: %w", err)
			select {
			case denied <- fault.Mark(fault.Fatal, err):
			default: // only the first error ends the session
			}
		}),
	}
}

var errRefused = errors.New("it does not accept the credential of this session")

// refusesCredential reports whether err means that NATS does not accept the credential, or no
// longer accepts it.
func refusesCredential(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}
