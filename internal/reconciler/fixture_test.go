package reconciler

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/source/jetstream"
	"github.com/shopmonkeyus/eds/internal/state"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/testing/natstest"
)

// fixture is a reconciler between a NATS server, an HQ and a destination.
type fixture struct {
	*Reconciler
	t    *testing.T
	data string // the data directory
	conn *nats.Conn
	js   natsjs.JetStream
	hq   *hqExports
	url  string // of the destination
	stop func() (gap, err error)
}

// newFixture starts NATS and HQ. The parameter url is the URL of the destination.
func newFixture(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{t: t, data: t.TempDir(), hq: newHQExports(t), url: url}
	s := natstest.Start(t, &server.Options{JetStream: true, StoreDir: t.TempDir()})
	var err error
	f.conn, err = nats.Connect(s.ClientURL())
	f.must(err)
	t.Cleanup(f.conn.Close)
	f.js, err = natsjs.New(f.conn)
	f.must(err)
	_, err = f.js.CreateStream(t.Context(), natsjs.StreamConfig{Name: streamName, Subjects: []string{streamName + ".>"}})
	f.must(err)
	return f
}

func sqliteURL(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "shop.db") }

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// start runs a reconciler with the fixture's data directory. Call end before the next one.
func (f *fixture) start(edit func(*Config)) {
	f.t.Helper()
	dir, err := state.Open(f.data)
	f.must(err)
	dead, err := dlq.Open(dir.Path("dlq"))
	f.must(err)
	client := hq.New(hq.Options{BaseURL: f.hq.URL, Version: "test"})
	c := Config{
		State: dir, Lookup: noVariables, HQ: client, Tables: schema.NewCatalogue(client, dir), Dead: dead,
		Metrics: pipeline.NewMetrics(prometheus.NewRegistry()), ResetSupport: jetstream.NewResetSupport("", nil),
		Health: telemetry.NewHealth(), Logger: slog.New(slog.NewTextHandler(f.t.Output(), nil)),
	}
	c.Options.Heal = config.HealOff
	if edit != nil {
		edit(&c)
	}
	d, err := ParseDestination(config.NewSecret(f.url), config.Standard, noVariables)
	f.must(err)
	f.Reconciler, err = New(c, d)
	f.must(err)
	due, cancel := context.WithCancelCause(f.t.Context())
	type result struct{ gap, err error }
	ended := make(chan result, 1)
	go func() {
		gap, err := f.Run(due, f.t.Context(), f.subscription())
		ended <- result{gap, err}
	}()
	f.stop = sync.OnceValues(func() (error, error) {
		cancel(errEnded)
		r := <-ended
		f.Close()
		client.Close()
		if err := dir.Close(); err != nil {
			f.t.Error(err)
		}
		return r.gap, r.err
	})
	f.t.Cleanup(func() { _, _ = f.stop() })
}

func (f *fixture) subscription() StreamAccess {
	return StreamAccess{Conn: f.conn, Consumer: "eds-test", Filters: Subjects([]string{"c1"})}
}

var errEnded = errors.New("the test ends the session")

// end stops the reconciler. It fails the test if a gap keeps the stream from being followed.
func (f *fixture) end() {
	f.t.Helper()
	if gap, err := f.stop(); gap != nil || !errors.Is(err, errEnded) {
		f.t.Errorf("Run returns %v, %v", gap, err)
	}
}

// publish publishes a change of a row, with the current time.
func (f *fixture) publish(table, id string) {
	f.t.Helper()
	now := time.Now().UnixNano()
	text := fmt.Sprintf(`{"operation":"INSERT","id":"e%d","table":%q,"key":[%q],"modelVersion":"1","companyId":"c1",`+
		`"after":{"id":%[3]q,"n":1},"timestamp":%[4]d,"mvccTimestamp":"%[1]d.0000000000"}`, now, table, id, now/1e6)
	_, err := f.js.Publish(f.t.Context(), streamName+"."+table+".INSERT.c1.l1.PUBLIC.x.y", []byte(text))
	f.must(err)
}

// eventually waits until condition returns true.
func (f *fixture) eventually(what string, condition func() bool) {
	f.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			f.t.Fatalf("timeout: %s; states %+v, health %+v", what, f.TableStates(), f.Health.Report())
		}
	}
}

// rows returns the sorted ids of a table's rows in the destination, or nil if there is no such
// table.
func (f *fixture) rows(table string) []string {
	f.t.Helper()
	_, s, err := drivers.Open(f.t.Context(), f.url, nil, sink.Env{})
	f.must(err)
	defer s.Close(context.WithoutCancel(f.t.Context()))
	var ids []string
	for row, err := range s.Reader.Read(f.t.Context(), f.hq.tables[table]) {
		if err != nil {
			return nil
		}
		ids = append(ids, strings.Trim(string(row.Value(0)), `"`))
	}
	slices.Sort(ids)
	return ids
}

// awaitRows waits until the table in the destination has the rows with the given ids and no others.
func (f *fixture) awaitRows(table string, want ...string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("%s has the rows %v", table, want), func() bool { return slices.Equal(f.rows(table), want) })
}

// imports runs an import that must succeed, and returns its report.
func (f *fixture) imports(o snapshot.Options) snapshot.Report {
	f.t.Helper()
	id, err := f.RequestImport(ImportRequest{Options: o})
	f.must(err)
	report, err := f.WatchImport(f.t.Context(), id, func(snapshot.TableProgress, snapshot.Totals) {})
	f.must(err)
	return report
}

// states compares the names and states of the tables that are not OK.
func (f *fixture) states(want map[string]sink.RowsState) {
	f.t.Helper()
	got := make(map[string]sink.RowsState)
	for _, t := range f.TableStates() {
		got[t.Table] = t.State
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Error(diff)
	}
}

// hqExports serves schemas and exports of two tables.
type hqExports struct {
	*httptest.Server
	tables map[string]*schema.Table
	mu     sync.Mutex
	rows   map[string][]string // ids of the rows, by table
	files  map[string][]byte
	// The next export closes slow and waits for release. If they are nil, it does not wait.
	slow, release chan struct{}
}

// block makes the next export close slow, and wait until release is closed.
func (h *hqExports) block(slow, release chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow, h.release = slow, release
}

// wait waits if block was called.
func (h *hqExports) wait(ctx context.Context) {
	h.mu.Lock()
	slow, release := h.slow, h.release
	h.slow = nil
	h.mu.Unlock()
	if slow == nil {
		return
	}
	close(slow)
	select {
	case <-release:
	case <-ctx.Done():
	}
}

func newHQExports(t *testing.T) *hqExports {
	h := &hqExports{tables: make(map[string]*schema.Table), rows: make(map[string][]string), files: make(map[string][]byte)}
	for _, name := range []string{"order", "part"} {
		table, err := schema.New(name, "1", []string{"id"},
			[]schema.Column{{Name: "id", Type: schema.String}, {Name: "n", Type: schema.Integer}})
		if err != nil {
			t.Fatal(err)
		}
		h.tables[name] = table
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v3/schema", func(w http.ResponseWriter, _ *http.Request) {
		all := make(map[string]json.RawMessage)
		for name, table := range h.tables {
			all[name], _ = schema.Encode(table)
		}
		_ = json.NewEncoder(w).Encode(all)
	})
	mux.HandleFunc("GET /v3/schema/{object}/{version}", func(w http.ResponseWriter, r *http.Request) {
		text, _ := schema.Encode(h.tables[r.PathValue("object")])
		_, _ = w.Write(text)
	})
	mux.HandleFunc("POST /v3/export/bulk", func(w http.ResponseWriter, r *http.Request) {
		h.wait(r.Context())
		_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "data": map[string]string{"jobId": h.export()}})
	})
	mux.HandleFunc("GET /v3/export/bulk/{job}", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "data": h.status(r.PathValue("job"))})
	})
	mux.HandleFunc("GET /files/{name}", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		_, _ = w.Write(h.files[r.PathValue("name")])
	})
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Server.Close)
	return h
}

// set sets the rows of a table.
func (h *hqExports) set(table string, ids ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows[table] = ids
}

// export writes the files of an export, and returns its job: the time of the snapshot.
func (h *hqExports) export() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now().UnixNano()
	for table := range h.tables {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		for _, id := range h.rows[table] {
			fmt.Fprintf(z, `{"id":%q,"n":2}`+"\n", id)
		}
		_ = z.Close()
		h.files[exportFile(table, now)] = b.Bytes()
	}
	return strconv.FormatInt(now, 10)
}

func exportFile(table string, at int64) string {
	return snapshot.ExportName{Clock: cdc.Timestamp{Wall: at}, Unique: "0a-1-2-00000000", Table: table, Schema: "1"}.Name()
}

func (h *hqExports) status(job string) hq.Export {
	at, _ := strconv.ParseInt(job, 10, 64)
	e := hq.Export{Completed: true, Tables: make(map[string]hq.ExportTable)}
	for table := range h.tables {
		e.Tables[table] = hq.ExportTable{Status: hq.ExportCompleted, Cursor: job, URLs: []string{h.URL + "/files/" + exportFile(table, at)}}
	}
	return e
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
