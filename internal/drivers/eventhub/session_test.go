package eventhub

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/eventhub"
)

// TestSession_PatienceEndsOnlyAtAStandstill checks that slow progress is never interrupted.
func TestSession_PatienceEndsOnlyAtAStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHubSession(&config{patience: time.Second})
		var stopped time.Time
		err := s.withPatience(t.Context(), func(ctx context.Context) error {
			for range 20 {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(700 * time.Millisecond):
				}
				s.progress.Add(1)
			}
			stopped = time.Now()
			<-ctx.Done()
			return ctx.Err()
		})
		if waited := time.Since(stopped); !errors.Is(err, errSilent) || stopped.IsZero() || waited < time.Second ||
			waited > 1250*time.Millisecond {
			t.Errorf("after %v: %v", waited, err)
		}
	})
}

func TestClassify_NamesAnUnknownHost(t *testing.T) {
	s := newHubSession(&config{connectionString: connectionString{host: "ns.example"}})
	s.dialErr = &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "ns.example", IsNotFound: true}}
	err := s.classify(errors.New("lost"))
	if fault.Of(err) != fault.Transient ||
		!strings.Contains(err.Error(), "connect to ns.example: no such host; check the namespace's name") {
		t.Errorf("%v: %v", fault.Of(err), err)
	}
}

// TestClose_CutsAStalledConnection checks that close cuts the connection after closeTimeout.
func TestClose_CutsAStalledConnection(t *testing.T) {
	t.Parallel()
	hub := newHub(t, peer.Settings{})
	proxy := sinktest.NewProxy(t, namespace.Addr)
	s := mustOpen(t, urlAt(proxy.Addr(), hub.Name, ""))
	sinktest.Apply(t, s, sinktest.NumberedBatch(t, 1, 3))
	proxy.Stall()
	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * closeTimeout):
		t.Error("Close still waits")
	}
}
