package file

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// event returns the nth event of a stream with two tables.
func event(t testing.TB, n int) *cdc.Event {
	t.Helper()
	payload := fmt.Sprintf(`{"operation":"UPDATE","id":"ev%d","table":"%s","key":["k%d"],"companyId":"c","after":{"id":"k%d","n":%d},`+
		`"timestamp":%d,"mvccTimestamp":"%d"}`,
		n, []string{"order", "part"}[n%2], n%3, n%3, n, 1700000000000+n, 1700000000000000000+n)
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: int64(1700000000000000000 + n)}}
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// batch returns a batch of the events from first to last. It omits events that the position after
// covers.
func batch(t testing.TB, after cdc.Position, first, last int) *change.Batch {
	t.Helper()
	var b change.Builder
	for n := first; n <= last; n++ {
		if e := event(t, n); !after.Covers(e.Position) {
			b.Add(e, change.Effect{})
		}
	}
	return b.Batch()
}

var env = sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "*"}

func mustOpen(t testing.TB, d disk, query string) sink.Sink {
	t.Helper()
	s, err := newSink(d, parsed(t, "file:///nowhere"+query), env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sequences returns the ids of the events in the files by table, in the order of names and lines.
// It accepts Parquet files, too.
func sequences(t testing.TB, files map[string]string) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		table, _, _ := strings.Cut(name, "/")
		text := files[name]
		if strings.HasPrefix(text, "PAR1") {
			text = string(expand(t, storedFile{name, []byte(text)}))
		}
		for line := range strings.Lines(text) {
			var e cdc.Event
			if err := cdc.NewDecoder().Decode(&e, []byte(strings.TrimSuffix(line, "\n")), ""); err != nil {
				t.Fatalf("%s: %v: %q", name, err, line)
			}
			all[table] = append(all[table], e.ID)
		}
	}
	for _, ids := range all {
		if strings.HasSuffix(slices.Sorted(maps.Keys(files))[0], ".json") {
			slices.SortFunc(ids, func(a, b string) int { return len(a)*1000 - len(b)*1000 + strings.Compare(a, b) })
		}
	}
	return all
}

// TestCrash_LosesNothingAcknowledged simulates a power cut before and after every disk call of
// three batches. After each, it continues from the checkpoint, or from an earlier event if the sink
// has no checkpoint.
func TestCrash_LosesNothingAcknowledged(t *testing.T) {
	for _, query := range []string{"", "?format=ndjson", "?format=ndjson&roll-rows=3", "?format=parquet&compress=none"} {
		t.Run(query, func(t *testing.T) {
			clean := newFaultyDisk(newMemDisk())
			writeBatches(t, mustOpen(t, clean, query), 0)
			for _, mode := range []sinktest.Mode{sinktest.Lost, sinktest.Answered} {
				for n := range clean.Steps() {
					crashAt(t, query, n, mode)
				}
			}
		})
	}
}

// batches holds the numbers of the first and the last event of four batches. The test writes the
// last batch after the crash.
var batches = [][2]int{{1, 4}, {5, 6}, {7, 13}, {14, 17}}

// writeBatches applies the batches before the last one, starting with number from, until one fails.
// It returns the number of acknowledged batches.
func writeBatches(t testing.TB, s sink.Sink, from int) int {
	t.Helper()
	for i, b := range batches[from : len(batches)-1] {
		if s.Apply(t.Context(), batch(t, cdc.Position{}, b[0], b[1])) != nil {
			return from + i
		}
	}
	return len(batches) - 1
}

func crashAt(t *testing.T, query string, n int, mode sinktest.Mode) {
	t.Helper()
	memory := newMemDisk()
	faulty := newFaultyDisk(memory)
	s := mustOpen(t, faulty, query)
	faulty.Break(n, mode)
	acknowledged := writeBatches(t, s, 0)

	memory = memory.crash()
	s = mustOpen(t, memory, query)
	var at cdc.Position
	replayed := max(0, acknowledged-1) // redeliver the last acknowledged batch
	if c, ok := s.(sink.Checkpointer); ok {
		var err error
		if at, err = c.Checkpoint(t.Context()); err != nil {
			t.Fatalf("%s %d: %v", mode, n, err)
		}
		if acknowledged > 0 && at.Sequence < uint64(batches[acknowledged-1][1]) {
			t.Errorf("%s %d: the checkpoint is %d, %d was acknowledged", mode, n, at.Sequence, batches[acknowledged-1][1])
		}
	} else if acknowledged > 0 {
		// All acknowledged events must be in the files before any batch is replayed.
		want := sequencesUpTo(batches[acknowledged-1][1])
		for table, ids := range want {
			got := sequences(t, memory.files())[table]
			if len(got) < len(ids) || !slices.Equal(got[:len(ids)], ids) {
				t.Errorf("%s %d: after the crash table %s has %v, want %v", mode, n, table, got, ids)
			}
		}
	}
	for _, b := range batches[replayed:] {
		// The replayed batches have different boundaries.
		for first := b[0]; first <= b[1]; first += 2 {
			again := batch(t, at, first, min(first+1, b[1]))
			if len(again.Events) == 0 {
				continue
			}
			if err := s.Apply(t.Context(), again); err != nil {
				t.Fatalf("%s %d: after the crash: %v", mode, n, err)
			}
		}
	}
	if diff := cmp.Diff(sequencesUpTo(17), sequences(t, memory.files())); diff != "" {
		t.Errorf("%s %d (%s): %s", mode, n, faulty.log[min(n, len(faulty.log)-1)], diff)
	}
}

func sequencesUpTo(last int) map[string][]string {
	want := make(map[string][]string)
	for n := 1; n <= last; n++ {
		table := []string{"order", "part"}[n%2]
		want[table] = append(want[table], fmt.Sprintf("ev%d", n))
	}
	return want
}

// TestFullDisk_ShowsNoHalfFile checks that consumers see the same files as before, no matter which
// call fails for lack of space.
func TestFullDisk_ShowsNoHalfFile(t *testing.T) {
	for _, query := range []string{"", "?format=ndjson", "?format=ndjson&compress=zstd", "?format=parquet"} {
		t.Run(query, func(t *testing.T) {
			for n := 0; ; n++ {
				memory := newMemDisk()
				full := &fullDisk{newFaultyDisk(memory)}
				s := mustOpen(t, full, query)
				if err := s.Apply(t.Context(), batch(t, cdc.Position{}, 1, 4)); err != nil {
					t.Fatal(err)
				}
				before := memory.files()
				full.faultyDisk.Break(n, sinktest.Lost)
				err := s.Apply(t.Context(), batch(t, cdc.Position{}, 5, 9))
				if err == nil {
					if n == 0 {
						t.Fatal("a full disk caused no error")
					}
					return // the batch has finished in fewer calls
				}
				if fault.Of(err) != fault.Transient || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("call %d: the error is %v: %v", n, fault.Of(err), err)
				}
				if diff := cmp.Diff(before, memory.files()); diff != "" {
					t.Errorf("call %d: %s", n, diff)
				}
				if left := memory.temporary(); len(left) > 0 {
					t.Errorf("call %d leaves %v", n, left)
				}
			}
		})
	}
}

// fullDisk is a disk on which only calls that need space fail.
type fullDisk struct{ *faultyDisk }

func (d *fullDisk) rename(from, to string) error         { return d.disk.rename(from, to) }
func (d *fullDisk) remove(name string) error             { return d.disk.remove(name) }
func (d *fullDisk) syncDir(name string) error            { return d.disk.syncDir(name) }
func (d *fullDisk) readFile(name string) ([]byte, error) { return d.disk.readFile(name) }
func (d *fullDisk) ensure() (bool, error)                { return d.disk.ensure() }
func (d *fullDisk) open(name string) (diskFile, error) {
	f, err := d.disk.open(name)
	if err != nil {
		return nil, err
	}
	return &fullFile{faultyFile{f, d.faultyDisk, name}}, nil
}

type fullFile struct{ faultyFile }

func (f *fullFile) Truncate(size int64) error { return f.diskFile.Truncate(size) }
func (f *fullFile) Sync() error               { return f.diskFile.Sync() }
