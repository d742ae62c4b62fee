package torture

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Kind is a kind of fault, or a kind of work by an operator.
type Kind struct {
	Name string
	plan func(*planner) // adds the steps of the kind to the schedule
}

// Kinds returns all kinds. Do not reorder them, because the schedule of a seed depends on the
// order.
func Kinds() []Kind {
	now := func(a Action) func(*planner) {
		return func(p *planner) { p.do(Step{Action: a}) }
	}
	upOrDown := func(a Action) func(*planner) {
		return func(p *planner) { p.upOrDown(Step{Action: a}) }
	}
	down := func(a Action) func(*planner) {
		return func(p *planner) { p.down(Step{Action: a}) }
	}
	trim := func(p *planner) Step { return Step{Action: TrimUnapplied, N: p.Uint64N(10)} }
	outgrow := func(p *planner) Step { return Step{Action: OutgrowStream, N: 50 + p.Uint64N(250)} }
	return []Kind{
		{"kill-worker", now(KillWorker)},
		{"kill-parent", now(KillParent)},
		{"kill-both", now(KillBoth)},
		{"restart-nats", func(p *planner) { p.do(Step{Action: RestartNATS, N: p.Uint64N(2000)}) }},
		{"evolve", now(Evolve)},

		{"restore", func(p *planner) { p.down(Step{Action: RestoreDestination, Copy: p.copied(CopyDestination, 600)}) }},
		{"restore-running", func(p *planner) { p.do(Step{Action: RestoreDestination, Copy: p.copied(CopyDestination, 600)}) }},
		{"fail-over", func(p *planner) { p.do(Step{Action: FailOver, Copy: p.copied(CopyDestination, 150)}) }},
		{"empty", upOrDown(EmptyDestination)},
		{"drop-table", func(p *planner) { p.upOrDown(Step{Action: DropTable, Table: p.table()}) }},
		{"truncate-table", func(p *planner) { p.upOrDown(Step{Action: TruncateTable, Table: p.table()}) }},

		{"trim-applied", now(TrimApplied)},
		{"trim", func(p *planner) { p.down(trim(p)) }},
		{"recreate", func(p *planner) {
			p.closeGap()
			p.upOrDown(Step{Action: RecreateStream})
		}},
		{"outgrow", func(p *planner) {
			p.closeGap()
			p.down(outgrow(p))
		}},

		{"lose-data", down(LoseData)},
		{"restore-data", func(p *planner) { p.down(Step{Action: RestoreData, Copy: p.copied(CopyData, 600)}) }},

		{"import", down(Import)},
		{"import-only", func(p *planner) {
			p.closeGap()
			p.down(Step{Action: ImportOnly, Table: p.table()})
		}},
		{"import-merge", func(p *planner) { p.down(Step{Action: ImportMerge, N: p.Uint64N(3)}) }},
		{"import-company", func(p *planner) { p.down(Step{Action: ImportCompany, N: p.Uint64N(3)}) }},
		{"import-killed", func(p *planner) { p.down(Step{Action: ImportKilled, N: p.Uint64N(1500)}) }},

		{"import-beside", func(p *planner) {
			p.closeGap()
			p.do(Step{Action: ImportBeside})
		}},
		{"import-beside-killed", func(p *planner) {
			p.closeGap()
			p.do(Step{Action: ImportBesideKilled, N: 100 + p.Uint64N(4000)})
		}},

		{"trim-lose-data", func(p *planner) { p.down(trim(p), Step{Action: LoseData}) }},
		{"import-outgrow", func(p *planner) { p.down(Step{Action: Import}, outgrow(p)) }},
		{"import-trim-only", func(p *planner) { p.down(Step{Action: Import}, trim(p), Step{Action: ImportOnly, Table: p.table()}) }},
		{"import-trim", func(p *planner) { p.down(Step{Action: Import}, trim(p)) }},
		{"import-killed-trim", func(p *planner) { p.down(Step{Action: ImportKilled, N: 400 + p.Uint64N(600)}, trim(p)) }},
	}
}

// Enabled returns the kinds for a round on a destination. It omits known faults, both single kinds
// and combinations.
func Enabled(destination string, seed uint64) []Kind {
	random := rand.New(rand.NewPCG(seed, 1))
	var out []string
	for _, known := range knownOn(destination) {
		out = append(out, known.Kind)
		first, others, together := strings.Cut(known.Apart, ",")
		switch {
		case together && random.IntN(4) == 0:
			out = append(out, strings.Split(others, ",")...)
		case together:
			out = append(out, first)
		}
	}
	return slices.DeleteFunc(Kinds(), func(k Kind) bool { return slices.Contains(out, k.Name) })
}

// Share distributes all enabled kinds among several rounds, one round per destination. It returns
// the kinds for destination number i. No round gets two kinds that must not be combined; see
// KnownFault.Apart.
func Share(destinations []string, i int, seed uint64) []Kind {
	var share []Kind
	dealt := 0
	for _, k := range Kinds() {
		on := slices.DeleteFunc(slices.Clone(destinations), func(d string) bool {
			return slices.ContainsFunc(knownOn(d), func(known KnownFault) bool { return known.Kind == k.Name })
		})
		if len(on) == 0 {
			continue
		}
		turn, together := 0, false
		for _, known := range KnownFaults() {
			if at := slices.Index(strings.Split(known.Apart, ","), k.Name); at >= 0 {
				turn, together = min(at, 1), true // the first kind goes to one destination, the others to another
			}
		}
		if !together {
			turn = dealt
			dealt++
		}
		if on[(turn+int(seed%2))%len(on)] == destinations[i] {
			share = append(share, k)
		}
	}
	return share
}

// Named returns the kinds whose names are listed in names, separated by commas.
func Named(names string) ([]Kind, error) {
	var chosen []Kind
	for name := range strings.SplitSeq(names, ",") {
		k, err := kindOf(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, k)
	}
	return chosen, nil
}

func kindOf(name string) (Kind, error) {
	all := Kinds()
	i := slices.IndexFunc(all, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, fmt.Errorf("there is no kind of fault %q; there are %s", name, Names(all))
	}
	return all[i], nil
}

// Names returns the names of the kinds, separated by commas, as Named parses them.
func Names(kinds []Kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	return strings.Join(names, ",")
}
