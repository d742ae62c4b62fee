package dlq_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/fault"
)

func open(t *testing.T, dir string) *dlq.Queue {
	t.Helper()
	q, err := dlq.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func entry(n uint64, table string, keys ...string) dlq.Entry {
	if keys == nil {
		keys = []string{}
	}
	var rows [][]string
	if len(keys) > 0 {
		rows = [][]string{keys}
	}
	return dlq.Entry{
		Rows: rows, Destination: "d", Sequence: n, Stored: int64(n) * 10,
		Subject: "dbchange." + table + ".UPDATE.c.l.PUBLIC.x", Table: table, Operation: "UPDATE",
		EventID: fmt.Sprint("event", n), Keys: keys, Stage: "apply", Reason: "value out of range",
		Time: time.Unix(int64(n), 0).UTC(), Payload: []byte(fmt.Sprintf(`{"n":%d}`, n)),
	}
}

func put(t *testing.T, q *dlq.Queue, entries ...dlq.Entry) {
	t.Helper()
	for _, e := range entries {
		if err := q.Put(e); err != nil {
			t.Fatal(err)
		}
	}
}

// unknown is added to the sequence of an entry of unknown rows.
const unknown = 1000

// list returns the sequences of the entries that f chooses, negative ones for
// the superseded, and larger ones for the unknown.
func list(t *testing.T, q *dlq.Queue, f dlq.Filter) []int {
	t.Helper()
	var out []int
	for e, err := range q.List(f) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Payload != nil {
			t.Error("a listing holds a payload")
		}
		n := int(e.Sequence)
		switch e.State {
		case dlq.Superseded:
			n = -n
		case dlq.Unknown:
			n += unknown
		}
		out = append(out, n)
	}
	return out
}

func equal[T any](t *testing.T, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPut_SurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dlq")
	want := entry(7, "order", "k")
	want.Encoding, want.Payload = "msgpack", []byte("\x82\n\x00\r\n{not json}\n")
	put(t, open(t, dir), want)

	q := open(t, dir)
	equal(t, dlq.EntryCounts{Waiting: 1}, q.Count(""))
	got, err := q.Show(idOf(t, q, 7))
	if err != nil {
		t.Fatal(err)
	}
	want.State = dlq.Waiting
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(dlq.Entry{}, "ID", "Size"), cmpopts.IgnoreUnexported(dlq.Entry{})); diff != "" {
		t.Error(diff)
	}
	if got.Size != len(want.Payload) || got.Position() != (cdc.Position{Sequence: 7, Stored: 70}) {
		t.Errorf("entry %+v", got)
	}
}

func TestPut_IsReadableByItsOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dlq")
	put(t, open(t, dir), entry(1, "order", "k"))
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 { // the entry and the index
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestPut_KeepsARepeatedEventOnce(t *testing.T) {
	q := open(t, t.TempDir())
	again := entry(1, "order", "k")
	again.Reason = "another reason"
	put(t, q, entry(1, "order", "k"), again)
	equal(t, []int{1}, list(t, q, dlq.Filter{}))
	if e, err := q.Show(idOf(t, q, 1)); err != nil || e.Reason != "another reason" {
		t.Errorf("%+v, %v", e, err)
	}
	// Nor does the old one stay superseded: what superseded it comes again too.
	if err := q.Supersede("d", "order", []string{"k"}, cdc.Position{Sequence: 2, Stored: 20}); err != nil {
		t.Fatal(err)
	}
	put(t, q, again)
	equal(t, []int{1}, list(t, q, dlq.Filter{}))
}

func TestList_FiltersInStreamOrder(t *testing.T) {
	q := open(t, t.TempDir())
	other := entry(9, "customer", "k")
	other.Operation, other.Stage = "DELETE", "decode"
	put(t, q, entry(100, "order", "a"), entry(20, "order", "b"), entry(3, "order", "c"), other)
	if err := q.Supersede("d", "order", []string{"c"}, cdc.Position{Sequence: 4, Stored: 40}); err != nil {
		t.Fatal(err)
	}
	equal(t, dlq.EntryCounts{Waiting: 3}, q.Count("d"))
	for name, c := range map[string]struct {
		filter dlq.Filter
		want   []int
	}{
		"all":        {dlq.Filter{}, []int{-3, 9, 20, 100}},
		"table":      {dlq.Filter{Table: "order"}, []int{-3, 20, 100}},
		"operation":  {dlq.Filter{Operation: "delete"}, []int{9}},
		"stage":      {dlq.Filter{Stage: "apply"}, []int{-3, 20, 100}},
		"since":      {dlq.Filter{Since: time.Unix(20, 0)}, []int{20, 100}},
		"until":      {dlq.Filter{Until: time.Unix(20, 0)}, []int{-3, 9}},
		"superseded": {dlq.Filter{State: dlq.Superseded}, []int{-3}},
		"waiting":    {dlq.Filter{State: dlq.Waiting}, []int{9, 20, 100}},
		"ids":        {dlq.Filter{IDs: []string{idOf(t, q, 20), idOf(t, q, 100)[:8]}}, []int{20, 100}},
		"none":       {dlq.Filter{IDs: []string{"x"}}, nil},
	} {
		t.Run(name, func(t *testing.T) { equal(t, c.want, list(t, q, c.filter)) })
	}
}

// idOf returns the id of the entry of the n-th event.
func idOf(t *testing.T, q *dlq.Queue, n uint64) string {
	t.Helper()
	for e, err := range q.List(dlq.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Sequence == n {
			return e.ID
		}
	}
	t.Fatalf("there is no entry of event %d", n)
	return ""
}

func TestShow_WantsOneEntry(t *testing.T) {
	q := open(t, t.TempDir())
	for n := range uint64(17) { // so that two begin with the same digit
		put(t, q, entry(n, "order", "a"))
	}
	for _, id := range []string{"", "x", idOf(t, q, 1) + "0"} {
		if _, err := q.Show(id); !errors.Is(err, dlq.ErrNotFound) {
			t.Errorf("Show(%q): %v", id, err)
		}
	}
	digits := make(map[byte]bool)
	for e := range q.List(dlq.Filter{}) {
		if len(e.ID) != 12 {
			t.Errorf("id %q", e.ID)
		}
		if digits[e.ID[0]] {
			if _, err := q.Show(e.ID[:1]); err == nil || errors.Is(err, dlq.ErrNotFound) {
				t.Errorf("an ambiguous id: %v", err)
			}
		}
		digits[e.ID[0]] = true
		if shown, err := q.Show(strings.ToUpper(e.ID[:8])); shown.ID != e.ID || err != nil {
			t.Errorf("Show(%q): %q, %v", e.ID[:8], shown.ID, err)
		}
	}
}

func TestShort_TellsEntriesApart(t *testing.T) {
	q := open(t, t.TempDir())
	if n, err := q.Short(); n != 6 || err != nil {
		t.Errorf("%d digits of no entry, %v", n, err)
	}
	for n := range uint64(200) {
		put(t, q, entry(n, "order", "a"))
	}
	n, err := q.Short()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for e := range q.List(dlq.Filter{}) {
		seen[e.ID[:n]] = true
	}
	equal(t, 200, len(seen))
}

func TestSupersede_MarksOlderEntriesOfTheRow(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(
		t, q, entry(1, "order", "a"), entry(2, "order", "b"), entry(3, "customer", "a"), entry(4, "order"), entry(5, ""),
		entry(6, "order", "a"),
	)
	mark := func(destination, table, key string, sequence uint64, stored int64) {
		t.Helper()
		if err := q.Supersede(destination, table, []string{key}, cdc.Position{Sequence: sequence, Stored: stored}); err != nil {
			t.Fatal(err)
		}
	}
	mark("d", "customer", "z", 5, 55)
	mark("another", "order", "a", 5, 55)
	equal(t, []int{1, 2, 3, 4 + unknown, 5 + unknown, 6}, list(t, q, dlq.Filter{}))
	mark("d", "order", "a", 5, 55) // 4 and 5 may be of other rows
	equal(t, []int{-1, 2, 3, 4 + unknown, 5 + unknown, 6}, list(t, q, dlq.Filter{}))
	mark("d", "order", "b", 1, 1000) // of a recreated stream
	want := []int{-1, -2, 3, 4 + unknown, 5 + unknown, 6}
	for _, q := range []*dlq.Queue{q, open(t, dir)} {
		equal(t, want, list(t, q, dlq.Filter{}))
		equal(t, dlq.EntryCounts{Waiting: 2, Unknown: 2}, q.Count("d"))
		equal(t, dlq.EntryCounts{Elsewhere: 4}, q.Count("another"))
		equal(t, dlq.EntryCounts{Waiting: 2, Unknown: 2}, q.Count(""))
	}
}

// TestSupersede_TakesEveryRowOfAnEntry: one that moves a row from a to b, whose keys may be
// of other forms too.
func TestSupersede_TakesEveryRowOfAnEntry(t *testing.T) {
	for name, c := range map[string]struct {
		rows    [][]string
		changes [][]string // keys of later changes
		want    dlq.EntryState
		left    []string // keys
	}{
		"neither":             {[][]string{{"b"}, {"a"}}, [][]string{{"z"}}, dlq.Waiting, nil},
		"the new place":       {[][]string{{"b"}, {"a"}}, [][]string{{"b"}}, dlq.Waiting, []string{"b"}},
		"the old place":       {[][]string{{"b"}, {"a"}}, [][]string{{"a"}}, dlq.Waiting, []string{"a"}},
		"both":                {[][]string{{"b"}, {"a"}}, [][]string{{"b"}, {"a"}}, dlq.Superseded, nil},
		"both at once":        {[][]string{{"b"}, {"a"}}, [][]string{{"a", "b"}}, dlq.Superseded, nil},
		"one twice":           {[][]string{{"b"}, {"a"}}, [][]string{{"b"}, {"b"}}, dlq.Waiting, []string{"b"}},
		"one in two forms":    {[][]string{{"b"}, {"a"}}, [][]string{{"b", "other"}}, dlq.Waiting, []string{"b"}},
		"an unclear form":     {[][]string{{"b"}, {"a"}}, [][]string{{"other"}}, dlq.Unknown, []string{"other"}},
		"rows are not known":  {nil, [][]string{{"b"}}, dlq.Unknown, []string{"b"}},
		"rows are, after all": {[][]string{{"b", "other"}}, [][]string{{"other"}}, dlq.Superseded, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			q := open(t, dir)
			e := entry(1, "order", "a", "b", "other")
			e.Rows = c.rows
			put(t, q, e)
			for i, keys := range c.changes {
				if err := q.Supersede("d", "order", keys, cdc.Position{Sequence: uint64(i) + 2, Stored: 100}); err != nil {
					t.Fatal(err)
				}
			}
			for _, q := range []*dlq.Queue{q, open(t, dir), dlq.Look(dir)} {
				got, err := q.Show(idOf(t, q, 1))
				if err != nil || got.State != c.want || string(got.Payload) != `{"n":1}` {
					t.Fatalf("%s, payload %s, %v; want %s", got.State, got.Payload, err, c.want)
				}
				if c.want != dlq.Superseded {
					equal(t, c.left, got.Changed)
				}
			}
		})
	}
}

// TestConcerns_TablesOfEntriesWithKeys: others cost the pipeline nothing.
func TestConcerns_TablesOfEntriesWithKeys(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(t, q, entry(1, "order"), entry(2, ""))
	concerns := func(want ...string) {
		t.Helper()
		for _, q := range []*dlq.Queue{q, open(t, dir)} {
			var got []string
			for _, table := range []string{"", "order", "part"} {
				if q.Concerns(table, cdc.Position{Sequence: 99}) {
					got = append(got, table)
				}
			}
			equal(t, want, got)
		}
	}
	concerns()
	put(t, q, entry(3, "part", "a"), entry(4, "part", "b"), entry(4, "part", "b"))
	concerns("part")
	for _, key := range []string{"a", "b"} {
		concerns("part")
		if err := q.Supersede("d", "part", []string{key}, cdc.Position{Sequence: 9, Stored: 90}); err != nil {
			t.Fatal(err)
		}
	}
	concerns()
	put(t, q, entry(3, "part", "a"))
	concerns("part")
	if !q.Concerns("line", cdc.Position{Sequence: 4}) || q.Concerns("line", cdc.Position{Sequence: 5}) {
		t.Error("an event is concerned if it may be an entry itself, as after a crash")
	}
}

func TestDelivered_LeavesTheOtherRow(t *testing.T) {
	q := open(t, t.TempDir())
	e := entry(1, "order", "a", "b")
	e.Rows = [][]string{{"b"}, {"a"}}
	put(t, q, e)
	for key, want := range map[string]dlq.EntryState{"a": dlq.Waiting} {
		if err := q.Delivered("d", e.Position(), []string{key}); err != nil {
			t.Fatal(err)
		}
		got, err := q.Show(idOf(t, q, 1))
		if err != nil || got.State != want {
			t.Errorf("%s, %v", got.State, err)
		}
		equal(t, []string{"a"}, got.Changed)
	}
	if err := q.Supersede("d", "order", []string{"b"}, cdc.Position{Sequence: 2, Stored: 20}); err != nil {
		t.Fatal(err)
	}
	equal(t, []int{-1}, list(t, q, dlq.Filter{}))
	for _, destination := range []string{"d", "another"} { // there is none that waits
		if err := q.Delivered(destination, e.Position(), []string{"b"}); err != nil {
			t.Error(err)
		}
	}
}

func TestPut_KeepsTheEntriesOfTwoDestinationsApart(t *testing.T) {
	q := open(t, t.TempDir())
	mine, other := entry(1, "order", "a"), entry(1, "order", "a")
	other.Destination = "other"
	put(t, q, mine, other)
	equal(t, []int{1, 1}, list(t, q, dlq.Filter{}))
	equal(t, []int{1}, list(t, q, dlq.Filter{Destination: "other"}))
	equal(t, dlq.EntryCounts{Waiting: 1, Elsewhere: 1}, q.Count("other"))
}

func TestDrop_RemovesSelectedEntries(t *testing.T) {
	q := open(t, t.TempDir())
	put(t, q, entry(1, "order", "a"), entry(2, "customer", "b"), entry(3, "order", "c"))
	if err := q.Supersede("d", "order", []string{"a"}, cdc.Position{Sequence: 2, Stored: 25}); err != nil {
		t.Fatal(err)
	}
	n, err := q.Drop(dlq.Filter{Table: "order"})
	if n != 2 || err != nil {
		t.Errorf("Drop: %d, %v", n, err)
	}
	equal(t, []int{2}, list(t, q, dlq.Filter{}))
	equal(t, dlq.EntryCounts{Waiting: 1}, q.Count(""))
}

func TestReplay_AppliesInOrderAndRemoves(t *testing.T) {
	q := open(t, t.TempDir())
	put(t, q, entry(3, "order", "c"), entry(1, "order", "a"), entry(2, "order", "b"), entry(4, "order", "d"))
	if err := q.Supersede("d", "order", []string{"b"}, cdc.Position{Sequence: 9, Stored: 90}); err != nil {
		t.Fatal(err)
	}
	var got []string
	apply := func(_ context.Context, e dlq.Entry) error {
		got = append(got, string(e.Payload))
		if e.Sequence == 3 {
			return fault.Mark(fault.Poison, errors.New("still out of range"))
		}
		return nil
	}
	done, err := q.Replay(t.Context(), dlq.Filter{}, false, apply)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, dlq.Replayed{Applied: 2, Superseded: 1, Rejected: 1}, done)
	equal(t, []string{`{"n":1}`, `{"n":3}`, `{"n":4}`}, got)
	equal(t, []int{-2, 3}, list(t, q, dlq.Filter{}))
	if e, err := q.Show(idOf(t, q, 3)); err != nil || e.Reason != "still out of range" || string(e.Payload) != `{"n":3}` {
		t.Errorf("%+v, %v", e, err)
	}
	got = nil
	done, err = q.Replay(t.Context(), dlq.Filter{State: dlq.Superseded}, true, apply) // a person knows better
	equal(t, dlq.Replayed{Applied: 1}, done)
	equal(t, []string{`{"n":2}`}, got)
	if err != nil {
		t.Error(err)
	}
}

func TestReplay_SupersedesOlderEntriesOfTheRow(t *testing.T) {
	q := open(t, t.TempDir())
	put(t, q, entry(1, "order", "a"), entry(2, "order", "a"), entry(3, "order", "b"))
	_, err := q.Replay(t.Context(), dlq.Filter{}, false, func(_ context.Context, e dlq.Entry) error {
		if e.Sequence != 2 {
			return fault.Mark(fault.Poison, errors.New("no"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, []int{-1, 3}, list(t, q, dlq.Filter{}))
}

func TestReplay_EndsAtTheFirstOtherError(t *testing.T) {
	q := open(t, t.TempDir())
	put(t, q, entry(1, "order", "a"), entry(2, "order", "b"))
	down := errors.New("down")
	calls := 0
	done, err := q.Replay(t.Context(), dlq.Filter{}, false, func(context.Context, dlq.Entry) error {
		calls++
		return down
	})
	if !errors.Is(err, down) || calls != 1 || done != (dlq.Replayed{}) {
		t.Errorf("%d calls, %+v, %v", calls, done, err)
	}
	equal(t, []int{1, 2}, list(t, q, dlq.Filter{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.Replay(ctx, dlq.Filter{}, false, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

func TestOpen_SweepsTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{".writing-123": `{"sequence":`, "README": "not ours"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q := open(t, dir)
	equal(t, dlq.EntryCounts{}, q.Count(""))
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != "README" {
		t.Errorf("%v, %v", files, err)
	}
}

func TestList_ShowsADamagedEntry(t *testing.T) {
	dir := t.TempDir()
	name := "00000000000000000007-0000000000000000070.event"
	if err := os.WriteFile(filepath.Join(dir, name), []byte("\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	q := open(t, dir)
	put(t, q, entry(8, "order", "a"))
	equal(t, []int{7 + unknown, 8}, list(t, q, dlq.Filter{}))
	done, err := q.Replay(t.Context(), dlq.Filter{}, true, func(context.Context, dlq.Entry) error { return nil })
	equal(t, dlq.Replayed{Applied: 1, Rejected: 1}, done)
	if err != nil {
		t.Error(err)
	}
	if n, err := q.Drop(dlq.Filter{Stage: "damaged"}); n != 1 || err != nil {
		t.Errorf("Drop: %d, %v", n, err)
	}
}

func TestPut_LeavesNothingAfterAFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dlq")
	q := open(t, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := q.Put(entry(1, "order", "a")); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("Put: %v", err)
	}
	equal(t, dlq.EntryCounts{}, q.Count(""))
}

// TestReplay_AllowsDropsByAnotherProcess uses two queues over one directory, as the
// server and `eds dlq` do.
func TestReplay_AllowsDropsByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	server := open(t, dir)
	put(t, server, entry(1, "order", "a"), entry(2, "order", "a"))
	if _, err := open(t, dir).Drop(dlq.Filter{IDs: []string{idOf(t, server, 1)}}); err != nil {
		t.Fatal(err)
	}
	if err := server.Supersede("d", "order", []string{"a"}, cdc.Position{Sequence: 3, Stored: 30}); err != nil {
		t.Fatal(err)
	}
	equal(t, []int{-2}, list(t, server, dlq.Filter{}))
	equal(t, dlq.EntryCounts{}, server.Count("d"))
}

// writeOld writes an entry as versions did that knew one key, of another form.
func writeOld(t *testing.T, dir string, n uint64, stage, key, encoding string, payload []byte) {
	t.Helper()
	header := fmt.Sprintf(
		`{"sequence":%d,"stored":%d,"subject":"dbchange.order.UPDATE.c.l.PUBLIC.x","table":"order",`+
			`"operation":"UPDATE","eventId":"e","key":%q,"stage":%q,"reason":"no","time":"2026-01-02T03:04:05Z","encoding":%q,"size":%d}`,
		n, n*10, key, stage, encoding, len(payload),
	)
	name := fmt.Sprintf("%020d-%019d.event", n, n*10)
	if err := os.WriteFile(filepath.Join(dir, name), append([]byte(header+"\n"), payload...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// files returns the contents of a directory's files by name.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

func orderUpdate(id string) []byte {
	return []byte(fmt.Sprintf(`{"operation":"UPDATE","id":"e","table":"order","key":[%q],"modelVersion":"v9","after":{"id":%q}}`, id, id))
}

func TestOpen_FindsTheKeysOfEntriesThatOlderVersionsWrote(t *testing.T) {
	dir := t.TempDir()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(orderUpdate("2")) // into memory
	_ = z.Close()
	writeOld(t, dir, 1, "schema", "3f1c", "", orderUpdate("1"))
	writeOld(t, dir, 2, "decode", "", "gzip/json", zipped.Bytes())
	writeOld(t, dir, 3, "apply", "77aa", "", orderUpdate("3"))
	writeOld(t, dir, 4, "decode", "", "", []byte("nonsense"))
	writeOld(t, dir, 5, "schema", "3f1c", "", orderUpdate("5"))
	before := files(t, dir)

	open(t, dir)
	q := open(t, dir)
	after := files(t, dir)
	delete(after, "index")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("opening changed files: %s", diff)
	}
	supersede := func(id string, sequence uint64) {
		t.Helper()
		var e cdc.Event
		if err := cdc.NewDecoder().Decode(&e, orderUpdate(id), ""); err != nil {
			t.Fatal(err)
		}
		if err := q.Supersede(
			"d", "order", change.RowKeys(&e, change.Effect{}),
			cdc.Position{Sequence: sequence, Stored: int64(sequence) * 10},
		); err != nil {
			t.Fatal(err)
		}
	}
	supersede("other", 9)
	equal(t, []int{1, 2, 3, 4 + unknown, 5}, list(t, q, dlq.Filter{}))
	supersede("1", 10) // 4 may be of any row
	equal(t, []int{-1, 2, 3, 4 + unknown, 5}, list(t, q, dlq.Filter{}))
	supersede("2", 11)
	supersede("3", 12)
	equal(t, []int{-1, -2, -3, 4 + unknown, 5}, list(t, q, dlq.Filter{}))
	q = open(t, dir)
	equal(t, dlq.EntryCounts{Waiting: 1, Unknown: 1}, q.Count(""))
	done, err := q.Replay(
		t.Context(), dlq.Filter{}, false,
		func(context.Context, dlq.Entry) error { return fault.Mark(fault.Poison, errors.New("again")) },
	)
	equal(t, dlq.Replayed{Superseded: 3, Unknown: 1, Rejected: 1}, done)
	if err != nil {
		t.Error(err)
	}
	q = open(t, dir)  // which has the entry as this version writes it
	supersede("5", 5) // the event is read again, and applied
	equal(t, dlq.EntryCounts{Unknown: 1}, q.Count(""))
}

func TestReplay_KeepsWhatTheDestinationHasNewer(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	put(t, q, entry(1, "order", "a"), entry(2, "order", "b"))
	newer := func(_ context.Context, e dlq.Entry) error {
		if e.Sequence == 1 {
			return fmt.Errorf("order: %w", dlq.ErrSuperseded)
		}
		return nil
	}
	done, err := q.Replay(t.Context(), dlq.Filter{}, false, newer)
	equal(t, dlq.Replayed{Applied: 1, Superseded: 1}, done)
	if err != nil {
		t.Error(err)
	}
	equal(t, []int{-1}, list(t, q, dlq.Filter{}))
	equal(t, dlq.EntryCounts{}, q.Count(""))
}
