package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/testing/natstest"
)

// dialer returns a Dialer of a NATS server that runs until the test ends.
func dialer(t *testing.T, change func(*server.Options)) *NATS {
	t.Helper()
	o := new(server.Options)
	change(o)
	s := natstest.Start(t, o)
	return &NATS{Servers: s.ClientURL(), Security: &hq.Security{}, Health: telemetry.NewHealth(), Logger: slog.New(new(messages))}
}

func TestNATS_ConnectsWithAControlChannel(t *testing.T) {
	c, err := dialer(t, func(*server.Options) {}).Connect(t.Context(), hq.Anonymous(), "s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	channel, err := c.OpenControlChannel("s1")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.NATS().Publish("eds.notify.s1.x", []byte(`{"action":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	if cmd, err := channel.Next(t.Context()); err != nil || cmd.Action != "ping" {
		t.Errorf("received %+v, %v", cmd, err)
	}
	if err := channel.Close(); err != nil {
		t.Error(err)
	}
}

func TestNATS_ReturnsARefusedCredential(t *testing.T) {
	n := dialer(t, func(o *server.Options) { o.Username, o.Password = "u", "p" })
	if _, err := n.Connect(t.Context(), hq.Anonymous(), "s"); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
}

func TestNATS_ReportsADeniedPermission(t *testing.T) {
	user := &server.User{Username: "guest", Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"eds.>"}}}}
	n := dialer(t, func(o *server.Options) { o.Users, o.NoAuthUser = []*server.User{user}, "guest" })
	c, err := n.Connect(t.Context(), hq.Anonymous(), "s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 { // the second one is ignored
		if _, err := c.OpenControlChannel("s1"); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-c.Denied():
		if fault.Of(err) != fault.Fatal {
			t.Errorf("the error is %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("nothing is denied")
	}
}

func TestNATS_StopsWaitingWithItsContext(t *testing.T) {
	n := dialer(t, func(*server.Options) {})
	n.Servers = "nats://127.0.0.1:1"
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errBroken)
	defer cancel()
	if _, err := n.Connect(ctx, hq.Anonymous(), "s"); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}
