// Package torture damages everything around the real program, and checks that the
// program is honest about it.
//
// A shop works. A schedule, generated from one seed, kills processes, restores old
// copies of the destination, drops tables, trims and recreates the stream, loses
// the data directory, and imports in between. At every check of the schedule either
// the destination equals the shop to the cell, or eds names the tables that differ
// and the command that it prints makes them equal.
package torture

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Action is one thing that a schedule does.
type Action string

// The actions. Comments name the fields of a step that an action uses.
const (
	Check Action = "check" // the destination against the shop

	KillWorker Action = "kill the worker"
	KillParent Action = "kill the parent"
	KillBoth   Action = "kill both processes"
	// Stop and Kill take the server down until Start. After any other exit the
	// service manager starts it again.
	Stop  Action = "stop the server"
	Kill  Action = "kill the server for good"
	Start Action = "start the server"

	RestartNATS Action = "restart NATS" // N: milliseconds of downtime

	CopyDestination    Action = "copy the destination" // Copy: the number of the copy
	RestoreDestination Action = "restore the destination"
	FailOver           Action = "fail over to a copy that lags" // Copy
	EmptyDestination   Action = "empty the destination"
	DropTable          Action = "drop a table"     // Table
	TruncateTable      Action = "truncate a table" // Table

	TrimApplied    Action = "trim applied messages off the stream"
	TrimUnapplied  Action = "trim unapplied messages off the stream" // N: messages to keep
	RecreateStream Action = "recreate the stream"
	OutgrowStream  Action = "recreate the stream and outgrow the position" // N: messages beyond it

	CopyData    Action = "copy the data directory" // Copy
	RestoreData Action = "restore the data directory"
	LoseData    Action = "lose the data directory"

	Import        Action = "import everything"
	ImportOnly    Action = "import one table"                       // Table
	ImportMerge   Action = "import one company, keeping other rows" // N: which
	ImportCompany Action = "import one company, replacing all rows" // N: which
	ImportKilled  Action = "kill an import"                         // N: milliseconds
	// The server does these, while it follows the stream.
	ImportBeside       Action = "import everything beside the server"
	ImportBesideKilled Action = "kill the worker while it imports" // N: milliseconds

	Evolve Action = "change the schema"
)

// Step is an action at a time.
type Step struct {
	// At is the time: the number of changes made by the shop, and applied by the
	// server if it runs and makes progress.
	At     uint64
	Action Action
	Table  string
	Copy   int
	N      uint64
}

// String describes the step, without its time.
func (s Step) String() string {
	text := string(s.Action)
	if s.Table != "" {
		text += " (" + s.Table + ")"
	}
	switch s.Action {
	case CopyDestination, CopyData, RestoreDestination, RestoreData, FailOver:
		text += fmt.Sprintf(" (copy %d)", s.Copy)
	case RestartNATS, ImportKilled, ImportBesideKilled:
		text += fmt.Sprintf(" (%d ms)", s.N)
	case TrimUnapplied, OutgrowStream:
		text += fmt.Sprintf(" (%d messages)", s.N)
	case ImportMerge, ImportCompany:
		text += fmt.Sprintf(" (number %d)", s.N)
	}
	return text
}

// Schedule is the steps of a round, in order. The first and the last are checks.
type Schedule []Step

// String lists the steps, one per line.
func (s Schedule) String() string {
	var b strings.Builder
	for _, step := range s {
		fmt.Fprintf(&b, "%6d  %v\n", step.At, step)
	}
	return b.String()
}

// Generate returns the schedule of a seed: faults of the given kinds on the given
// tables. No kind repeats before every kind has had its turn. The same arguments
// give the same schedule. Before the first check the shop works undisturbed.
func Generate(seed uint64, kinds []Kind, tables []string) Schedule {
	p := &planner{Rand: rand.New(rand.NewPCG(seed, 0)), tables: tables}
	p.pass(100, 200)
	p.do(Step{Action: Check})
	p.calm = p.at
	faults := min(max(len(kinds), leastFaults), mostFaults)
	var deck []Kind
	for i := range faults {
		p.pass(60, 300)
		if len(deck) == 0 {
			deck = slices.Clone(kinds)
			p.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		if len(deck) > 0 {
			deck[0].plan(p)
			deck = deck[1:]
			p.pass(60, 300)
		}
		if len(kinds) <= 1 || p.IntN(3) == 0 || i == faults-1 {
			p.do(Step{Action: Check})
		}
	}
	slices.SortStableFunc(p.steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return p.steps
}

// A round has one fault per kind, within these bounds.
const (
	leastFaults = 3
	mostFaults  = 14
)

// planner builds a schedule.
type planner struct {
	*rand.Rand
	tables []string
	at     uint64 // the present, in changes
	calm   uint64 // time of the first check
	gap    bool   // since the last check the stream has lost messages
	copies int
	steps  Schedule
}

// pass lets the shop make a random number of changes.
func (p *planner) pass(least, most uint64) { p.at += least + p.Uint64N(most-least+1) }

// do adds a step at the present time.
func (p *planner) do(s Step) {
	s.At = p.at
	switch s.Action {
	case TrimUnapplied, RecreateStream, OutgrowStream:
		p.gap = true
	case Check:
		p.gap = false
	}
	p.steps = append(p.steps, s)
}

// copied adds a step in the past, at most longestAgo changes ago, that makes a copy,
// and returns the number of the copy.
func (p *planner) copied(a Action, longestAgo uint64) int {
	p.copies++
	ago := 1 + p.Uint64N(min(longestAgo, p.at-p.calm-1))
	p.steps = append(p.steps, Step{At: p.at - ago, Action: a, Copy: p.copies})
	return p.copies
}

func (p *planner) table() string { return p.tables[p.IntN(len(p.tables))] }

// down takes the server down, adds the steps, and starts the server.
func (p *planner) down(steps ...Step) {
	p.do(Step{Action: []Action{Stop, Kill}[p.IntN(2)]})
	for _, s := range steps {
		p.pass(10, 120)
		p.do(s)
	}
	p.pass(0, 60)
	p.do(Step{Action: Start})
}

// closeGap checks if the stream has lost messages. eds does not record gaps, so
// another stream or a partial import would hide this one.
func (p *planner) closeGap() {
	if p.gap {
		p.pass(60, 100)
		p.do(Step{Action: Check})
	}
}

// upOrDown adds the step, sometimes with the server down.
func (p *planner) upOrDown(s Step) {
	if p.IntN(3) == 0 {
		p.do(s)
		return
	}
	p.down(s)
}
