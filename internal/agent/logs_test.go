package agent

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// withLog gives the agent a log file in dir, until the test ends.
func (b *bench) withLog(dir string) {
	b.t.Helper()
	log, err := telemetry.OpenLogFile(telemetry.LogFileOptions{Dir: dir, Name: "eds"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := log.Close(); err != nil {
			b.t.Error(err)
		}
	})
	b.config.Log = log
	b.write()
}

// write writes a line to the log, in a file of its own time.
func (b *bench) write() {
	b.t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	if _, err := b.config.Log.Write([]byte("{}\n")); err != nil {
		b.t.Fatal(err)
	}
}

// logFiles returns the number of finished log files in dir that were sent and were not.
func logFiles(t *testing.T, dir string) (sent, unsent int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch {
		case strings.Contains(e.Name(), ".sent-"):
			sent++
		case e.Name() != "eds.log":
			unsent++
		}
	}
	return sent, unsent
}

func TestLogs_AreSentHourlyOnCommandAndAtTheEnd(t *testing.T) {
	for name, keep := range map[string]bool{"and removed": false, "and kept": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				dir := t.TempDir()
				b.config.Options.KeepLogs = keep
				b.withLog(dir)
				b.begin()
				b.expect(t)
				time.Sleep(logInterval + time.Second)
				synctest.Wait()
				events := b.take()
				if diff := cmp.Diff([]string{"upload log/s1"}, events); diff != "" {
					t.Error(diff)
				}
				b.write()
				b.send("sendlogs", ``)
				b.expect(t, "upload log/s1", "s1: respond sendlogs {/log/s1 s1}")
				b.write()
				b.end(nil)
				b.expect(t, "s1: close the channel", "s1: disconnect", "end s1, errored: false", "upload last/s1")
				want := 0
				if keep {
					want = 3
				}
				if sent, unsent := logFiles(t, dir); sent != want || unsent != 0 {
					t.Errorf("%d sent files and %d others, want %d sent", sent, unsent, want)
				}
			})
		})
	}
}

func TestLogs_AreKeptIfTheyCannotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		dir := t.TempDir()
		b.hq.uploadErr = errors.New("the storage is full")
		b.withLog(dir)
		b.begin()
		time.Sleep(logInterval + time.Second)
		synctest.Wait()
		b.write()
		b.end(nil)
		if sent, unsent := logFiles(t, dir); sent != 0 || unsent != 2 {
			t.Errorf("%d sent files and %d others", sent, unsent)
		}
		if !b.log.has("logs could not be sent to hq") || !b.log.has("the log of the session could not be sent") {
			t.Errorf("the log: %q", b.log.all)
		}
	})
}

func TestLogs_StayIfHQDoesNotEndTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hq.endErr = func(string) error { return errors.New("no route to host") }
		b.begin()
		b.end(nil)
		if !b.log.has("hq does not know yet that the session ended") {
			t.Errorf("the log: %q", b.log.all)
		}
	})
}

// TestCrashes_AreReportedUntilHQKnowsThem: HQ has forgotten the session of the second one,
// and the third one left none. The first report of the first one fails.
func TestCrashes_AreReportedUntilHQKnowsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		down := true
		b.hq.endErr = func(session string) error {
			switch {
			case session == "old" && down:
				down = false
				return errors.New("no route to host")
			case session == "forgotten":
				return &hq.Error{Operation: "end the session", Status: http.StatusNotFound}
			}
			return nil
		}
		crash := func(session string) Crash {
			return Crash{Session: session, Kind: "panic", Stderr: "panic: nil map", Forget: func() error {
				b.add("forget the crash of %q", session)
				return nil
			}}
		}
		b.config.Crashes = []Crash{crash("old"), crash("forgotten"), crash("")}
		b.run()
		b.expect(t,
			"end old, errored: true", "start s1",
			"end old, errored: true", "upload crash/old", `forget the crash of "old"`,
			"end forgotten, errored: true", "upload log/s1", `forget the crash of "forgotten"`,
			"upload log/s1", `forget the crash of ""`,
			"follow eds-dev [dbchange.*.*.*.*.PUBLIC.>]")
		b.end(nil)
	})
}

func TestCrashes_StayPendingIfTheUploadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.hq.uploadErr = errors.New("the storage is full")
		b.config.Crashes = []Crash{{Kind: "panic", Stderr: "x"}}
		b.begin()
		if len(b.agent.crashes.pending) != 1 || !b.log.has("a crash could not be reported to hq") {
			t.Errorf("%d crashes are pending; the log: %q", len(b.agent.crashes.pending), b.log.all)
		}
		b.end(nil)
	})
}
