package cli_test

import (
	ordered "cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/pipeline"
	"github.com/shopmonkeyus/eds/internal/reconciler"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/state"
)

// deadLetterWorld is a stream, an HQ that denies version v2 of the table "order" until
// it is published, a SQLite database, and a data directory.
type deadLetterWorld struct {
	t    *testing.T
	hq   *httptest.Server
	key  string
	dir  string
	file string
	sent uint64

	mu        sync.Mutex
	published bool
}

func newDeadLetterWorld(t *testing.T) *deadLetterWorld {
	t.Helper()
	w := &deadLetterWorld{t: t, dir: t.TempDir(), file: filepath.Join(t.TempDir(), "shop.db")}
	w.hq = httptest.NewServer(http.HandlerFunc(w.answer))
	t.Cleanup(w.hq.Close)
	w.key = "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"s"}`)) + ".x"
	return w
}

func (w *deadLetterWorld) answer(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := func(version string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"table":"order","modelVersion":%q,"primaryKeys":["id"],"properties":{"id":{"type":"string"},"v":{"type":"string"}}}`, version))
	}
	switch {
	case r.URL.Path == "/v3/schema":
		_ = json.NewEncoder(rw).Encode(map[string]json.RawMessage{"order": text("v1")})
	case r.URL.Path == "/v3/schema/order/v2" && w.published:
		_, _ = rw.Write(text("v2"))
	default:
		http.NotFound(rw, r)
	}
}

func (w *deadLetterWorld) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published = true
}

// impatient is a catalogue whose denials are old, so that no event waits.
type impatient struct{ *schema.Catalogue }

func (c impatient) Version(ctx context.Context, table, version string) (*schema.Table, error) {
	t, err := c.Catalogue.Version(ctx, table, version)
	if denied, ok := errors.AsType[*schema.DeniedError](err); ok {
		denied.Since = time.Time{}
	}
	return t, err
}

// sent is a source that holds some messages.
type sent struct {
	messages []pipeline.Message
	last     uint64        // sequence of the last one
	settled  chan struct{} // closed when it is settled
}

func (s *sent) Receive(ctx context.Context) ([]pipeline.Message, error) {
	if m := s.messages; m != nil {
		s.messages = nil
		return m, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *sent) Settle(_ context.Context, upTo cdc.Position) error {
	if upTo.Sequence == s.last {
		close(s.settled)
	}
	return nil
}

// stream carries messages through a pipeline, in one run of the server.
func (w *deadLetterWorld) stream(payloads ...string) {
	w.t.Helper()
	ctx := w.t.Context()
	q, err := dlq.Open(filepath.Join(w.dir, "dlq"))
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := state.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	key, err := hq.ParseKey(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	client := hq.New(hq.Options{BaseURL: w.hq.URL, Key: key})
	defer client.Close()
	tables := impatient{schema.NewCatalogue(client, dir)}
	driver, s, err := drivers.Open(ctx, "sqlite://"+w.file, func(string) (string, bool) { return "", false }, sink.Env{
		Logger: slog.New(slog.DiscardHandler), Adjusted: func(string, string, string) {}, Stream: "dbchange", Consumer: "eds-s",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = s.Close(context.WithoutCancel(ctx)) }()
	var messages []pipeline.Message
	for _, p := range payloads {
		w.sent++
		messages = append(messages, pipeline.Message{
			Position: cdc.Position{Sequence: w.sent, Stored: int64(w.sent)}, Subject: "dbchange.order.UPDATE.c.l.PUBLIC.x", Data: []byte(p),
		})
	}
	source := &sent{messages: messages, last: w.sent, settled: make(chan struct{})}
	p, err := pipeline.New(pipeline.Config{
		Source: source, Sink: s, KeepsRows: driver.KeepsRows, Limits: driver.Limits, Tables: tables, Dead: q,
		Metrics: pipeline.NewMetrics(prometheus.NewRegistry()), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	soft, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(soft, ctx) }()
	select {
	case <-source.settled:
		stop()
		err = <-ended
	case err = <-ended:
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// eds runs a command over the data directory.
func (w *deadLetterWorld) eds(args ...string) string {
	w.t.Helper()
	args = append(args, "--data-dir", w.dir)
	if args[1] == "replay" {
		args = append(args, "--url", "sqlite://"+w.file, "--api-url", w.hq.URL)
	}
	out, stderr, code := eds(w.t, map[string]string{"SM_APIKEY": w.key}, args...)
	if code != 0 {
		out += fmt.Sprintf("exit code %d: %s", code, stderr)
	}
	return out
}

// rows returns the rows of the destination.
func (w *deadLetterWorld) rows() map[string]string {
	w.t.Helper()
	db, err := sql.Open("sqlite", w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	found, err := db.Query(`SELECT id, v FROM "order"`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer found.Close()
	rows := make(map[string]string)
	for found.Next() {
		var id, v string
		if err := found.Scan(&id, &v); err != nil {
			w.t.Fatal(err)
		}
		rows[id] = v
	}
	if err := found.Err(); err != nil {
		w.t.Fatal(err)
	}
	return rows
}

func update(version, id, v string) string {
	return fmt.Sprintf(`{"operation":"UPDATE","id":"e","table":"order","key":[%q],"modelVersion":%q,"after":{"id":%q,"v":%q},"mvccTimestamp":"%d"}`, id, version, id, v, time.Now().UnixNano())
}

func TestReplay_KeepsNewerRows(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream(update("v2", "1", "old"), update("v2", "2", "only"), update("v1", "3", "x"))
	w.stream(update("v1", "1", "new"))
	w.publish()
	if out, want := w.eds("dlq", "replay"), "1 applied, 0 rejected again, 1 superseded\n"; out != want {
		t.Errorf("the replay says %q, want %q", out, want)
	}
	if diff := cmp.Diff(map[string]string{"1": "new", "2": "only", "3": "x"}, w.rows()); diff != "" {
		t.Error(diff)
	}
	if list := w.eds("dlq", "list"); strings.Count(list, "\n") != 2 || !strings.Contains(list, "superseded") {
		t.Errorf("what is left:\n%s", list)
	}
}

// TestReplay_KeepsNewerRowsHoweverTheirKeysAreWritten sends an event that is rejected,
// then one that is applied, and replays.
func TestReplay_KeepsNewerRowsHoweverTheirKeysAreWritten(t *testing.T) {
	event := func(members, version string) string {
		return fmt.Sprintf(`{"table":"order","id":"e","modelVersion":%q,"mvccTimestamp":"%d",%s}`, version, time.Now().UnixNano(), members)
	}
	old := `"operation":"UPDATE","key":["1"],"after":{"id":"1","v":"old"}`
	for name, c := range map[string]struct {
		rejected, applied string
		version           string // of what is rejected
		want              map[string]string
		says              string
	}{
		"id alone":        {`"operation":"UPDATE","after":{"id":"1","v":"old"}`, `"operation":"UPDATE","key":["c","1"],"after":{"id":"1","v":"new"}`, "v2", map[string]string{"1": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
		"number":          {`"operation":"UPDATE","key":[1],"after":{"id":1,"v":"old"}`, `"operation":"UPDATE","key":["1"],"after":{"id":"1","v":"new"}`, "v2", map[string]string{"1": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
		"deleted":         {old, `"operation":"DELETE","key":["1"]`, "v2", map[string]string{}, "0 applied, 0 rejected again, 1 superseded\n"},
		"moved away":      {old, `"operation":"UPDATE","key":["2"],"before":{"id":"1"},"after":{"id":"2","v":"new"}`, "v2", map[string]string{"2": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
		"moves onto it":   {`"operation":"UPDATE","key":["1"],"before":{"id":"0"},"after":{"id":"1","v":"old"}`, `"operation":"UPDATE","key":["0"],"after":{"id":"0","v":"new"}`, "v2", map[string]string{"0": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
		"another row":     {old, `"operation":"UPDATE","key":["2"],"after":{"id":"2","v":"new"}`, "v2", map[string]string{"1": "old", "2": "new"}, "1 applied, 0 rejected again, 0 superseded\n"},
		"no row image":    {`"operation":"UPDATE","key":["1"]`, `"operation":"UPDATE","key":["1"],"after":{"id":"1","v":"new"}`, "v1", map[string]string{"1": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
		"cannot be read":  {`"operation":"EXPLODE","key":["1"]`, `"operation":"UPDATE","key":["2"],"after":{"id":"2","v":"new"}`, "v1", map[string]string{"2": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
		"without any key": {`"operation":"UPDATE","after":{"v":"old"}`, `"operation":"UPDATE","key":["2"],"after":{"id":"2","v":"new"}`, "v2", map[string]string{"2": "new"}, "0 applied, 0 rejected again, 1 superseded\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDeadLetterWorld(t)
			w.stream(event(c.rejected, c.version))
			w.stream(event(c.applied, "v1"))
			w.publish()
			if out := w.eds("dlq", "replay"); out != c.says {
				t.Errorf("the replay says %q, want %q", out, c.says)
			}
			if diff := cmp.Diff(c.want, w.rows()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestReplay_AppliesEntriesThatNoSnapshotReplaces is that of imports that did not load
// every row. Newer changes of the rows come by the stream all the same.
func TestReplay_AppliesEntriesThatNoSnapshotReplaces(t *testing.T) {
	for name, snapshot := range map[string]state.Snapshot{
		"some rows only":                  {Job: "j", Rows: 7, Partial: true},
		"the schema only":                 {},
		"an import of another server":     {Reference: true},
		"an import into another database": {Job: "j", Rows: 7, Destination: "sqlite:///elsewhere.db"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDeadLetterWorld(t)
			w.stream(update("v2", "1", "late"), update("v1", "9", "x"))
			dir, err := state.Open(w.dir)
			if err != nil {
				t.Fatal(err)
			}
			snapshot.Table, snapshot.Clock.Wall = "order", time.Now().UnixNano()
			at := reconciler.Named(ordered.Or(snapshot.Destination, "sqlite://"+w.file), os.LookupEnv)
			if err := errors.Join(dir.RecordSnapshots(at, snapshot), dir.Close()); err != nil {
				t.Fatal(err)
			}
			w.publish()
			if out, want := w.eds("dlq", "replay"), "1 applied, 0 rejected again, 0 superseded\n"; out != want {
				t.Errorf("the replay says %q, want %q", out, want)
			}
		})
	}
}

func TestReplay_KeepsRowsThatWereImportedSince(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream(update("v2", "1", "old"), update("v1", "9", "x"))
	between := time.Now().UnixNano()
	w.stream(update("v2", "2", "late"))
	dir, err := state.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	at := reconciler.Named("sqlite://"+w.file, os.LookupEnv)
	whole := state.Snapshot{Table: "order", Job: "j", Rows: 2, Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: between}}}
	partial, schemaOnly := whole, whole
	partial.Clock.Wall, partial.Partial = time.Now().UnixNano(), true
	schemaOnly.Clock, schemaOnly.Job, schemaOnly.Rows = partial.Clock, "", 0
	if err := errors.Join(dir.RecordSnapshots(at, whole), dir.RecordSnapshots(at, partial), dir.RecordSnapshots(at, schemaOnly), dir.Close()); err != nil {
		t.Fatal(err)
	}
	w.publish()
	if out, want := w.eds("dlq", "replay"), "1 applied, 0 rejected again, 1 superseded\n"; out != want {
		t.Errorf("the replay says %q, want %q", out, want)
	}
	if diff := cmp.Diff(map[string]string{"2": "late", "9": "x"}, w.rows()); diff != "" {
		t.Error(diff)
	}
	if out, want := w.eds("dlq", "replay", "--force"), "1 applied, 0 rejected again, 0 superseded\n"; out != want {
		t.Errorf("the forced replay says %q, want %q", out, want)
	}
	if diff := cmp.Diff(map[string]string{"1": "old", "2": "late", "9": "x"}, w.rows()); diff != "" {
		t.Error(diff)
	}
}

func TestShow_PrintsWhatIsNoTextInHexadecimal(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream("\x1b[2Jnot json", `{"operation":"EXPLODE"}`)
	if out := w.eds("dlq", "show", "00000000000000000001"); strings.Contains(out, "\x1b") || !strings.Contains(out, "1b 5b 32 4a") {
		t.Errorf("%q", out)
	}
	if out := w.eds("dlq", "show", "00000000000000000002"); !strings.HasSuffix(out, "\n\n{\"operation\":\"EXPLODE\"}\n") {
		t.Errorf("%q", out)
	}
}

// TestDeadLetters_ChooseNothingByEmptyValues has what a script runs whose variable is
// not set, and what is misspelt.
func TestDeadLetters_ChooseNothingByEmptyValues(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream("not json", `{"operation":"EXPLODE"}`)
	for command, want := range map[string]string{
		"drop ~":                      "the id of an entry is empty",
		"drop 00000000000000000001 ~": "the id of an entry is empty",
		"replay ~":                    "the id of an entry is empty",
		"show ~":                      "needs the id of one entry",
		"drop --all --table ~":        "--table: its value is empty",
		"drop --all --since ~":        "--since: its value is empty",
		"drop --all --stage ~":        "--stage: its value is empty",
		"drop --all --operation ~":    "--operation: its value is empty",
		"drop 0":                      `several entries begin with "0"`,
		"list --table ~":              "--table: its value is empty",
		"list --stage decoding":       "--stage: want one of decode, schema, apply, import",
		"list --operation removed":    "--operation: want one of INSERT, UPDATE, DELETE",
	} {
		args := []string{"dlq"}
		for _, word := range strings.Fields(command) {
			args = append(args, strings.ReplaceAll(word, "~", ""))
		}
		if out := w.eds(args...); !strings.HasPrefix(out, "exit code 3: ") || !strings.Contains(out, want) {
			t.Errorf("%s: %q, want %q", command, out, want)
		}
	}
	if list := w.eds("dlq", "list"); strings.Count(list, "\n") != 3 {
		t.Errorf("what is left:\n%s", list)
	}
	if out := w.eds("dlq", "list", "--table", "ordr"); out != "The flags choose no entry; without them, all are listed.\n" {
		t.Errorf("%q", out)
	}
}

func TestDeadLetters_NeedADataDirectory(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.dir = filepath.Join(w.dir, "misspelt")
	if out := w.eds("dlq", "list"); !strings.Contains(out, "exit code 1: eds: open the data directory") {
		t.Errorf("%q", out)
	}
	if _, err := os.Stat(w.dir); err == nil {
		t.Error("it was made")
	}
}
