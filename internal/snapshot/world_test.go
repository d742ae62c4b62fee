package snapshot_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/state"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		os.Exit(child(root))
	}
	goleak.VerifyTestMain(m)
}

// world is the environment of an import: an HQ with tables and export jobs, an object store on a
// network in memory, a destination and a data directory.
type world struct {
	t        testing.TB
	root     string
	store    string // address of the object store
	tables   map[string]*schema.Table
	jobs     map[string]hq.Export
	requests []hq.ExportRequest
	files    map[string][]byte // of the object store, by name
	client   *http.Client
	events   []snapshot.TableProgress
	totals   snapshot.Totals
	counts   []int // of tables, at each event
	log      bytes.Buffer

	mu sync.Mutex
	// export returns the export for StartExport. If nil, every table is exported immediately.
	export func(r hq.ExportRequest) hq.Export
	// status returns the result of ExportStatus. If nil, ExportStatus returns the job in jobs.
	status func(job string, asked int) (hq.Export, error)
	asked  map[string]int
	// serve handles a request for a file. If it returns false, the file is sent.
	serve func(w http.ResponseWriter, r *http.Request, file string, n int) bool
	gets  map[string]int      // number of requests, by file
	heads map[string][]string // Range headers of the requests, by file
}

func newWorld(t testing.TB, root string, tables ...string) *world {
	w := &world{
		t: t, root: root, store: "http://store", tables: make(map[string]*schema.Table), jobs: make(map[string]hq.Export),
		files: make(map[string][]byte),
		asked: make(map[string]int), gets: make(map[string]int), heads: make(map[string][]string),
	}
	for _, name := range tables {
		table, err := schema.New(
			name, "1", []string{"id"}, []schema.Column{{Name: "id", Type: schema.String}, {Name: "n", Type: schema.Integer}},
		)
		if err != nil {
			t.Fatal(err)
		}
		w.tables[name] = table
	}
	w.client = serveInMemory(t, http.HandlerFunc(w.get))
	return w
}

// at returns the clock of file n of every table.
func at(n int) cdc.Timestamp {
	return cdc.Timestamp{Wall: time.Date(2026, 11, 22, 7, 0, n, 123456789, time.UTC).UnixNano(), Logical: uint32(n)}
}

func fileName(table string, n int) string {
	return snapshot.ExportName{Clock: at(n), Unique: "0123abcd-1-2-" + fmt.Sprintf("%08d", n), Table: table, Schema: "5f"}.Name()
}

// rowsOf returns n row objects with consecutive ids from first on.
func rowsOf(first, n int) string {
	var b strings.Builder
	for i := first; i < first+n; i++ {
		fmt.Fprintf(&b, `{"id":"r%05d","n":%d}`+"\n", i, i)
	}
	return b.String()
}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text)) // into memory
	_ = z.Close()
	return b.Bytes()
}

// put puts files of a table into the object store, numbered from 1.
func (w *world) put(table string, texts ...string) {
	for i, text := range texts {
		w.files[fileName(table, i+1)] = zipped(text)
	}
}

// completed returns the export of a table whose files are in the store.
func (w *world) completed(table string) hq.ExportTable {
	t := hq.ExportTable{Status: hq.ExportCompleted, Cursor: strconv.FormatInt(at(59).Wall, 10)}
	for name := range w.files {
		if f, err := snapshot.ParseExportName(name); err == nil && f.Table == table {
			t.URLs = append(t.URLs, w.store+"/bucket/"+name+"?signature=SECRET")
		}
	}
	slices.Sort(t.URLs)
	return t
}

func (w *world) everything() hq.Export {
	e := hq.Export{Completed: true, Tables: make(map[string]hq.ExportTable)}
	for name := range w.tables {
		e.Tables[name] = w.completed(name)
	}
	return e
}

func (w *world) StartExport(_ context.Context, r hq.ExportRequest) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests = append(w.requests, r)
	job := fmt.Sprintf("job%d", len(w.requests))
	if w.export != nil {
		w.jobs[job] = w.export(r)
		return job, nil
	}
	e := w.everything()
	maps.DeleteFunc(e.Tables, func(name string, _ hq.ExportTable) bool { return r.Tables != nil && !slices.Contains(r.Tables, name) })
	w.jobs[job] = e
	return job, nil
}

func (w *world) ExportStatus(_ context.Context, job string) (hq.Export, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[job]++
	if w.status != nil {
		return w.status(job, w.asked[job])
	}
	e, ok := w.jobs[job]
	if !ok {
		return hq.Export{}, &hq.Error{Operation: "ask for the state of the export", Status: http.StatusNotFound}
	}
	return e, nil
}

func (w *world) Latest(context.Context) (map[string]*schema.Table, error) { return w.tables, nil }

func (w *world) get(rw http.ResponseWriter, r *http.Request) {
	file := path.Base(r.URL.Path)
	w.mu.Lock()
	w.gets[file]++
	n := w.gets[file]
	w.heads[file] = append(w.heads[file], r.Header.Get("Range"))
	serve, body, ok := w.serve, w.files[file], w.files[file] != nil
	w.mu.Unlock()
	if serve != nil && serve(rw, r, file, n) {
		return
	}
	if !ok {
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("ETag", `"`+file+`"`)
	http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(body))
}

// named returns how the data directory identifies the destination of a URL.
func named(url string) state.DestinationKey {
	return state.DestinationKey{Identity: sink.Spelling(url), Masked: url, Spelled: sink.Spelling(url)}
}

// run runs an import with the world's data directory and destination.
func (w *world) run(ctx context.Context, d *destination, change func(*snapshot.Config)) (snapshot.Report, error) {
	w.t.Helper()
	dir := w.open()
	defer func() {
		if err := dir.Close(); err != nil {
			w.t.Error(err)
		}
	}()
	c := snapshot.Config{
		HQ: w, Schemas: w, Sink: d, State: dir, Destination: named("disk://" + d.root), HTTP: w.client,
		Logger:   slog.New(slog.NewTextHandler(&w.log, nil)),
		Patience: 10 * time.Minute,
		Observe: func(p snapshot.TableProgress, all snapshot.Totals) {
			w.events = append(w.events, p)
			w.totals, w.counts = all, append(w.counts, all.Tables)
		},
	}
	if change != nil {
		change(&c)
	}
	report, err := snapshot.Run(ctx, c)
	text, _ := json.Marshal(report)
	if strings.Contains(fmt.Sprint(err), "SECRET") || strings.Contains(w.log.String(), "SECRET") || bytes.Contains(text, []byte("SECRET")) {
		w.t.Errorf("the signature of a url is visible: %v\n%s", err, w.log.String())
	}
	return report, err
}

func (w *world) open() *state.Dir {
	w.t.Helper()
	dir, err := state.Open(w.root + "/data")
	if err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// clocks returns the recorded snapshot times, and whether an import is under way.
func (w *world) clocks() (map[string]cdc.Timestamp, bool) {
	w.t.Helper()
	return w.clocksOf("disk://" + w.root + "/destination")
}

func (w *world) clocksOf(url string) (map[string]cdc.Timestamp, bool) {
	w.t.Helper()
	dir := w.open()
	defer dir.Close()
	all, err := dir.Snapshots(named(url))
	if err != nil {
		w.t.Fatal(err)
	}
	clocks := make(map[string]cdc.Timestamp)
	for name, s := range all {
		clocks[name] = s.Clock.Timestamp
	}
	_, underWay, err := dir.Import()
	if err != nil {
		w.t.Fatal(err)
	}
	return clocks, underWay
}

// serveInMemory serves HTTP over pipes, which block in the way that synctest needs, and returns a
// client that can reach nothing else.
func serveInMemory(t testing.TB, h http.Handler) *http.Client {
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	transport := &http.Transport{DialContext: l.dial, DisableCompression: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		serving.Wait()
	})
	return &http.Client{Transport: transport}
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }
