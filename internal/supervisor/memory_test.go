package supervisor

import "testing"

func TestMemoryKills_AreCounted(t *testing.T) {
	for text, want := range map[string]int64{
		"":                                       0,
		"drop_slab 1\noom_kill 17\nnuma_hit 2\n": 17,
		"oom_killer 17\n":                        0,
		"oom_kill many\n":                        0,
	} {
		if got := memoryKillsIn([]byte(text)); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

func TestEnding_NamesMemoryIfItRanOut(t *testing.T) {
	killed := func(starved bool) script {
		return func(*actor) exit { return exit{code: -1, signal: "SIGKILL", starved: starved} }
	}
	play(t, []script{killed(true), killed(false), fine}, func(s *stage) {
		_, _ = s.run()
		stones, err := Tombstones(s.config.Dir)
		if err != nil || len(stones) != 2 {
			t.Fatal(stones, err)
		}
		for i, want := range []string{
			"it was killed (SIGKILL) while memory ran out: give it more memory, or find the process that uses it",
			"it was killed (SIGKILL), as the system does when memory runs out: see the system's log",
		} {
			if stones[i].Kind != KindKilled || stones[i].Reason != want {
				t.Errorf("%s: %s, want %s", stones[i].Kind, stones[i].Reason, want)
			}
		}
	})
}
