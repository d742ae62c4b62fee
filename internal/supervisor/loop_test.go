package supervisor

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func repeat(n int, s script) []script { return slices.Repeat([]script{s}, n) }

const gaveUp = "the worker crashed 6 times without 10m0s of health in between, the last time because it ended with exit code 7 " +
	"unexpectedly; see the newest file in "

func TestRun_GivesUpAfterTheSixthCrash(t *testing.T) {
	play(t, repeat(6, crash), func(s *stage) {
		code, err := s.run()
		if code != CodeError || !strings.HasPrefix(err, gaveUp+filepath.Join(s.config.Dir, "crash")) {
			t.Errorf("%d, %q", code, err)
		}
		least := time.Second / 2
		for i := range s.starts[1:] {
			wait := s.starts[i+1].After - s.starts[i].After
			if wait < least || wait > 2*least {
				t.Errorf("it waited %s before restart %d, want %s to %s", wait, i+1, least, 2*least)
			}
			least *= 2
		}
		if stones, err := Tombstones(s.config.Dir); err != nil || len(stones) != 6 {
			t.Errorf("%d tombstones, %v", len(stones), err)
		}
	})
}

func TestRun_BoundsItsWaits(t *testing.T) {
	play(t, repeat(31, crash), func(s *stage) {
		s.config.Limits.Crashes = 30
		_, _ = s.run()
		if longest := s.starts[30].After - s.starts[29].After; longest < 30*time.Second || longest > time.Minute {
			t.Errorf("the last wait was %s", longest)
		}
	})
}

func TestRun_ForgetsCrashesAfterTenHealthyMinutes(t *testing.T) {
	lasts := func(healthy time.Duration) script {
		return func(a *actor) exit {
			a.live(time.Hour) // which is not health
			a.ready()
			a.live(healthy)
			return exit{code: 7}
		}
	}
	t.Run("ten", func(t *testing.T) {
		play(t, slices.Concat(repeat(5, crash), repeat(1, lasts(10*time.Minute)), repeat(5, crash)), func(s *stage) {
			if code, err := s.run(); code != CodeError || !strings.HasPrefix(err, gaveUp) {
				t.Errorf("%d, %q", code, err)
			}
			if wait := s.starts[6].After - s.starts[5].After - time.Hour - 10*time.Minute; wait > time.Second {
				t.Errorf("after them it waited %s", wait)
			}
		})
	})
	t.Run("less", func(t *testing.T) {
		play(t, slices.Concat(repeat(5, crash), repeat(1, lasts(10*time.Minute-time.Second))), func(s *stage) {
			if code, err := s.run(); code != CodeError || !strings.HasPrefix(err, gaveUp) {
				t.Errorf("%d, %q", code, err)
			}
		})
	})
}

func TestRun_RestartsAtOnceOnRequest(t *testing.T) {
	restart := func(a *actor) exit {
		a.ready()
		return a.end(CodeRestart)
	}
	play(t, slices.Concat(repeat(20, restart), repeat(1, fine)), func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" || s.starts[20].After != 0 {
			t.Errorf("%d, %q, the last start after %s", code, err, s.starts[20].After)
		}
	})
}

func TestRun_SlowsDownAWorkerThatOnlyRequestsRestarts(t *testing.T) {
	restart := func(a *actor) exit { return a.end(CodeRestart) }
	play(t, slices.Concat(repeat(20, restart), repeat(1, fine)), func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" || s.starts[20].After < 7*time.Minute {
			t.Errorf("%d, %q, the last start after %s", code, err, s.starts[20].After)
		}
	})
}

func TestRun_IgnoresARestartDuringAShutdown(t *testing.T) {
	drains := func(a *actor) exit {
		a.ready()
		a.stop()
		a.expect("stop")
		a.say(workerMessage{Type: typeExiting, Code: CodeRestart})
		return exit{code: CodeRestart}
	}
	play(t, []script{drains}, func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
	})
}

func TestRun_StartsNothingAfterAShutdownRequest(t *testing.T) {
	asks := map[string]func(s *stage){
		"in order": func(s *stage) { time.AfterFunc(time.Minute, s.stop) },
		"at once": func(s *stage) {
			kill := make(chan struct{})
			s.config.Kill = kill
			time.AfterFunc(time.Minute, func() { close(kill) })
		},
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			play(t, []script{crash}, func(s *stage) {
				s.config.Limits.BackoffMin, s.config.Limits.BackoffMax = time.Hour, time.Hour
				ask(s)
				if code, err := s.run(); code != CodeOK || err != "" {
					t.Errorf("%d, %q", code, err)
				}
			})
		})
	}
}

func TestRun_AcceptsABeatEachMinute(t *testing.T) {
	slow := func(a *actor) exit {
		a.ready()
		for range 100 {
			a.silent(time.Minute + 59*time.Second)
			a.say(workerMessage{Type: "of a later version"})
		}
		return a.end(CodeOK)
	}
	play(t, []script{slow}, func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
	})
}

func TestRun_DumpsThenKillsAHangingWorker(t *testing.T) {
	var asked []time.Duration
	hangs := func(a *actor) exit {
		a.ready()
		since := time.Now()
		for _, what := range []string{"quit", "kill"} {
			a.expect(what)
			asked = append(asked, time.Since(since))
			since = time.Now()
		}
		return exit{code: -1, signal: "SIGKILL", stderr: "goroutine 1"}
	}
	play(t, []script{hangs, fine}, func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
		if asked[0] < 2*time.Minute || asked[0] > 2*time.Minute+15*time.Second || asked[1] != 10*time.Second {
			t.Errorf("asked after %s", asked)
		}
		stones, err := Tombstones(s.config.Dir)
		if err != nil || len(stones) != 1 || stones[0].Kind != KindHang || stones[0].Stderr != "goroutine 1" ||
			stones[0].Signal != "SIGKILL" {
			t.Errorf("%+v, %v", stones, err)
		}
	})
}

func TestRun_EndsAShutdownThatHangs(t *testing.T) {
	hangs := func(a *actor) exit {
		a.stop()
		a.expect("stop")
		a.live(time.Hour)
		a.expect("quit")
		return exit{code: 2}
	}
	play(t, []script{hangs}, func(s *stage) {
		code, err := s.run()
		if want := "the worker did not shut down in order: it gave no sign of life for " +
			"2m0s; see " + filepath.Join(s.config.Dir, "crash"); code != CodeError ||
			err != want {
			t.Errorf("%d, %q", code, err)
		}
	})
}

func TestRun_IgnoresTimeInWhichTheParentDidNotRun(t *testing.T) {
	works := func(a *actor) exit {
		a.ready()
		a.live(time.Minute) // the parent hears of it an hour later
		return a.end(CodeOK)
	}
	play(t, []script{works}, func(s *stage) {
		s.config.Logger = slog.New(stalled{message: "the worker is ready"})
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
	})
}

func TestRun_WaitsForAMissingProgram(t *testing.T) {
	play(t, []script{crash, nil, nil, fine}, func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
		if stones, err := Tombstones(s.config.Dir); err != nil || len(stones) != 1 {
			t.Errorf("%d tombstones, %v", len(stones), err)
		}
	})
	play(t, []script{crash, nil, nil, nil, nil, nil}, func(s *stage) {
		code, err := s.run()
		if code != CodeError || !strings.Contains(err, "6 times") ||
			!strings.Contains(err, "the last time because it cannot be started: it is not there;") {
			t.Errorf("%d, %q", code, err)
		}
	})
}

func TestNote_IsSentOnce(t *testing.T) {
	note := Note{Upgrade: &Upgraded{Version: "2", Failed: true, Reason: "this server cannot replace its own binary"}}
	play(t, []script{asksForUpgrade, crash, func(a *actor) exit { a.ready(); return exit{code: 7} }, fine}, func(s *stage) {
		s.config.Upgrader = nil
		_, _ = s.run()
		var received []Note
		for _, start := range s.starts {
			received = append(received, start.Note)
		}
		if diff := cmp.Diff([]Note{{}, note, note, {}}, received); diff != "" {
			t.Errorf("the workers received (-want +got):\n%s", diff)
		}
	})
}
