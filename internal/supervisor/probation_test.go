package supervisor

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// good and failed are notes to workers about an upgrade.
func good() Note { return Note{Upgrade: &Upgraded{Version: "2"}} }

func failed(reason string) Note {
	return Note{Upgrade: &Upgraded{Version: "2", Failed: true, Reason: reason}}
}

const ended7 = "it ended with exit code 7 unexpectedly"

func TestUpgrade_ReachesItsOutcome(t *testing.T) {
	lives := func(healthy time.Duration, then script) script {
		return func(a *actor) exit {
			a.ready()
			a.live(healthy)
			return then(a)
		}
	}
	says := func(code int) script { return func(a *actor) exit { return a.end(code) } }
	never := func(a *actor) exit { a.live(time.Minute); a.expect("quit"); return exit{code: 2} }
	slow := func(a *actor) exit { a.live(59 * time.Second); a.ready(); a.live(time.Hour); return a.end(CodeOK) }
	starts := func(path string, note Note) started { return started{Path: path, Note: note} }
	first := starts("old", Note{})

	tests := map[string]struct {
		scripts []script
		calls   []string
		starts  []started
		fails   map[string]error
	}{
		"one that is good": {
			scripts: []script{asksForUpgrade, slow},
			calls:   []string{"swap", "commit"},
			starts:  []started{first, starts("new", good())},
		},
		"one that crashes at its start": {
			scripts: []script{asksForUpgrade, crash, fine},
			calls:   []string{"swap", "rollback", "commit"},
			starts:  []started{first, starts("new", good()), starts("old", failed(ended7))},
		},
		"one that crashes after it was ready": {
			scripts: []script{asksForUpgrade, lives(5*time.Minute-time.Second, crash), fine},
			calls:   []string{"swap", "rollback", "commit"},
			starts:  []started{first, starts("new", good()), starts("old", failed(ended7))},
		},
		"one that crashes after it has proved itself": {
			scripts: []script{asksForUpgrade, lives(5*time.Minute+time.Second, crash), fine},
			calls:   []string{"swap", "commit"},
			starts:  []started{first, starts("new", good()), starts("new", Note{})},
		},
		"one that is never ready": {
			scripts: []script{asksForUpgrade, never, fine},
			calls:   []string{"swap", "rollback", "commit"},
			starts:  []started{first, starts("new", good()), starts("old", failed("it was not ready within 1m0s"))},
		},
		"one that can't be started": {
			scripts: []script{asksForUpgrade, nil, fine},
			calls:   []string{"swap", "rollback", "commit"},
			starts:  []started{first, starts("new", good()), starts("old", failed("it cannot be started: it is not there"))},
		},
		"one that refuses its arguments": {
			scripts: []script{asksForUpgrade, says(CodeUsage), fine},
			calls:   []string{"swap", "rollback", "commit"},
			starts:  []started{first, starts("new", good()), starts("old", failed("it ended with exit code 3: as it likes"))},
		},
		"one that asks for restarts only": {
			scripts: []script{asksForUpgrade, says(CodeRestart), fine},
			calls:   []string{"swap", "rollback", "commit"},
			starts:  []started{first, starts("new", good()), starts("old", failed("it ended with exit code 4: as it likes"))},
		},
		"one that asks for a restart once it is ready": {
			scripts: []script{asksForUpgrade, lives(0, says(CodeRestart)), slow},
			calls:   []string{"swap", "commit"},
			starts:  []started{first, starts("new", good()), starts("new", Note{})},
		},
		"one that can't be put in place": {
			scripts: []script{asksForUpgrade, fine},
			calls:   []string{"swap"},
			starts:  []started{first, starts("old", failed("swap the binary: the disk is full"))},
			fails:   map[string]error{"swap": errors.New("the disk is full")},
		},
		"one for which the worker does not end in order": {
			scripts: []script{func(a *actor) exit {
				a.say(workerMessage{Type: typeUpgrade, Version: "2", Staged: "new"})
				return exit{code: 7}
			}, fine},
			starts: []started{first, starts("old", failed("the worker that requested it crashed: "+ended7))},
		},
		"one during the probation of another": {
			scripts: []script{asksForUpgrade, asksForUpgrade, slow},
			calls:   []string{"swap", "commit"},
			starts:  []started{first, starts("new", good()), starts("new", failed("version 2 is still on probation; try again in 5m0s"))},
		},
		"one that crashes with another in mind": {
			scripts: []script{asksForUpgrade, func(a *actor) exit {
				a.say(workerMessage{Type: typeUpgrade, Version: "3", Staged: "newer"})
				return exit{code: 7}
			}, fine},
			calls:  []string{"swap", "rollback", "commit"},
			starts: []started{first, starts("new", good()), starts("old", failed(ended7))},
		},
		"one whose success can't be recorded": {
			scripts: []script{asksForUpgrade, slow},
			calls:   []string{"swap", "commit"},
			starts:  []started{first, starts("new", good())},
			fails:   map[string]error{"commit": errors.New("the disk is full")},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			play(t, test.scripts, func(s *stage) {
				s.binary.fails = test.fails
				if code, err := s.run(); code != CodeOK || err != "" {
					t.Errorf("%d, %q", code, err)
				}
				for i := range s.starts {
					s.starts[i].After = 0
				}
				if diff := cmp.Diff(test.starts, s.starts); diff != "" {
					t.Errorf("starts (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.calls, s.binary.calls); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestUpgrade_FailureDoesNotCountAsACrash(t *testing.T) {
	crashes := repeat(5, crash)
	play(t, append(crashes, asksForUpgrade, crash, fine), func(s *stage) {
		if code, err := s.run(); code != CodeOK || err != "" || s.starts[6].After != s.starts[7].After {
			t.Errorf("%d, %q, starts %v", code, err, s.starts)
		}
	})
}

func TestTombstone_NamesTheVersionThatCrashed(t *testing.T) {
	play(t, []script{crash, asksForUpgrade, crash, crash, fine}, func(s *stage) {
		_, _ = s.run()
		stones, err := Tombstones(s.config.Dir)
		var versions []string
		for _, stone := range stones {
			versions = append(versions, stone.Version)
		}
		if diff := cmp.Diff([]string{"1", "2", "1"}, versions); diff != "" || err != nil {
			t.Errorf("%s, %v", diff, err)
		}
	})
}

func TestProbation_SurvivesAPowerCut(t *testing.T) {
	cut := func(s *stage) {
		s.binary.before, s.binary.path, s.binary.standing = "old", "new", &Upgraded{Version: "2", Before: "1"}
	}
	t.Run("good", func(t *testing.T) {
		lasts := func(a *actor) exit { a.ready(); a.live(time.Hour); return a.end(CodeOK) }
		play(t, []script{lasts}, func(s *stage) {
			cut(s)
			code, err := s.run()
			if diff := cmp.Diff([]string{"commit"}, s.binary.calls); code != CodeOK || err != "" || diff != "" {
				t.Errorf("%d, %q, calls %s", code, err, diff)
			}
			if diff := cmp.Diff([]started{{Path: "new", Note: good()}}, s.starts); diff != "" {
				t.Error(diff)
			}
		})
	})
	for name, fails := range map[string]script{"a crash": crash, "no start": nil} {
		t.Run(name, func(t *testing.T) {
			play(t, []script{fails, fine}, func(s *stage) {
				cut(s)
				code, err := s.run()
				if diff := cmp.Diff([]string{"rollback", "commit"}, s.binary.calls); code != CodeOK || err != "" || diff != "" {
					t.Errorf("%d, %q, calls %s", code, err, diff)
				}
				if s.starts[1].Path != "old" || !s.starts[1].Note.Upgrade.Failed {
					t.Errorf("then it started %+v", s.starts[1])
				}
			})
		})
	}
}

func TestUpgrade_FailureIsRepeatedUntilAWorkerIsReady(t *testing.T) {
	play(t, []script{crash, fine}, func(s *stage) {
		// The power was cut after the old binary was restored, and before that was reported.
		s.binary.standing = &Upgraded{Version: "2", Failed: true, Reason: "it failed"}
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
		for i := range s.starts {
			s.starts[i].After = 0
		}
		first := started{Path: "old", Note: failed("it failed")}
		if diff := cmp.Diff([]started{first, first}, s.starts); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"commit"}, s.binary.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

func TestUpgrade_UnreportedFailureStaysOnDisk(t *testing.T) {
	play(t, []script{asksForUpgrade, crash, func(a *actor) exit { return a.end(CodeError) }}, func(s *stage) {
		code, err := s.run()
		if code != CodeError || err != "" || s.binary.standing == nil || s.binary.standing.Reason != ended7 {
			t.Errorf("%d, %q, it stands at %+v", code, err, s.binary.standing)
		}
	})
}

func TestProbation_EndsIfTheOperatorAccepts(t *testing.T) {
	var binary *swapper
	accepted := func(*actor) exit {
		binary.standing = nil
		return exit{code: 7}
	}
	play(t, []script{asksForUpgrade, accepted, crash, fine}, func(s *stage) {
		binary = s.binary
		binary.fails = map[string]error{"rollback": ErrSettled}
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
		var paths []string
		for _, start := range s.starts {
			paths = append(paths, start.Path)
		}
		if diff := cmp.Diff([]string{"old", "new", "new", "new"}, paths); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"swap", "rollback"}, s.binary.calls); diff != "" {
			t.Error(diff)
		}
	})
}

func TestProbation_StartsAfterAnUnannouncedSwap(t *testing.T) {
	var binary *swapper
	exchanges := func(*actor) exit {
		binary.before, binary.path, binary.standing = "old", "new", &Upgraded{Version: "2", Before: "1"}
		return exit{code: 7}
	}
	play(t, []script{exchanges, crash, fine}, func(s *stage) {
		binary = s.binary
		if code, err := s.run(); code != CodeOK || err != "" {
			t.Errorf("%d, %q", code, err)
		}
		for i := range s.starts {
			s.starts[i].After = 0
		}
		want := []started{{Path: "old"}, {Path: "new", Note: good()}, {Path: "old", Note: failed(ended7)}}
		if diff := cmp.Diff(want, s.starts); diff != "" {
			t.Errorf("starts (-want +got):\n%s", diff)
		}
		stones, err := Tombstones(s.config.Dir)
		if err != nil || len(stones) != 2 || stones[0].Version != "1" || stones[1].Version != "2" {
			t.Errorf("%+v, %v", stones, err)
		}
	})
}

func TestProbation_StaysOpenAfterAShutdown(t *testing.T) {
	for name, test := range map[string]struct {
		last exit
		code int
	}{
		"in order":   {exit{code: CodeOK}, CodeOK},
		"in a crash": {exit{code: 7}, CodeError},
	} {
		t.Run(name, func(t *testing.T) {
			drains := func(a *actor) exit {
				a.stop()
				a.expect("stop")
				a.live(time.Hour) // longer than it would be given to be ready
				return test.last
			}
			play(t, []script{asksForUpgrade, drains}, func(s *stage) {
				if code, err := s.run(); code != test.code {
					t.Errorf("%d, %q", code, err)
				}
				if diff := cmp.Diff([]string{"swap"}, s.binary.calls); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestProbation_ContinuesIfTheRollbackFails(t *testing.T) {
	play(t, append([]script{asksForUpgrade}, repeat(6, crash)...), func(s *stage) {
		s.binary.fails = map[string]error{"rollback": errors.New("read-only file system")}
		code, err := s.run()
		if code != CodeError || !strings.HasPrefix(err, gaveUp) {
			t.Errorf("%d, %q", code, err)
		}
		if want := []string{"swap", "rollback", "rollback", "rollback", "rollback", "rollback", "rollback"}; !cmp.Equal(
			want,
			s.binary.calls,
		) {
			t.Errorf("calls %q", s.binary.calls)
		}
	})
}

func TestProbation_RollsBackDespiteNoRestart(t *testing.T) {
	play(t, []script{asksForUpgrade, crash}, func(s *stage) {
		s.config.NoRestart = true
		code, err := s.run()
		want := "the upgraded worker failed, the old binary is restored, and --no-restart is set: " + ended7 + "; see " + filepath.Join(
			s.config.Dir,
			"crash",
		)
		if code != CodeError || err != want || s.binary.path != "old" {
			t.Errorf("%d, %q, %s", code, err, s.binary.path)
		}
	})
}
