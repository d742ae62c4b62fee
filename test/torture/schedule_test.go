package torture

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var someTables = []string{"customer", "order", "part"}

func TestGenerate_FollowsFromItsArguments(t *testing.T) {
	first := Generate(7, Kinds(), someTables)
	if diff := cmp.Diff(first, Generate(7, Kinds(), someTables)); diff != "" {
		t.Errorf("the same seed makes another schedule: %s", diff)
	}
	if other := Generate(8, Kinds(), someTables); slices.Equal(first, other) {
		t.Error("another seed makes the same schedule")
	}
}

func TestGenerate_WithoutKindsOnlyChecks(t *testing.T) {
	for _, step := range Generate(1, nil, someTables) {
		if step.Action != Check {
			t.Errorf("the schedule has the step %v", step)
		}
	}
}

func TestGenerate_MakesValidSchedules(t *testing.T) {
	needsNoServer := []Action{
		TrimUnapplied, OutgrowStream, RestoreData, LoseData, Import, ImportOnly, ImportMerge, ImportCompany,
		ImportKilled,
	}
	seen := make(map[Action]bool)
	for seed := range uint64(500) {
		s := Generate(seed, Kinds(), someTables)
		if s[0].Action != Check || s[len(s)-1].Action != Check {
			t.Fatalf("seed %d: it begins with %v and ends with %v", seed, s[0], s[len(s)-1])
		}
		running, copies, at := true, make(map[int]bool), uint64(0)
		for _, step := range s {
			seen[step.Action] = true
			if step.At < at {
				t.Errorf("seed %d: %v at %d comes behind %d", seed, step, step.At, at)
			}
			at = step.At
			switch step.Action {
			case Check:
				if !running {
					t.Errorf("seed %d: a check at %d while the server is down", seed, at)
				}
			case Stop, Kill, Start:
				if running == (step.Action == Start) {
					t.Errorf("seed %d: %v at %d while running is %v", seed, step, at, running)
				}
				running = step.Action == Start
			case CopyDestination, CopyData:
				copies[step.Copy] = true
			case RestoreDestination, RestoreData, FailOver:
				if !copies[step.Copy] {
					t.Errorf("seed %d: %v at %d, and there is no such copy", seed, step, at)
				}
			case DropTable, TruncateTable, ImportOnly:
				if !slices.Contains(someTables, step.Table) {
					t.Errorf("seed %d: %v at %d", seed, step, at)
				}
			}
			if running && slices.Contains(needsNoServer, step.Action) {
				t.Errorf("seed %d: %v at %d while the server runs", seed, step, at)
			}
		}
	}
	for _, a := range append(needsNoServer, KillWorker, KillParent, KillBoth, Stop, Kill, RestartNATS, FailOver, RestoreDestination,
		EmptyDestination, DropTable, TruncateTable, TrimApplied, RecreateStream, Evolve) {
		if !seen[a] {
			t.Errorf("no schedule has the action %q", a)
		}
	}
}

func TestGenerate_ChecksAfterEachFaultOfOneKind(t *testing.T) {
	kind, err := kindOf("empty")
	if err != nil {
		t.Fatal(err)
	}
	checks := 0
	for _, step := range Generate(3, []Kind{kind}, someTables) {
		if step.Action == Check {
			checks++
		}
	}
	if checks != 1+leastFaults {
		t.Errorf("%d checks, want one before the faults and one after each", checks)
	}
}

func TestNamed(t *testing.T) {
	if got, err := Named("kill-worker,import"); err != nil || Names(got) != "kill-worker,import" {
		t.Errorf("Named returned %s, %v", Names(got), err)
	}
	if _, err := Named("kill-worker,earthquake"); err == nil {
		t.Error("a kind that does not exist was found")
	}
}

func TestEnabled_LeavesKnownFaultsOut(t *testing.T) {
	seen := make(map[string]bool)
	for seed := range uint64(50) {
		enabled := Enabled("sqlite", seed)
		has := func(name string) bool {
			return slices.ContainsFunc(enabled, func(k Kind) bool { return k.Name == name })
		}
		for _, known := range knownOn("sqlite") {
			first, others, _ := strings.Cut(known.Apart, ",")
			for other := range strings.SplitSeq(others, ",") {
				if has(known.Kind) || has(first) && has(other) {
					t.Errorf("seed %d: %s, or %s and %s, are enabled", seed, known.Kind, first, other)
				}
			}
		}
		for _, k := range enabled {
			seen[k.Name] = true
		}
	}
	for _, k := range Kinds() {
		known := slices.ContainsFunc(knownOn("sqlite"), func(known KnownFault) bool { return known.Kind == k.Name })
		if seen[k.Name] == known {
			t.Errorf("%s: enabled by some seed %v, known to fail %v", k.Name, seen[k.Name], known)
		}
	}
}

func TestShare_DealsEveryEnabledKind(t *testing.T) {
	destinations := slices.Sorted(maps.Keys(Destinations()))
	for seed := range uint64(2) {
		dealt := make(map[string]int)
		for i, name := range destinations {
			has := make(map[string]bool)
			for _, k := range Share(destinations, i, seed) {
				has[k.Name] = true
				dealt[k.Name]++
			}
			if len(has) > mostFaults {
				t.Errorf("seed %d: %s has the %d kinds %v, too many for a round", seed, name, len(has), has)
			}
			for _, known := range knownOn(name) {
				first, others, _ := strings.Cut(known.Apart, ",")
				for other := range strings.SplitSeq(others, ",") {
					if has[known.Kind] || has[first] && has[other] {
						t.Errorf("seed %d: %s has %s, or %s and %s", seed, name, known.Kind, first, other)
					}
				}
			}
		}
		for _, k := range Kinds() {
			want := 0
			for _, name := range destinations {
				if !slices.ContainsFunc(knownOn(name), func(known KnownFault) bool { return known.Kind == k.Name }) {
					want = 1
				}
			}
			if dealt[k.Name] != want {
				t.Errorf("seed %d: %s was dealt %d times, want %d", seed, k.Name, dealt[k.Name], want)
			}
		}
	}
}

func TestKnownFaults_NameAKindOnceEach(t *testing.T) {
	for name := range Destinations() {
		seen := make(map[string]bool)
		for _, k := range knownOn(name) {
			if _, err := Named(k.Kind); err != nil {
				t.Error(err)
			}
			if k.Apart != "" {
				if _, err := Named(k.Apart); err != nil {
					t.Error(err)
				}
			}
			if k.Symptom == "" || k.Needs == "" || seen[k.Kind] {
				t.Errorf("%+v lacks something, or is there twice", k)
			}
			seen[k.Kind] = true
		}
	}
	for _, k := range KnownFaults() {
		if k.On != "" && Destinations()[k.On] == nil {
			t.Errorf("%+v is on no destination", k)
		}
	}
}
