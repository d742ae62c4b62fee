package supervisor_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/supervisor"
)

func once(c *supervisor.Config) { c.NoRestart = true }

func TestRun_EndsAfterAnAnnouncedEnd(t *testing.T) {
	for _, code := range []int{supervisor.CodeOK, supervisor.CodeError, supervisor.CodeUsage} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			l := start(t, nil)
			w := l.worker()
			w.do("ready")
			w.order("end %d all is said", code)
			l.ended(result{Code: code})
			l.left()
		})
	}
}

func TestRun_WritesATombstoneAfterACrash(t *testing.T) {
	const refusal = "the worker crashed, and --no-restart is set: "
	tests := map[string]struct {
		orders []string
		want   supervisor.Tombstone
	}{
		"a panic": {
			[]string{"session s-1", "ready", "panic out-of-luck"},
			supervisor.Tombstone{
				Kind: supervisor.KindPanic, ExitCode: 2, Ready: true, Session: "s-1", Message: "panic: out-of-luck",
				Reason: "it panicked (exit code 2)",
			},
		},
		"an exit": {
			[]string{"exit 7"},
			supervisor.Tombstone{Kind: supervisor.KindExit, ExitCode: 7, Reason: "it ended with exit code 7 unexpectedly"},
		},
		"a silent success": {
			[]string{"ready", "exit 0"},
			supervisor.Tombstone{Kind: supervisor.KindExit, Ready: true, Reason: "it ended with exit code 0 unexpectedly"},
		},
		"another exit than announced": {
			[]string{"ready", "say 0 all is well", "exit 1"},
			supervisor.Tombstone{Kind: supervisor.KindExit, ExitCode: 1, Ready: true, Reason: "it ended with exit code 1 unexpectedly"},
		},
		"an announced code that means nothing": {
			[]string{"end 9"},
			supervisor.Tombstone{Kind: supervisor.KindExit, ExitCode: 9, Reason: "it ended with exit code 9 unexpectedly"},
		},
		"SIGKILL, with the session closed": {
			[]string{"session s-1", "session", "kill"},
			supervisor.Tombstone{
				Kind: supervisor.KindKilled, ExitCode: -1, Signal: "SIGKILL",
				Reason: "it was killed (SIGKILL), as the system does when memory runs out: see the system's log",
			},
		},
		"another signal": {
			[]string{"terminate"},
			supervisor.Tombstone{Kind: supervisor.KindSignal, ExitCode: -1, Signal: "SIGTERM", Reason: "it was ended by SIGTERM"},
		},
		"a signal that the runtime explains": {
			[]string{"abort"},
			supervisor.Tombstone{
				Kind: supervisor.KindSignal, ExitCode: 2, Signal: "SIGABRT", Message: "SIGABRT: abort",
				Reason: "it was ended by SIGABRT",
			},
		},
		"in the middle of a message": {
			[]string{`stdout {"type":"exiting","co`, "exit 0"},
			supervisor.Tombstone{Kind: supervisor.KindExit, Reason: "it ended with exit code 0 unexpectedly"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t, once)
			w := l.worker()
			last := len(test.orders) - 1
			for _, order := range test.orders[:last] {
				w.do(order)
			}
			w.order("%s", test.orders[last])
			test.want.Version = "1.0.0"
			l.ended(result{1, refusal + test.want.Reason + "; see " + filepath.Join(l.config.Dir, "crash")})
			l.left(test.want)
		})
	}
}

func TestTombstone_HasTimeAndKind(t *testing.T) {
	t.Parallel()
	before := time.Now()
	l := start(t, once)
	w := l.worker()
	w.order("panic trouble")
	l.ended(
		result{1, "the worker crashed, and --no-restart is set: it panicked (exit code 2); see " + filepath.Join(l.config.Dir, "crash")},
	)
	stones := l.tombstones()
	if len(stones) != 1 {
		t.Fatal(stones)
	}
	stone := stones[0]
	if stone.PID != w.PID || stone.Time.Before(before) || stone.Time.After(time.Now()) || time.Duration(stone.Ran) <= 0 ||
		time.Duration(stone.Ran) > time.Since(before) {
		t.Errorf("pid %d (want %d), time %s, ran %s", stone.PID, w.PID, stone.Time, time.Duration(stone.Ran))
	}
	if !strings.Contains(stone.Stderr, "panic: trouble\n\ngoroutine 1 [running]:\n") {
		t.Errorf("stderr %q", stone.Stderr)
	}
}

func TestRun_RestartsAWorker(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *supervisor.Config) { c.WorkerArgs = []string{"--url", "x"} })
	crash := l.worker()
	crash.do("ready")
	crash.order("exit 7")
	asks := l.worker()
	asks.do("ready")
	asks.order("end %d renew", supervisor.CodeRestart)
	last := l.worker()
	if diff := cmp.Diff(asks.Start, last.Start); diff != "" || crash.PID == asks.PID || asks.PID == last.PID {
		t.Errorf("workers %d, %d, %d: %s", crash.PID, asks.PID, last.PID, diff)
	}
	last.order("end 0")
	l.ended(result{})
	l.left(
		supervisor.Tombstone{
			Kind: supervisor.KindExit, Version: "1.0.0", ExitCode: 7, Ready: true,
			Reason: "it ended with exit code 7 unexpectedly",
		},
	)
}

func TestRun_EndsAHang(t *testing.T) {
	tests := map[string]struct {
		order string
		quit  time.Duration
		like  func(supervisor.Tombstone) bool
	}{
		"and says where it hung": {"ready", eventually, func(stone supervisor.Tombstone) bool {
			return stone.ExitCode == 2 && stone.Message == "SIGQUIT: quit" && strings.Contains(stone.Stderr, "supervisor_test.scripted(")
		}},
		"by force": {"deaf", 100 * time.Millisecond, func(stone supervisor.Tombstone) bool {
			return stone.Signal == "SIGKILL"
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t, func(c *supervisor.Config) {
				c.Limits.Hang, c.Limits.Quit, c.Limits.Crashes = time.Second, test.quit, 1000
			})
			// On a slow machine one may be taken for hanging before it is there.
			for !slices.ContainsFunc(l.tombstones(), test.like) {
				if w, err := l.accept(); err == nil {
					fmt.Fprintln(w.conn, test.order)
				}
			}
			for _, stone := range l.tombstones() {
				if stone.Kind != supervisor.KindHang || stone.Reason != "it gave no sign of life for 1s" {
					t.Errorf("a tombstone says %s: %s", stone.Kind, stone.Reason)
				}
			}
		})
	}
}

func TestRun_WaitsForAShutdown(t *testing.T) {
	t.Parallel()
	l := start(t, nil)
	w := l.worker()
	w.do("ready")
	l.stop()
	w.waitFor("done")
	w.do("session s-2") // it still works
	w.order("end 0 drained")
	l.ended(result{})
	l.left()
}

func TestRun_ReportsACrashDuringAShutdown(t *testing.T) {
	t.Parallel()
	l := start(t, nil)
	w := l.worker()
	l.stop()
	w.waitFor("done")
	w.order("exit 7")
	const reason = "it ended with exit code 7 unexpectedly"
	l.ended(result{1, "the worker did not shut down in order: " + reason + "; see " + filepath.Join(l.config.Dir, "crash")})
	l.left(supervisor.Tombstone{Kind: supervisor.KindExit, Version: "1.0.0", ExitCode: 7, Reason: reason})
}

func TestRun_KillsTheWorkerOnTheSecondRequest(t *testing.T) {
	t.Parallel()
	kill := make(chan struct{})
	l := start(t, func(c *supervisor.Config) { c.Kill = kill })
	w := l.worker()
	l.stop()
	w.waitFor("done")
	close(kill)
	w.waitForEnd()
	l.ended(result{1, "the worker was ended at once; unfinished work is repeated at the next start"})
	l.left()
}

func TestOutput_IsForwardedAndItsEndKept(t *testing.T) {
	t.Parallel()
	l := start(t, func(c *supervisor.Config) {
		c.NoRestart = true
		c.Redact = func(s string) string { return strings.ReplaceAll(s, "hunter2", "(hidden)") }
	})
	w := l.worker()
	w.do("stderr 300000 hunter2")
	w.order("exit 7")
	w.waitForEnd()
	<-l.result
	all := strings.Repeat("x", 300000) + "hunter2"
	if got := l.stderr.String(); got != all {
		t.Errorf("%d bytes were handed on, ending in %q", len(got), got[max(0, len(got)-20):])
	}
	want := strings.Repeat("x", 64<<10-len("hunter2")) + "(hidden)"
	if got := l.tombstones()[0].Stderr; got != want {
		t.Errorf("%d bytes were kept, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}

func TestOutput_ForwardsLinesThatAreNotMessages(t *testing.T) {
	t.Parallel()
	l := start(t, nil)
	w := l.worker()
	w.do("stdout hello, world")
	w.do(`stdout {"half":`)
	w.do("ready")
	w.order("end 0")
	l.ended(result{})
	if got, want := l.stderr.String(), "hello,world{\"half\":\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := strings.Count(l.log.String(), "which is for messages only"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

func TestWorker_HasNoArgumentsOnItsCommandLine(t *testing.T) {
	t.Parallel()
	secret := []string{"--api-key", "secret with \"quotes\"\nand lines", strings.Repeat("long ", 50_000)}
	l := start(t, func(c *supervisor.Config) { c.WorkerArgs = secret })
	w := l.worker()
	if diff := cmp.Diff(secret, w.Start.Args); diff != "" {
		t.Errorf("the worker received (-want +got):\n%s", diff)
	}
	if len(w.Argv) != 2 || w.Argv[1] != "worker" {
		t.Errorf("the command line is %q", w.Argv)
	}
	w.order("end 0")
	l.ended(result{})
}

func TestRun_ReportsAProgramThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	missing, broken := filepath.Join(dir, "missing"), filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		missing: "start the worker: fork/exec " + missing + ": no such file or directory",
		broken:  "start the worker: fork/exec " + broken + ": exec format error",
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			l := start(t, func(c *supervisor.Config) { c.Executable = func() (string, error) { return path, nil } })
			l.ended(result{1, want})
			l.left()
		})
	}
}

func TestRun_DoesNotWaitForChildrenOfTheWorker(t *testing.T) {
	t.Parallel()
	l := start(t, nil)
	w := l.worker()
	w.do("leave")
	heir := l.worker() // which has the worker's output open
	w.order("end 0")
	l.ended(result{})
	if err := heir.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	heir.waitForEnd()
}

func TestRun_RefusesASecondParent(t *testing.T) {
	t.Parallel()
	first := start(t, nil)
	w := first.worker()
	second := start(t, func(c *supervisor.Config) { c.Dir = first.config.Dir })
	second.ended(
		result{
			1,
			"another eds server uses the data directory " + first.config.Dir + ": stop it first, or choose another " +
				"directory with --data-dir",
		},
	)
	w.order("end 0")
	first.ended(result{})
	third := start(t, func(c *supervisor.Config) { c.Dir = first.config.Dir })
	third.worker().order("end 0")
	third.ended(result{})
}

func TestTombstones_AreReadableByTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	l := start(t, once)
	l.worker().order("exit 7")
	<-l.result
	var modes []string
	err := filepath.WalkDir(filepath.Join(l.config.Dir, "crash"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		modes = append(modes, info.Mode().String())
		return err
	})
	if err != nil || !slices.Equal(modes, []string{"drwx------", "-rw-------", "-rw-------"}) {
		t.Errorf("%q, %v", modes, err)
	}
}
