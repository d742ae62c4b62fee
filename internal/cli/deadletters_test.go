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
		return json.RawMessage(
			fmt.Sprintf(
				`{"table":"order","modelVersion":%q,"primaryKeys":["id"],"properties":{"id":{"type":"string"},"v":{"type":"string"}}}`,
				version,
			),
		)
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

func (s *sent) Acknowledge(_ context.Context, upTo cdc.Position) error {
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
			Position: cdc.Position{
				Sequence: w.sent,
				Stored:   int64(w.sent),
			}, Subject: "dbchange.order.UPDATE.c.l.PUBLIC.x", Data: []byte(p),
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
	return fmt.Sprintf(
		`{"operation":"UPDATE","id":"e","table":"order","key":[%q],"modelVersion":%q,"after":{"id":%q,"v":%q},"mvccTimestamp":"%d"}`,
		id, version, id, v, time.Now().UnixNano(),
	)
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
		t.Errorf("the remaining entries:\n%s", list)
	}
}

// TestReplay_KeepsNewerRowsHoweverTheirKeysAreWritten sends an event that is rejected,
// then one that is applied, and replays.
func TestReplay_KeepsNewerRowsHoweverTheirKeysAreWritten(t *testing.T) {
	event := func(members, version string) string {
		return fmt.Sprintf(
			`{"table":"order","id":"e","modelVersion":%q,"mvccTimestamp":"%d",%s}`, version, time.Now().UnixNano(), members,
		)
	}
	old := `"operation":"UPDATE","key":["1"],"after":{"id":"1","v":"old"}`
	for name, c := range map[string]struct {
		rejected, applied string
		version           string // of the rejected event
		want              map[string]string
		says              string
	}{
		"id alone": {
			`"operation":"UPDATE","after":{"id":"1","v":"old"}`,
			`"operation":"UPDATE","key":["c","1"],"after":{"id":"1","v":"new"}`, "v2",
			map[string]string{"1": "new"},
			"0 applied, 0 rejected again, 1 superseded\n",
		},
		"number": {
			`"operation":"UPDATE","key":[1],"after":{"id":1,"v":"old"}`,
			`"operation":"UPDATE","key":["1"],"after":{"id":"1","v":"new"}`, "v2",
			map[string]string{"1": "new"},
			"0 applied, 0 rejected again, 1 superseded\n",
		},
		"deleted": {
			old, `"operation":"DELETE","key":["1"]`, "v2",
			map[string]string{},
			"0 applied, 0 rejected again, 1 superseded\n",
		},
		"moved away": {
			old, `"operation":"UPDATE","key":["2"],"before":{"id":"1"},"after":{"id":"2","v":"new"}`, "v2",
			map[string]string{"2": "new"},
			"0 applied, 0 rejected again, 1 superseded\n",
		},
		"moves onto it": {
			`"operation":"UPDATE","key":["1"],"before":{"id":"0"},"after":{"id":"1","v":"old"}`,
			`"operation":"UPDATE","key":["0"],"after":{"id":"0","v":"new"}`, "v2",
			map[string]string{"0": "new", "1": "old"},
			"1 applied, 0 rejected again, 0 superseded\n",
		},
		"another row": {
			old, `"operation":"UPDATE","key":["2"],"after":{"id":"2","v":"new"}`, "v2",
			map[string]string{"1": "old", "2": "new"},
			"1 applied, 0 rejected again, 0 superseded\n",
		},
		"no row image": {
			`"operation":"UPDATE","key":["1"]`, `"operation":"UPDATE","key":["1"],"after":{"id":"1","v":"new"}`, "v1",
			map[string]string{"1": "new"},
			"0 applied, 0 rejected again, 1 superseded\n",
		},
		"cannot be read": {
			`"operation":"EXPLODE","key":["1"]`, `"operation":"UPDATE","key":["2"],"after":{"id":"2","v":"new"}`, "v1",
			map[string]string{"2": "new"},
			"0 applied, 0 rejected again, 0 superseded, 1 of unknown rows left (to apply them, give their ids)\n",
		},
		"without any key": {
			`"operation":"UPDATE","after":{"v":"old"}`, `"operation":"UPDATE","key":["2"],"after":{"id":"2","v":"new"}`,
			"v2",
			map[string]string{"2": "new"},
			"0 applied, 0 rejected again, 0 superseded, 1 of unknown rows left (to apply them, give their ids)\n",
		},
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
	for name, snapshot := range map[string]state.ImportRecord{
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
	whole := state.ImportRecord{Table: "order", Job: "j", Rows: 2, Clock: state.Clock{Timestamp: cdc.Timestamp{Wall: between}}}
	partial, schemaOnly := whole, whole
	partial.Clock.Wall, partial.Partial = time.Now().UnixNano(), true
	schemaOnly.Clock, schemaOnly.Job, schemaOnly.Rows = partial.Clock, "", 0
	if err := errors.Join(
		dir.RecordSnapshots(at, whole), dir.RecordSnapshots(at, partial), dir.RecordSnapshots(at, schemaOnly), dir.Close(),
	); err != nil {
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

// ids returns the ids of the entries, in the order of the stream.
func (w *deadLetterWorld) ids() []string {
	w.t.Helper()
	var ids []string
	for e, err := range dlq.Look(filepath.Join(w.dir, "dlq")).List(dlq.Filter{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

func TestShow_PrintsWhatIsNoTextInHexadecimal(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream("\x1b[2Jnot json", `{"operation":"EXPLODE"}`)
	ids := w.ids()
	if out := w.eds("dlq", "show", ids[0]); strings.Contains(out, "\x1b") || !strings.Contains(out, "1b 5b 32 4a") {
		t.Errorf("%q", out)
	}
	if out := w.eds("dlq", "show", ids[1][:6]); !strings.HasSuffix(out, "\n\n{\"operation\":\"EXPLODE\"}\n") {
		t.Errorf("%q", out)
	}
}

// TestDeadLetters_TellKeysAndStates to people and to programs.
func TestDeadLetters_TellKeysAndStates(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream(update("v2", "secret-1", "old"), update("v2", "2\n[2J", "x"), "garbage\xff", update("v1", "secret-1", "new"))
	ids := w.ids()
	list := w.eds("dlq", "list")
	for _, want := range []string{
		ids[0][:6] + "  superseded  ", ids[1][:6] + "  waiting     ", ids[2][:6] + "  unknown     ", "  order  secret-1  ",
		"  order  2\ufffd[2J    ",
		"An import resolves them: eds import --only order\n",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("there is no %q in\n%s", want, list)
		}
	}
	if out := w.eds("dlq", "list", "--private"); strings.Contains(out, "secret-1") || strings.Contains(out, "[2J") ||
		strings.Count(out, "\n") != strings.Count(list, "\n") {
		t.Errorf("private:\n%s", out)
	}
	if out := w.eds("dlq", "list", "--state", "unknown"); strings.Contains(out, ids[1][:6]) || !strings.Contains(out, ids[2][:6]) {
		t.Errorf("of unknown rows:\n%s", out)
	}
	type letter struct{ ID, State, Table, Key, Operation, Stage, Payload, Bytes string }
	parse := func(into any, args ...string) {
		t.Helper()
		if out := w.eds(append([]string{"dlq"}, args...)...); json.Unmarshal([]byte(out), into) != nil {
			t.Errorf("%v prints %s", args, out)
		}
	}
	var all []letter
	parse(&all, "list", "--json")
	want := []letter{
		{ID: ids[0], State: "superseded", Table: "order", Key: "secret-1", Operation: "UPDATE", Stage: "schema"},
		{ID: ids[1], State: "waiting", Table: "order", Key: "2\n[2J", Operation: "UPDATE", Stage: "schema"},
		{ID: ids[2], State: "unknown", Table: "order", Operation: "UPDATE", Stage: "decode"},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	var shown letter
	parse(&shown, "show", ids[2], "--json")
	if got, err := base64.StdEncoding.DecodeString(shown.Bytes); string(got) != "garbage\xff" || err != nil {
		t.Errorf("shown: %+v", shown)
	}
	shown = letter{}
	if parse(&shown, "show", ids[1], "--json"); !strings.Contains(shown.Payload, `"v":"x"`) {
		t.Errorf("shown: %+v", shown)
	}
	shown = letter{}
	if parse(&shown, "show", ids[1], "--json", "--private"); shown.Payload != "" || shown.Bytes != "" || len(shown.Key) != 12 {
		t.Errorf("shown: %+v", shown)
	}
	if out := w.eds("dlq", "show", "--private", ids[0]); strings.Contains(out, "secret-1") {
		t.Errorf("shown:\n%s", out)
	}
	var counts map[string]int
	w.publish()
	parse(&counts, "replay", "--json")
	if diff := cmp.Diff(map[string]int{"applied": 1, "rejected": 0, "superseded": 1, "unknown": 1, "elsewhere": 0}, counts); diff != "" {
		t.Error(diff)
	}
	counts = nil
	parse(&counts, "drop", "--all", "--json")
	if diff := cmp.Diff(map[string]int{"dropped": 2}, counts); diff != "" {
		t.Error(diff)
	}
	all = nil
	if parse(&all, "list", "--json"); all == nil || len(all) > 0 {
		t.Errorf("left: %v", all)
	}
}

// TestReplay_OfUnknownRows applies entries by id, or with --force.
func TestReplay_OfUnknownRows(t *testing.T) {
	const event = `{"operation":"UPDATE","id":"e","table":"order","modelVersion":"v2","after":{"id":"1","v":"x"},` +
		`"before":{"id":"0","n":7},"mvccTimestamp":"9"}`
	for name, args := range map[string][]string{"named": nil, "forced": {"--force"}} {
		t.Run(name, func(t *testing.T) {
			w := newDeadLetterWorld(t)
			w.stream(update("v1", "0", "before"), event, update("v1", "2", "x"), update("v1", "0", "new"))
			w.publish()
			if out, want := w.eds("dlq", "replay"), "0 applied, 0 rejected again, 0 superseded, 1 of unknown rows "+
				"left (to apply them, give their ids)\n"; out != want {
				t.Errorf("the replay says %q, want %q", out, want)
			}
			rows := map[string]string{"0": "new", "1": "x", "2": "x"} // 0 was changed since
			if args == nil {
				args = []string{w.ids()[0][:7]}
			} else {
				delete(rows, "0")
			}
			if out, want := w.eds(append([]string{"dlq", "replay"}, args...)...), "1 applied, 0 rejected again, 0 "+
				"superseded\n"; out != want {
				t.Errorf("the replay says %q, want %q", out, want)
			}
			if diff := cmp.Diff(rows, w.rows()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDeadLetters_ChooseNothingByEmptyValues runs commands of a script with an unset
// variable, and misspelt ones.
func TestDeadLetters_ChooseNothingByEmptyValues(t *testing.T) {
	w := newDeadLetterWorld(t)
	for range 9 { // two ids begin with the same digit
		w.stream("not json", `{"operation":"EXPLODE"}`)
	}
	first := make(map[byte]int)
	ambiguous := ""
	for _, id := range w.ids() {
		if first[id[0]]++; first[id[0]] == 2 {
			ambiguous = id[:1]
		}
	}
	for command, want := range map[string]string{
		"drop ~":                     "the id of an entry is empty",
		"drop " + w.ids()[0] + " ~":  "the id of an entry is empty",
		"drop " + w.ids()[0] + " xy": `no entry has the id "xy"`,
		"replay ~":                   "the id of an entry is empty",
		"replay xy":                  `no entry has the id "xy"`,
		"show ~":                     "needs the id of one entry",
		"show xy":                    `no entry has the id "xy"`,
		"drop --all --table ~":       "--table: its value is empty",
		"drop --all --table ordr":    `--table: there is no entry of table "ordr"; there are entries of order`,
		"replay --table ordr":        `--table: there is no entry of table "ordr"; there are entries of order`,
		"list --table ordr":          `--table: there is no entry of table "ordr"; there are entries of order`,
		"drop --all --since ~":       "--since: its value is empty",
		"drop --all --stage ~":       "--stage: its value is empty",
		"drop --all --operation ~":   "--operation: its value is empty",
		"drop " + ambiguous:          fmt.Sprintf("entries begin with %q", ambiguous),
		"replay " + ambiguous:        fmt.Sprintf("entries begin with %q", ambiguous),
		"list --table ~":             "--table: its value is empty",
		"list --stage decoding":      "--stage: want one of decode, schema, apply, import",
		"list --operation removed":   "--operation: want one of INSERT, UPDATE, DELETE",
		"list --state new":           "--state: want one of waiting, unknown, superseded",
	} {
		args := []string{"dlq"}
		for _, word := range strings.Fields(command) {
			args = append(args, strings.ReplaceAll(word, "~", ""))
		}
		if out := w.eds(args...); !strings.HasPrefix(out, "exit code 3: ") || !strings.Contains(out, want) {
			t.Errorf("%s: %q, want %q", command, out, want)
		}
	}
	if n := len(w.ids()); n != 18 {
		t.Errorf("%d are left", n)
	}
	if out := w.eds("dlq", "list", "--operation", "DELETE"); out != "No entry matches the flags.\n" {
		t.Errorf("%q", out)
	}
}

func TestDeadLetters_NeedADataDirectory(t *testing.T) {
	for name, dir := range map[string]string{"missing": filepath.Join(t.TempDir(), "misspelt"), "another": t.TempDir()} {
		w := newDeadLetterWorld(t)
		w.dir = dir
		before := len(files(t, dir))
		for _, args := range [][]string{{"list"}, {"show", "1"}, {"drop", "--all"}, {"replay"}, {"list", "--json"}} {
			if out := w.eds(append([]string{"dlq"}, args...)...); !strings.Contains(out, "exit code 1: eds: open the data directory") {
				t.Errorf("%s: %v: %q", name, args, out)
			}
		}
		if after := len(files(t, dir)); after != before {
			t.Errorf("%s: it has %d files", name, after)
		}
	}
}

// files returns the names of the files in a directory, none if it does not exist.
func files(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return entries
}
