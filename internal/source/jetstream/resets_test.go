package jetstream

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/shopmonkeyus/eds/internal/continuity"
)

// mute returns a configuration with a user whose reset requests the server ignores, as servers
// before 2.14 do. The parameter wait is how long the source waits for an answer.
func (b *testBroker) mute(wait time.Duration) Config {
	b.tb.Helper()
	c := b.config()
	c.Conn.Close()
	var err error
	c.Conn, err = nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", b.options.Port), nats.UserInfo("mute", "mute"), nats.MaxReconnects(-1),
		nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		b.tb.Fatal(err)
	}
	b.tb.Cleanup(c.Conn.Close)
	c.tuning.resetWait = wait
	return c
}

// muteUser returns a user with the permissions of HQ's users, except that it must not reset
// consumers.
func muteUser() *server.User {
	publish := *narrow.Publish
	publish.Deny = []string{"$JS.API.CONSUMER.RESET.>"}
	permissions := &server.Permissions{Publish: &publish, Subscribe: narrow.Subscribe}
	return &server.User{Username: "mute", Password: "mute", Permissions: permissions}
}

// neverAnswered is a resetWait so long that a test fails if it waits for the answer to a reset.
const neverAnswered = time.Hour

func TestResetSupport_IsMissedAfterOneTimeout(t *testing.T) {
	b := newTestBroker(t)
	b.publish(10)
	var recorded []string
	c := b.mute(20 * time.Millisecond)
	c.ResetSupport = NewResetSupport("", func(server string) error {
		recorded = append(recorded, server)
		return nil
	})
	s := open(t, c)
	acknowledge(t, s, read(t, s, 10)[3])
	want := []string{" " + server.VERSION} // the server has no name
	if diff := cmp.Diff(want, recorded); diff != "" {
		t.Error(diff)
	}

	s.c.tuning.resetWait = neverAnswered
	s.dropSubscription() // as after a lost connection
	b.publish(1)
	if diff := cmp.Diff([]uint64{11}, sequences(read(t, s, 1))); diff != "" {
		t.Error(diff)
	}
	closeSource(t, s)
	eventually(t, "four messages are acknowledged", func() bool { return b.info().AckFloor.Stream == 4 })
	c.tuning.resetWait = neverAnswered
	if diff := cmp.Diff([]uint64{5, 6, 7, 8, 9, 10, 11}, sequences(read(t, open(t, c), 7))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, recorded); diff != "" {
		t.Error(diff)
	}
}

func TestResetSupport_IsKnownAfterARestart(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	c := b.mute(neverAnswered)
	c.ResetSupport = NewResetSupport(" "+server.VERSION, func(server string) error {
		t.Errorf("%q is recorded again", server)
		return nil
	})
	b.stop()
	b.start()
	eventually(t, "the client is back", c.Conn.IsConnected)
	if diff := cmp.Diff([]uint64{1, 2, 3}, sequences(read(t, open(t, c), 3))); diff != "" {
		t.Error(diff)
	}
}

func TestResetSupport_IsTestedAgainAfterAnUpgrade(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	c := b.mute(20 * time.Millisecond)
	var recorded []string
	c.ResetSupport = NewResetSupport(" 2.11.8", func(server string) error {
		recorded = append(recorded, server)
		return nil
	})
	read(t, open(t, c), 3)
	if diff := cmp.Diff([]string{" " + server.VERSION}, recorded); diff != "" {
		t.Error(diff)
	}
}

func TestResetSupport_IsNotJudgedByAServerThatAnswersNothing(t *testing.T) {
	b := newTestBroker(t)
	b.publish(3)
	c := b.mute(20 * time.Millisecond)
	var log logBuffer
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c.ResetSupport = NewResetSupport("", nil)
	s := open(t, c)
	refused := errors.New("disk full")
	s.c.Record, s.recorded.Scanned = func(continuity.Record) error { return refused }, 1 // prevents deletion of the consumer
	if err := s.subscribe(t.Context()); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if c.ResetSupport.missing(serverName(c.Conn)) {
		t.Error("a server that answers nothing is marked as one without resets")
	}
	s.c.Record = nil
	read(t, s, 3)
	if !c.ResetSupport.missing(serverName(c.Conn)) || strings.Count(log.String(), "does not answer consumer resets") != 1 {
		t.Errorf("the server is not marked as one without resets, once:\n%s", log.String())
	}
}

func TestResetSupport_OutlivesAnErrorOfItsRecord(t *testing.T) {
	refused := errors.New("disk full")
	s := NewResetSupport("", func(string) error { return refused })
	if err := s.markMissing("a 2.11.9"); !errors.Is(err, refused) {
		t.Error(err)
	}
	if got := []bool{s.missing("a 2.11.9"), s.missing("a 2.14.0")}; !slices.Equal(got, []bool{true, false}) {
		t.Error(got)
	}
}

// logBuffer stores log entries.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
