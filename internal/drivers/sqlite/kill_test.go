package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// victimOf is the name of an environment variable with the path of a database file. If the variable
// is set, the test program writes into the file until the program is killed.
const victimOf = "EDS_TEST_SQLITE_VICTIM"

// Each round kills a process that applies batches and loads tables, and compares the database with
// the history up to its checkpoint.
func TestKilledWriter_LeavesWholeBatches(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.db")
	random := rand.New(rand.NewPCG(1, 2))
	last := uint64(0)
	for round := range 10 {
		runVictim(t, path, 1+random.IntN(30))
		db := openAt(t, path)
		if diff := cmp.Diff([]string{"ok"}, lines(t, db, "PRAGMA integrity_check")); diff != "" {
			t.Fatal(diff)
		}
		at, err := strconv.ParseUint(lines(t, db, "SELECT position FROM _eds_checkpoint")[0], 10, 64)
		if err != nil || at <= last {
			t.Fatalf("round %d: the checkpoint went from %d to %d, %v", round, last, at, err)
		}
		last = at
		if diff := cmp.Diff(historyUpTo(at), lines(t, db, "SELECT id, n FROM thing ORDER BY id")); diff != "" {
			t.Fatalf("round %d, at %d: %s", round, at, diff)
		}
		// A load is visible as a whole or not at all.
		for _, loaded := range lines(t, db, "SELECT count(*), count(DISTINCT n) FROM loaded") {
			if loaded != "300|1" && loaded != "0|0" {
				t.Fatalf("round %d: rows and loads in the loaded table: %s", round, loaded)
			}
		}
	}
	t.Logf("%d events", last)
}

// runVictim runs a writer and kills it after a number of steps.
func runVictim(t *testing.T, path string, steps int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), victimOf+"="+path)
	c.Stderr = t.Output()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := bufio.NewScanner(out)
	for range steps {
		if !done.Scan() {
			t.Error("the writer ended by itself")
			break
		}
	}
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("the writer was not killed")
	}
}

// changeAt returns the change with the given sequence. The changes cycle through 400
// rows. One change in five is a delete.
func changeAt(sequence uint64) (id string, deleted bool) {
	return fmt.Sprintf("%04d", sequence*7919%400), sequence%5 == 0
}

// historyUpTo returns the rows of the table after the change with the given sequence.
func historyUpTo(sequence uint64) []string {
	rows := make(map[string]string)
	for s := uint64(1); s <= sequence; s++ {
		if id, deleted := changeAt(s); deleted {
			delete(rows, id)
		} else {
			rows[id] = fmt.Sprintf("%s|%d", id, s)
		}
	}
	var all []string
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		all = append(all, rows[id])
	}
	return all
}

// beVictim continues the history from the checkpoint, and loads tables, until the program is
// killed. It prints one line per step.
func beVictim(path string) int {
	ctx := context.Background()
	s, err := open(ctx, &url.URL{Scheme: "sqlite", Path: path}, sink.Env{Stream: "s", Consumer: "c", Filter: "f"})
	if err == nil {
		var group errgroup.Group
		group.Go(func() error { return keepApplying(ctx, s) })
		group.Go(func() error { return keepLoading(ctx, s) })
		err = group.Wait()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func keepApplying(ctx context.Context, s sink.Sink) error {
	columns := []schema.Column{{Name: "id", Type: schema.String}, {Name: "n", Type: schema.Integer}}
	t, err := schema.New("thing", "1", []string{"id"}, columns)
	if err != nil {
		return err
	}
	at, err := s.(sink.Checkpointer).Checkpoint(ctx)
	for err == nil {
		var b change.Builder
		splitter := change.NewSplitter(t)
		for range 1 + at.Sequence%97 {
			at.Sequence++
			at.Stored = int64(at.Sequence)
			id, deleted := changeAt(at.Sequence)
			image := fmt.Appendf(nil, `{"id":%q,"n":%d}`, id, at.Sequence)
			spans, _ := splitter.Split(image)
			effect := change.Effect{Table: t}
			if deleted {
				effect.Delete = &change.Row{Image: image, Spans: spans[:1], Op: cdc.Delete}
			} else {
				effect.Upsert = &change.Row{Image: image, Spans: spans, Op: cdc.Update}
			}
			b.Add(&cdc.Event{Position: at, Payload: image}, effect)
		}
		err = s.Apply(ctx, b.Batch())
		fmt.Println("applied")
	}
	return err
}

// keepLoading loads a table of 300 rows from 3 files, again and again. Every row contains the
// number of its load. keepLoading resumes the load of an earlier run.
func keepLoading(ctx context.Context, s sink.Sink) error {
	columns := []schema.Column{{Name: "id", Type: schema.Integer}, {Name: "n", Type: schema.Integer}}
	t, err := schema.New("loaded", "1", []string{"id"}, columns)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		l, err := s.BeginLoad(ctx, fmt.Sprintf("job %d", n), t, sink.Replace, sink.Scope{})
		if err != nil {
			return err
		}
		splitter := change.NewSplitter(t)
		for f := range 3 {
			if _, err := l.LoadFile(ctx, fmt.Sprint(f), func(yield func(*change.Row, error) bool) {
				for i := range 100 {
					image := fmt.Appendf(nil, `{"id":%d,"n":%d}`, f*100+i, n)
					spans, err := splitter.Split(image)
					if !yield(&change.Row{Image: image, Spans: spans}, err) {
						return
					}
				}
			}); err != nil {
				return err
			}
		}
		if _, err := l.Finish(ctx); err != nil {
			return err
		}
		if err := l.Close(ctx); err != nil {
			return err
		}
		fmt.Println("loaded")
	}
}
