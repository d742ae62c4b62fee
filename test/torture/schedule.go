// Package torture damages everything around the real program, and checks that the program reports
// honestly how the damage affects its destination.
//
// A simulated shop changes rows all the time. A schedule, generated from one seed, kills
// processes, restores old copies of the destination, drops tables, trims and recreates the stream,
// loses the data directory, and runs imports. At every check in the schedule, one of two things
// has to be true. Either the destination equals the shop in every value, or eds reports the tables
// that differ, and the command that it prints makes these tables equal.
package torture

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Action is a kind of step in a schedule.
type Action string

// These are all actions. The comments name the fields of Step that an action uses.
const (
	Check Action = "check" // compare the destination with the shop

	KillWorker Action = "kill the worker"
	KillParent Action = "kill the parent"
	KillBoth   Action = "kill both processes"
	// Stop and Kill end the server until the next Start. After any other exit, the service manager
	// restarts the server.
	Stop  Action = "stop the server"
	Kill  Action = "kill the server for good"
	Start Action = "start the server"

	RestartNATS Action = "restart NATS" // N: downtime in milliseconds

	CopyDestination    Action = "copy the destination" // Copy: number of the copy
	RestoreDestination Action = "restore the destination"
	FailOver           Action = "fail over to a copy that lags" // Copy
	EmptyDestination   Action = "empty the destination"
	DropTable          Action = "drop a table"     // Table
	TruncateTable      Action = "truncate a table" // Table

	TrimApplied    Action = "trim applied messages off the stream"
	TrimUnapplied  Action = "trim unapplied messages off the stream" // N: number of messages to keep
	RecreateStream Action = "recreate the stream"
	OutgrowStream  Action = "recreate the stream and outgrow the position" // N: number of messages beyond the position

	CopyData    Action = "copy the data directory" // Copy
	RestoreData Action = "restore the data directory"
	LoseData    Action = "lose the data directory"

	Import        Action = "import everything"
	ImportOnly    Action = "import one table"                       // Table
	ImportMerge   Action = "import one company, keeping other rows" // N: number of the company
	ImportCompany Action = "import one company, replacing all rows" // N: number of the company
	ImportKilled  Action = "kill an import"                         // N: milliseconds until the kill
	// The server runs the following imports while it follows the stream.
	ImportBeside       Action = "import everything beside the server"
	ImportBesideKilled Action = "kill the worker while it imports" // N: milliseconds until the kill

	Evolve Action = "change the schema"
)

// Step is an action at a certain time.
type Step struct {
	// At is the time of the step, as the number of changes that the shop has made. If the server
	// is running and makes progress, it must also have applied these changes.
	At     uint64
	Action Action
	Table  string
	Copy   int
	N      uint64
}

// String describes the step without its time.
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

// Schedule holds the steps of a round, in the order of their times. The first and the last step
// are checks.
type Schedule []Step

// String lists the steps, one per line.
func (s Schedule) String() string {
	var b strings.Builder
	for _, step := range s {
		fmt.Fprintf(&b, "%6d  %v\n", step.At, step)
	}
	return b.String()
}

// Generate returns the schedule for a seed. It has faults of the given kinds on the given tables.
// No kind repeats before every kind has had its turn. Until the first check, there are no faults.
// The same arguments always give the same schedule.
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

// A round has one fault per kind, but at least leastFaults and no more than mostFaults.
const (
	leastFaults = 3
	mostFaults  = 14
)

// planner builds a schedule.
type planner struct {
	*rand.Rand
	tables []string
	at     uint64 // current time, as a number of changes
	calm   uint64 // time of the first check
	gap    bool   // the stream has lost messages since the last check
	copies int
	steps  Schedule
}

// pass advances the time by a random number of changes between the two given bounds.
func (p *planner) pass(least, most uint64) { p.at += least + p.Uint64N(most-least+1) }

// do adds a step at the current time.
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

// copied adds a step that makes a copy, at a time up to longestAgo changes before the current
// time. It returns the number of the copy.
func (p *planner) copied(a Action, longestAgo uint64) int {
	p.copies++
	ago := 1 + p.Uint64N(min(longestAgo, p.at-p.calm-1))
	p.steps = append(p.steps, Step{At: p.at - ago, Action: a, Copy: p.copies})
	return p.copies
}

func (p *planner) table() string { return p.tables[p.IntN(len(p.tables))] }

// down adds the given steps between two others: a step that stops the server and a step that starts
// the server.
func (p *planner) down(steps ...Step) {
	p.do(Step{Action: []Action{Stop, Kill}[p.IntN(2)]})
	for _, s := range steps {
		p.pass(10, 120)
		p.do(s)
	}
	p.pass(0, 60)
	p.do(Step{Action: Start})
}

// closeGap adds a check if the stream has lost messages. The gap is not recorded by eds, so
// recreating the stream or a partial import would hide the gap.
func (p *planner) closeGap() {
	if p.gap {
		p.pass(60, 100)
		p.do(Step{Action: Check})
	}
}

// upOrDown adds the step at random either with the server running or with the server down.
func (p *planner) upOrDown(s Step) {
	if p.IntN(3) == 0 {
		p.do(s)
		return
	}
	p.down(s)
}
