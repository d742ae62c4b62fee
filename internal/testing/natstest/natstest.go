// Package natstest starts NATS servers in tests.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Start starts a NATS server on a free port of 127.0.0.1. Start overwrites the fields of options that
// set the address, the signal handler and the log. The server stops when the test ends.
func Start(tb testing.TB, options *server.Options) *server.Server {
	tb.Helper()
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", -1, true, true
	s, err := server.NewServer(options)
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		tb.Fatal("the NATS server does not start")
	}
	return s
}
