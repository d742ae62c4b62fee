package agent

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/continuity"
	"github.com/shopmonkeyus/eds/internal/fault"
)

var errBroken = errors.New("it is broken")

func TestCommands_AreAnsweredAndCounted(t *testing.T) {
	for name, c := range map[string]struct {
		action, data string
		failed       error // of the reconciler
		want         []string
		result       string
	}{
		"ping":            {"ping", `{"subject":"inbox"}`, nil, []string{"s1: pong inbox"}, resultDone},
		"ping to nowhere": {"ping", `{}`, nil, nil, resultFailed},
		"malformed ping":  {"ping", `{"subject":1}`, nil, nil, resultFailed},
		"pause":           {"pause", ``, nil, []string{"pause true", "s1: respond pause {true  s1 pause }"}, resultDone},
		"unpause": {
			"unpause", ``, errBroken,
			[]string{"pause false", "s1: respond unpause {false it is broken s1 unpause }"},
			resultFailed,
		},
		"import": {
			"import", `{"backfill":1}`, nil,
			[]string{"import, schema only: false", "s1: acknowledge import"},
			resultDone,
		},
		"import of schemas": {"import", ``, nil, []string{"import, schema only: true", "s1: acknowledge import"}, resultDone},
		"denied import": {
			"import", ``, errBroken,
			[]string{"import, schema only: true", "s1: respond import {false it is broken s1  }"},
			resultFailed,
		},
		"malformed shutdown": {"shutdown", `{"deleted":"maybe"}`, nil, nil, resultFailed},
		"logs":               {"sendlogs", ``, nil, []string{"s1: respond sendlogs { s1}"}, resultFailed},
		"drivers":            {"driverconfig", ``, nil, []string{"s1: reply driverconfig"}, resultDone},
		"unnamed upgrade": {
			"upgrade", `{}`, nil,
			[]string{"s1: acknowledge upgrade", "s1: respond upgrade {false the command names no version s1  }"},
			resultFailed,
		},
		"upgrade without a parent": {
			"upgrade", `{"version":"2"}`, nil,
			[]string{"s1: acknowledge upgrade", "s1: respond upgrade {false " + errNoParent.Error() + " s1  2}"},
			resultFailed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.reconciler.failed = c.failed
				b.begin()
				b.send(c.action, c.data)
				b.expect(t, c.want...)
				if n := testutil.ToFloat64(b.agent.commands.WithLabelValues(c.action, c.result)); n != 1 {
					t.Errorf("counted %v times as %s", n, c.result)
				}
				b.end(nil)
			})
		})
	}
}

func TestCommands_UnknownOnesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.begin()
		b.send("dance", ``)
		b.expect(t)
		if n := testutil.ToFloat64(b.agent.commands.WithLabelValues("", resultUnknown)); n != 1 {
			t.Errorf("counted %v times", n)
		}
		b.end(nil)
	})
}

// TestCommands_RestartBeginsAnotherSession: a gap does not end the agent then.
func TestCommands_RestartBeginsAnotherSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		missing := fault.Mark(fault.Fatal, &continuity.GapError{})
		b.reconciler.run = func(due, _ context.Context) (gap, err error) {
			<-due.Done()
			return missing, context.Cause(due)
		}
		b.begin()
		b.send("restart", ``)
		b.expect(t, "s1: acknowledge restart", "s1: respond restart {true  s1 restart }", "s1: close the channel", "s1: disconnect",
			"end s1, errored: false", "start s2", "follow eds-dev [dbchange.*.*.*.*.PUBLIC.>]")
		b.end(missing)
	})
}

func TestCommands_ShutdownEndsTheAgent(t *testing.T) {
	for data, id := range map[string]string{`{"message":"bye"}`: "s", `{"message":"bye","deleted":"true"}`: ""} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			if err := config.Update(b.file(), func(f *config.File) { f.ServerID = "s" }); err != nil {
				t.Fatal(err)
			}
			b.begin()
			b.send("shutdown", data)
			b.expectEnd(nil)
			b.expect(t, "s1: close the channel", "s1: disconnect", "end s1, errored: false")
			if f, _, err := config.ReadFile(b.file()); err != nil || f.ServerID != id {
				t.Errorf("%s: the server id is %q, %v", data, f.ServerID, err)
			}
		})
	}
}

func TestCommands_UpgradeReplacesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		failed := errBroken
		b.config.Upgrade = func(_ context.Context, version string) error {
			b.add("upgrade to %s", version)
			return failed
		}
		b.begin()
		b.send("upgrade", `{"version":"2"}`)
		b.expect(t, "s1: acknowledge upgrade", "upgrade to 2", "s1: respond upgrade {false it is broken s1  2}")
		failed = nil
		b.conn.broken.Store(true)
		b.send("upgrade", `{"version":"2"}`) // HQ does not receive the acknowledgement
		b.expect(t, "s1: acknowledge upgrade", "s1: respond upgrade {false connection closed s1  2}")
		b.conn.broken.Store(false)
		b.send("upgrade", `{"version":"3"}`)
		b.expectEnd(ErrReplaced)
		b.expect(t, "s1: acknowledge upgrade", "upgrade to 3", "s1: respond upgrade {true  s1  3}",
			"s1: close the channel", "s1: disconnect", "end s1, errored: false")
	})
}

func TestCommands_ReportAFailedUpgradeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.FailedUpgrade = &FailedUpgrade{Version: "2", Reason: "it crashed"}
		b.run()
		count := 0
		for _, event := range b.take() {
			if event == "s1: respond upgrade {false version 2 was taken back: it crashed s1  2}" {
				count++
			}
		}
		b.send("restart", ``)
		for _, event := range b.take() {
			if strings.Contains(event, "respond upgrade") {
				count++
			}
		}
		if count != 1 {
			t.Errorf("reported %d times", count)
		}
		b.end(nil)
	})
}

// TestCommands_ConfigureSwitchesTheDestination: validate makes the URL of a form, which
// configure then saves.
func TestCommands_ConfigureSwitchesTheDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Options.URLGiven = true
		b.begin()
		dir := t.TempDir()
		b.send("validate", `{"driver":"file","config":{"Directory":"`+dir+`"}}`)
		v, ok := b.conn.replies[0].(validation)
		if !ok || !v.Success {
			t.Fatalf("the reply is %+v", b.conn.replies[0])
		}
		b.send("configure", `{"url":"`+v.URL+`","backfill":true}`)
		want := configured{Success: true, MaskedURL: v.URL, SessionID: "s1", Backfill: true}
		if diff := cmp.Diff(any(want), b.conn.replies[1]); diff != "" {
			t.Error(diff)
		}
		b.expect(t, "s1: reply validate", "set the destination file", "s1: reply configure")
		if f, _, err := config.ReadFile(b.file()); err != nil || f.URL.Reveal() != v.URL {
			t.Errorf("%q is saved, %v", f.URL.Reveal(), err)
		}
		if !b.log.has("the next start takes the destination of --url again") {
			t.Errorf("the log: %q", b.log.all)
		}
		b.end(nil)
	})
}

func TestCommands_ConfigureSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ data, message string }{
		"no data":         {`[]`, "malformed"},
		"no url":          {`{"url":" "}`, "there is no url"},
		"update strategy": {`{"url":"file:///tmp/x","updateStrategy":"sometimes"}`, "the update strategy must be"},
		"driver":          {`{"url":"gopher://x"}`, "gopher"},
		"test":            {`{"url":"file:///tmp/x"}`, errBroken.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.reconciler.failed = errBroken
				b.begin()
				b.send("configure", c.data)
				if r := b.conn.replies[0].(configured); r.Success || !strings.Contains(r.Message, c.message) {
					t.Errorf("the reply is %+v, want %q", r, c.message)
				}
				b.end(nil)
			})
		})
	}
}

func TestCommands_ValidateSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ data, message string }{
		"no data": {`[]`, "malformed"},
		"driver":  {`{"driver":"gopher"}`, "gopher"},
		"object":  {`{"driver":"file","config":{"Directory":{}}}`, "some fields have to be corrected"},
		"missing": {`{"driver":"postgres","config":{"Port":true}}`, "some fields have to be corrected"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.begin()
				b.send("validate", c.data)
				v := b.conn.replies[0].(validation)
				if v.Success || v.URL != "" || !strings.Contains(v.Message, c.message) || v.Messsage != v.Message {
					t.Errorf("the reply is %+v, want %q", v, c.message)
				}
				b.end(nil)
			})
		})
	}
}

func TestFieldText_TakesScalars(t *testing.T) {
	for raw, want := range map[string]string{
		``: "", `null`: "", `"a"`: "a", `true`: "true", `12`: "12", `1.5`: "1.5",
		`{}`: "invalid", `[]`: "invalid", `"a`: "invalid", `nope`: "invalid",
	} {
		got, ok := fieldText(json.RawMessage(raw))
		if !ok {
			got = "invalid"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

// TestCommands_SlowOnesDoNotHoldUpOthers: an upgrade runs while a ping is answered.
func TestCommands_SlowOnesDoNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.config.Upgrade = func(ctx context.Context, _ string) error {
			time.Sleep(time.Minute)
			synctest.Wait()
			return errBroken
		}
		b.begin()
		b.send("upgrade", `{"version":"2"}`)
		b.send("ping", `{"subject":"inbox"}`)
		b.expect(t, "s1: acknowledge upgrade", "s1: pong inbox")
		b.end(nil)
	})
}
