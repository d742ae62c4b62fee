package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// lineName returns the name of the NDJSON file whose first event is event n.
func lineName(n int) string {
	return fmt.Sprintf("%s/%019d-%020d-%s.ndjson", []string{"order", "part"}[n%2], 1700000000000000000+n, n, newFileJournal(env).id())
}

func TestRolling_NamesFilesByTheirFirstEvent(t *testing.T) {
	dir := tempDir(t)
	s := openIn(t, dir, "?format=ndjson")
	apply(t, s, 1, 3)
	apply(t, s, 4, 5)
	want := map[string]string{
		lineName(1): fmt.Sprintf("%s\n%s\n%s\n", event(t, 1).Payload, event(t, 3).Payload, event(t, 5).Payload),
		lineName(2): fmt.Sprintf("%s\n%s\n", event(t, 2).Payload, event(t, 4).Payload),
	}
	if diff := cmp.Diff(want, contents(t, dir)); diff != "" {
		t.Error(diff)
	}
	if want := "order/1700000000000000002-00000000000000000002-c91a9d543a.ndjson"; lineName(2) != want {
		t.Errorf("the name has changed to %s", lineName(2))
	}
}

func TestRolling_BeginsNewFiles(t *testing.T) {
	size := len(event(t, 1).Payload) + 1
	for name, c := range map[string]struct {
		query string
		want  []string // events of table part, which has the odd numbers
	}{
		"never":    {"", []string{lineName(1)}},
		"by rows":  {"&roll-rows=2", []string{lineName(1), lineName(5), lineName(9)}},
		"by bytes": {fmt.Sprintf("&roll-bytes=%d", 3*size-1), []string{lineName(1), lineName(7)}},
		"by age":   {"&roll-age=1h", []string{lineName(1), lineName(7)}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			s := openIn(t, dir, "?format=ndjson"+c.query).(*rollingSink)
			now := time.Now()
			s.now = func() time.Time { return now }
			for n := 1; n <= 9; n += 2 {
				if n == 7 {
					now = now.Add(time.Hour)
				}
				apply(t, s, n, n)
			}
			if diff := cmp.Diff(c.want, names(t, dir)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"ev1", "ev3", "ev5", "ev7", "ev9"}, sequences(t, contents(t, dir))["part"]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRolling_TruncatesATornEnd(t *testing.T) {
	for _, query := range []string{"?format=ndjson", "?format=ndjson&compress=gzip", "?format=ndjson&compress=zstd"} {
		dir := tempDir(t)
		apply(t, openIn(t, dir, query), 1, 3)
		for _, f := range files(t, dir) {
			// This is the state after a crash while a batch is being written.
			torn := append(f.text, f.text[:len(f.text)/2]...)
			if err := os.WriteFile(filepath.Join(dir, f.name), torn, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := openIn(t, dir, query)
		if p, err := s.(sink.Checkpointer).Checkpoint(t.Context()); err != nil || p.Sequence != 3 {
			t.Errorf("%s: checkpoint %v, %v", query, p, err)
		}
		if diff := cmp.Diff(sequencesUpTo(3), sequences(t, contents(t, dir))); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
		apply(t, s, 4, 6)
		if diff := cmp.Diff(sequencesUpTo(6), sequences(t, contents(t, dir))); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
}

func TestRolling_ToleratesRemovedFiles(t *testing.T) {
	for name, take := range map[string]func(path string) error{
		"moved": os.Remove, "emptied": func(path string) error { return os.Truncate(path, 0) },
		"cut": func(path string) error { return os.Truncate(path, 10) },
	} {
		for _, reopen := range []bool{false, true} {
			dir := tempDir(t)
			s := openIn(t, dir, "?format=ndjson")
			apply(t, s, 1, 3)
			if err := take(filepath.Join(dir, lineName(1))); err != nil {
				t.Fatal(err)
			}
			if reopen {
				s = openIn(t, dir, "?format=ndjson")
			}
			apply(t, s, 4, 6)
			got := contents(t, dir)
			if got[lineName(5)] != string(event(t, 5).Payload)+"\n" || !strings.Contains(got[lineName(2)], `"ev6"`) {
				t.Errorf("%s, reopened %v: %v", name, reopen, got)
			}
		}
	}
}

func TestRolling_ResetBeginsNewFiles(t *testing.T) {
	dir := tempDir(t)
	s := openIn(t, dir, "?format=ndjson")
	apply(t, s, 1, 3)
	before := contents(t, dir)
	for _, suffix := range []string{"~2", "~3"} {
		if err := s.(sink.Checkpointer).ResetCheckpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		s = openIn(t, dir, "?format=ndjson")
		apply(t, s, 1, 3)
		for name, text := range before {
			got := contents(t, dir)
			if again := got[strings.TrimSuffix(name, ".ndjson")+suffix+".ndjson"]; again != text || got[name] != text {
				t.Errorf("%s was %q, is %q, and again %q", name, text, got[name], again)
			}
		}
	}
}

// TestJournal_LostCostsNoFile checks that deleting the private directory of eds loses only the
// checkpoint.
func TestJournal_LostCostsNoFile(t *testing.T) {
	dir := tempDir(t)
	apply(t, openIn(t, dir, "?format=ndjson"), 1, 3)
	before := contents(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, privateDir)); err != nil {
		t.Fatal(err)
	}
	s := openIn(t, dir, "?format=ndjson")
	if p, err := s.(sink.Checkpointer).Checkpoint(t.Context()); err != nil || p != (cdc.Position{}) {
		t.Errorf("checkpoint %v, %v", p, err)
	}
	apply(t, s, 3, 5)
	for name, text := range before {
		if got := contents(t, dir)[name]; got != text {
			t.Errorf("%s was %q and is %q", name, text, got)
		}
	}
}

func TestJournal_DamageIsReported(t *testing.T) {
	dir := tempDir(t)
	s := openIn(t, dir, "?format=ndjson")
	apply(t, s, 1, 3)
	if err := os.WriteFile(filepath.Join(dir, newFileJournal(env).path()), []byte(`{"sequence":`), 0o600); err != nil {
		t.Fatal(err)
	}
	again := openIn(t, dir, "?format=ndjson")
	if _, err := again.(sink.Checkpointer).Checkpoint(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "read the journal of written files") {
		t.Errorf("the checkpoint: %v", err)
	}
	if err := again.Apply(t.Context(), batch(t, cdc.Position{}, 4, 5)); err == nil {
		t.Error("a batch was applied without a readable journal")
	}
}

func TestRolling_NewCompressionBeginsANewFile(t *testing.T) {
	dir := tempDir(t)
	apply(t, openIn(t, dir, "?format=ndjson"), 1, 1)
	apply(t, openIn(t, dir, "?format=ndjson&compress=zstd"), 3, 3)
	apply(t, openIn(t, dir, "?format=ndjson&compress=gzip"), 5, 5)
	if diff := cmp.Diff([]string{lineName(1), lineName(3) + ".zst", lineName(5) + ".gz"}, names(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// TestRolling_SeparatesConsumers checks that two servers may write to the same directory.
func TestRolling_SeparatesConsumers(t *testing.T) {
	dir := tempDir(t)
	first := openIn(t, dir, "?format=ndjson")
	other := env
	other.Consumer = "eds-2"
	d, err := openDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := newSink(d, parsed(t, "file://"+dir+"?format=ndjson"), other)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close(t.Context())
	for n := 1; n < 10; n += 2 {
		apply(t, first, n, n)
		apply(t, second, n, n)
	}
	got := contents(t, dir)
	if len(got) != 2 {
		t.Errorf("there are %d files", len(got))
	}
	for name, text := range got {
		if strings.Count(text, "\n") != 5 {
			t.Errorf("%s has %d lines", name, strings.Count(text, "\n"))
		}
	}
}
