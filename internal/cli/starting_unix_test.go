//go:build unix

package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// supervise holds the data directory as the parent of a worker does.
func supervise(t *testing.T) (dataDir string) {
	t.Helper()
	dataDir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dataDir, "crash"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dataDir, "crash", ".parent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return dataDir
}

func TestServer_SaysThatItIsStarting(t *testing.T) {
	dir := supervise(t)
	for _, command := range [][]string{{"status"}, {"accept-gap", "x"}} {
		_, stderr, code := eds(t, nil, append(command, "--data-dir", dir)...)
		if code != 1 || !strings.Contains(stderr, "is starting, or restarts after a crash; see its log, and try again in a moment\n") {
			t.Errorf("%v: exit code %d\n%s", command, code, stderr)
		}
	}
	o := &operated{
		report:  server.Report{PID: 7},
		outcome: snapshot.Report{Tables: []snapshot.TableReport{{Table: "order", Rows: 5}}, Rows: 5},
	}
	started := make(chan func(), 1)
	go func() { started <- start(t, dir, o) }() // the import may come before or after
	stdout, stderr, code := eds(t, nil, "import", "--data-dir", dir, "--no-confirm")
	(<-started)()
	if code != 0 || !strings.Contains(stdout, "5 rows of 1 table") {
		t.Errorf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
}
