package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/shopmonkeyus/eds/internal/devhq"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// asReference turns the data directory into one of the reference server, whose import was at the
// given time.
func (w *world) asReference(at time.Time) {
	w.t.Helper()
	if err := os.Remove(filepath.Join(w.data, "eds.db")); err != nil {
		w.t.Fatal(err)
	}
	var tables []string
	for _, name := range w.hq.Shop().Tables() {
		tables = append(tables, fmt.Sprintf(`{"Table":%q,"Timestamp":%q}`, name, at.UTC().Format(time.RFC3339Nano)))
	}
	text := ""
	for _, command := range [][]string{
		{"set", "registry:order-1", `{"table":"order"}`, "ae", "1795993282"},
		{"set", "table-export", "[]"},
		{"set", "table-export", "[" + strings.Join(tables, ",") + "]"},
		{"del", "registry:order-1"},
	} {
		text += fmt.Sprintf("*%d\r\n", len(command))
		for _, part := range command {
			text += fmt.Sprintf("$%d\r\n%s\r\n", len(part), part)
		}
	}
	w.writeReference(text)
}

func (w *world) writeReference(text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.data, "eds-data.db"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// changes waits until the stream has n more messages, and returns its last one.
func (w *world) changes(n uint64) uint64 {
	w.t.Helper()
	was, err := w.hq.StreamState(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	last := was.LastSeq
	eventually(w.t, "the shop goes on", func() bool {
		now, err := w.hq.StreamState(w.t.Context())
		last = now.LastSeq
		return err == nil && last > was.LastSeq+n
	}, func() string { return "" })
	return last
}

// TestReference_LeavesItsImport makes changes during that import, up to its recorded time, and
// after it.
func TestReference_LeavesItsImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 400})
	w.imports()
	w.changes(200)
	w.asReference(time.Now())
	w.changes(200)
	p := w.serve()
	w.drain(p)
	p.stop()
	w.equal()
	if !strings.Contains(p.output(), "continuing after the import of the reference server") {
		t.Errorf("it is not said:\n%s", p.output())
	}
	p = w.serve() // it is taken over once
	w.hq.Resume()
	w.changes(20)
	w.drain(p)
	p.stop()
	w.equal()
	if strings.Contains(p.output(), "reference server") {
		t.Errorf("it is taken over again:\n%s", p.output())
	}
}

var totalEvents = regexp.MustCompile(`(?m)^eds_total_events(?:_total)? (\S+)$`)

// TestReference_LeavesItsConsumer makes a consumer like that of the reference server, which has
// acknowledged the changes of the months after its import.
func TestReference_LeavesItsConsumer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, peers.Postgres(t), devhq.Options{Rate: 400})
	began := time.Now()
	w.imports()
	w.asReference(began)
	js, err := jetstream.New(w.hq.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "dbchange", jetstream.ConsumerConfig{
		Durable: "eds-" + w.id, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy,
		OptStartTime: &began,
		MaxWaiting:   1, AckWait: 5 * time.Minute, MaxDeliver: 20, MaxAckPending: 1000, InactiveThreshold: 72 * time.Hour,
		FilterSubject: "dbchange.*.*." + w.hq.Shop().Companies()[0] + ".*.PUBLIC.>",
	}); err != nil {
		t.Fatal(err)
	}
	p := w.serve()
	w.changes(1000)
	w.drain(p)
	p.stop()
	w.equal()

	// Remove eds's records, as if the reference server had applied everything.
	w.asReference(began)
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `DROP TABLE _eds_checkpoint, _eds_destination, _eds_snapshot`); err != nil {
		t.Fatal(err)
	}
	was, err := w.hq.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.hq.Resume()
	w.changes(20)
	if err := w.hq.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, err := w.hq.StreamState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p = w.serve()
	w.acknowledged(p, now.LastSeq)
	_, metrics := p.get("metrics")
	match := totalEvents.FindStringSubmatch(metrics)
	if match == nil {
		t.Fatalf("no count of events in\n%s", metrics)
	}
	if n, err := strconv.ParseFloat(match[1], 64); err != nil || n > float64(now.LastSeq-was.LastSeq) {
		t.Errorf("%v events were read, of %d that are new", match[1], now.LastSeq-was.LastSeq)
	}
	p.stop()
	w.equal()
}

// TestReference_IsNotGuessed makes a file unreadable. The server reads nothing before HQ requests
// an import.
func TestReference_IsNotGuessed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.imports()
	w.asReference(time.Now())
	w.writeReference("*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$40")
	for range 2 { // the same at each start
		p := w.serve()
		w.refuses(p)
		p.signal(syscall.SIGTERM)
		if code := p.wait(); code != 1 {
			t.Errorf("exit code %d, want 1\n%s", code, p.output())
		}
	}
	p := w.serve()
	session := w.session(p, "")
	w.refuses(p)
	w.notify(session, "import", map[string]any{"backfill": true})
	want(t, w.received(p, session, "import-response", 1), "success", true)
	w.applied(p, 50)
	w.drain(p)
	p.stop()
	w.equal()
}

// TestReference_IsOvertakenByAnImport follows the advice of the error.
func TestReference_IsOvertakenByAnImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t), devhq.Options{Rate: 200})
	w.writeReference("?")
	w.imports()
	p := w.serve()
	w.applied(p, 50)
	w.drain(p)
	p.stop()
	w.equal()
	if strings.Contains(p.output(), "reference server") {
		t.Errorf("it is taken over:\n%s", p.output())
	}
}

// refuses expects the server to say what to do, and to make no consumer.
func (w *world) refuses(p *process) {
	w.t.Helper()
	eventually(w.t, "the server says what to do", func() bool {
		code, body := p.get("")
		return code == 503 && strings.Contains(body, "eds-data.db") && strings.Contains(body, "eds import")
	}, p.output)
	if c := w.consumer(); c != nil {
		w.t.Errorf("it has made the consumer %+v", c.Config)
	}
}
