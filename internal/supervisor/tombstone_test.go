package supervisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stoneOf returns a tombstone of number n.
func stoneOf(n int, stderr string) Tombstone {
	return Tombstone{Time: time.Unix(int64(n), 0).UTC(), PID: n, Kind: KindExit, Ran: TextDuration(90 * time.Second), Stderr: stderr}
}

// leave writes the tombstone with number n to dir.
func leave(t *testing.T, dir string, n int, stderr string) {
	t.Helper()
	if _, err := stoneOf(n, stderr).write(crashDir(dir)); err != nil {
		t.Fatal(err)
	}
}

// graveyard returns a data directory with the tombstones from number first to
// last, which makes no room for any.
func graveyard(t *testing.T, first, last int) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(crashDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	for n := first; n <= last; n++ {
		text, err := json.Marshal(stoneOf(n, ""))
		if err == nil {
			err = os.WriteFile(filepath.Join(crashDir(dir), stoneOf(n, "").name()), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// pids returns the numbers of the tombstones in dir.
func pids(t *testing.T, dir string) []int {
	t.Helper()
	stones, err := Tombstones(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, stone := range stones {
		all = append(all, stone.PID)
	}
	return all
}

func TestTombstones_AreReadAndRemoved(t *testing.T) {
	dir := t.TempDir()
	if left := pids(t, dir); left != nil {
		t.Errorf("at first there are %v", left)
	}
	for _, n := range []int{3, 1, 2} {
		leave(t, dir, n, "goroutine 1")
	}
	stones, err := Tombstones(dir)
	if err != nil || len(stones) != 3 {
		t.Fatal(stones, err)
	}
	want := stoneOf(1, "goroutine 1")
	want.path = stones[0].path
	if diff := cmp.Diff(want, stones[0], cmp.AllowUnexported(Tombstone{})); diff != "" {
		t.Errorf("the oldest (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := stones[0].Remove(); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff([]int{2, 3}, pids(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// grow makes the tombstone of number n larger than all together may be.
func grow(t *testing.T, dir string, n int) {
	t.Helper()
	if err := os.Truncate(filepath.Join(crashDir(dir), stoneOf(n, "").name()), maxTombstoneBytes+1); err != nil {
		t.Fatal(err)
	}
}

func TestTombstones_RemoveTheOldestBeyondTheBound(t *testing.T) {
	dir := graveyard(t, 1, maxTombstones+5)
	leave(t, dir, 99, "")
	left := pids(t, dir)
	if len(left) != maxTombstones || left[0] != 7 || left[len(left)-1] != 99 {
		t.Errorf("of too many %v are left", left)
	}
	grow(t, dir, 22)
	leave(t, dir, 100, "")
	if diff := cmp.Diff([]int{23, 24, 25, 99, 100}, pids(t, dir)); diff != "" {
		t.Errorf("beside a large one: %s", diff)
	}
	grow(t, dir, 100)
	if err := removeOld(crashDir(dir), stoneOf(100, "").name()); err != nil {
		t.Error(err)
	}
	if names, err := tombstoneNames(crashDir(dir)); err != nil || len(names) != 1 || names[0] != stoneOf(100, "").name() {
		t.Errorf("before a large one %q are left, %v", names, err)
	}
}

func TestTombstones_KeepTheNewestWithAnyClock(t *testing.T) {
	dir := graveyard(t, 1001, 1000+maxTombstones)
	leave(t, dir, 1, "")
	if left := pids(t, dir); left[0] != 1 {
		t.Errorf("%v are left", left)
	}
}

func TestTombstones_ReadOthersBesideADamagedOne(t *testing.T) {
	dir := t.TempDir()
	leave(t, dir, 1, "")
	write := func(name, text string) string {
		path := filepath.Join(crashDir(dir), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	broken := write("0.json", `{"pid`)
	foreign := write("notes.txt", "mine")
	unfinished := write(unfinished+"1", "{")
	stones, err := Tombstones(dir)
	if len(stones) != 1 || stones[0].PID != 1 || err == nil ||
		err.Error() != fmt.Sprintf("read the tombstone %s: unexpected end of JSON input", broken) {
		t.Errorf("%v, %v", stones, err)
	}
	leave(t, dir, 2, "")
	if _, err := os.Stat(unfinished); !os.IsNotExist(err) {
		t.Errorf("an unfinished file is left: %v", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("another program's file is gone: %v", err)
	}
}

func TestRun_RestartsIfNoTombstoneCanBeWritten(t *testing.T) {
	play(t, []script{crash, fine}, func(s *stage) {
		if err := os.WriteFile(crashDir(s.config.Dir), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
	})
}
