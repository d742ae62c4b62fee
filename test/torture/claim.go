package torture

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Claim is eds's own report of whether its destination is complete. Only this file depends on the
// format of that report.
type Claim struct {
	// Tables holds the tables that eds reports as incomplete, with their remedies.
	Tables map[string]Remedy
	// Whole is not nil if eds reports the whole destination as incomplete.
	Whole *Remedy
	// Alarms lists all other reasons why eds is unhealthy.
	Alarms []string
	// Unverified is the reason why eds cannot check that the destination is complete, or "" if eds
	// can check this. It is a warning, not an alarm.
	Unverified string
	// Running is true if the server is following the stream.
	Running bool
}

// Remedy is a reason why something is incomplete, and the command that fixes it.
type Remedy struct {
	Reason  string
	Command string // "" if eds prints no command
}

// Silent reports whether eds reports no problem at all.
func (c Claim) Silent() bool { return len(c.Tables) == 0 && c.Whole == nil && len(c.Alarms) == 0 }

// Names returns the sorted names of the tables that c reports as incomplete. The argument lists all
// tables of the shop.
func (c Claim) Names(all []string) []string {
	if c.Whole != nil {
		return slices.Sorted(slices.Values(all))
	}
	return slices.Sorted(maps.Keys(c.Tables))
}

// Remedies returns the remedies in c, with one remedy per distinct command.
func (c Claim) Remedies() []Remedy {
	if c.Whole != nil {
		return []Remedy{*c.Whole}
	}
	var remedies []Remedy
	for _, name := range slices.Sorted(maps.Keys(c.Tables)) {
		r := c.Tables[name]
		if !slices.ContainsFunc(remedies, func(other Remedy) bool { return other.Command == r.Command }) {
			remedies = append(remedies, r)
		}
	}
	return remedies
}

// String describes c, one line per problem.
func (c Claim) String() string {
	var b strings.Builder
	line := func(what string, r Remedy) { fmt.Fprintf(&b, "%s: %s; remedy: %q\n", what, r.Reason, r.Command) }
	if c.Whole != nil {
		line("the destination is not complete", *c.Whole)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Tables)) {
		line("table "+name+" is not complete", c.Tables[name])
	}
	for _, alarm := range c.Alarms {
		fmt.Fprintf(&b, "unhealthy: %s\n", alarm)
	}
	if c.Silent() {
		b.WriteString("eds reports no problem\n")
	}
	if c.Unverified != "" {
		fmt.Fprintf(&b, "unverified: %s\n", c.Unverified)
	}
	if !c.Running {
		b.WriteString("the server does not follow the stream\n")
	}
	return b.String()
}

// statusReport is the JSON output of eds status --json, or the body of the health endpoint.
type statusReport struct {
	health
	Health health           `json:"health"`
	State  string           `json:"state"`
	Tables map[string]state `json:"tables"`
}

type health struct {
	Status   string   `json:"status"`
	Reasons  []reason `json:"reasons"`
	Warnings []reason `json:"warnings"`
}

type reason struct {
	Condition string `json:"condition"`
	Message   string `json:"message"`
}

// state is the state of one table. Releases without table states omit it.
type state struct {
	State   string `json:"state"`
	Reason  string `json:"reason"`
	Command string `json:"command"`
}

// ReadClaim parses the output of eds status --json, or the body of the health endpoint.
func ReadClaim(text []byte) (Claim, error) {
	var a statusReport
	if err := json.Unmarshal(text, &a); err != nil {
		return Claim{}, fmt.Errorf("read the report of eds: %w", err)
	}
	c := Claim{Running: a.State == "running" || a.Status == "ok", Tables: make(map[string]Remedy)}
	for name, t := range a.Tables {
		switch t.State {
		case "behind", "missing", "incomplete":
			r := Remedy{t.State + ": " + t.Reason, t.Command}
			if name == "*" { // represents all tables that have no state themselves
				c.Whole = &r
			}
			c.Tables[name] = r
		}
	}
	for _, r := range append(a.Reasons, a.Health.Reasons...) {
		c.addReason(r.Condition + ": " + r.Message)
	}
	for _, w := range append(a.Warnings, a.Health.Warnings...) {
		if w.Condition == "continuity" {
			c.Unverified = w.Message
		}
	}
	return c, nil
}

// ReadLog parses the log of a server that has exited, which has one JSON object per line. The
// claim reports the last error in that log.
func ReadLog(text string) Claim {
	last := "the server has exited and its log has no error"
	for line := range strings.Lines(text) {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Error string `json:"error"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "ERROR" {
			last = "the server has exited: " + entry.Msg + ": " + entry.Error
		}
	}
	var c Claim
	c.addReason(last)
	return c
}

// addReason adds a reason why eds is unhealthy. If eds reports no table states, and the reason
// contains an import command, the reason concerns the tables that the command imports. If that
// command names no tables, it concerns the whole destination.
func (c *Claim) addReason(reason string) {
	command := commandIn(reason)
	only := onlyTables.FindStringSubmatch(command)
	switch {
	case command == "" || len(c.Tables) > 0:
		c.Alarms = append(c.Alarms, reason)
	case only == nil:
		c.Whole = &Remedy{reason, command}
	default:
		c.Tables = make(map[string]Remedy)
		for table := range strings.SplitSeq(only[1], ",") {
			c.Tables[table] = Remedy{reason, command}
		}
	}
}

var onlyTables = regexp.MustCompile(`--only[ =](\S+)`)

var command = regexp.MustCompile(`\beds (?:import|accept-gap [\w-]+)\b(?: --?[a-zA-Z-]+(?:[ =][\w,.:+]+)?)*`)

// commandIn returns the command that a message recommends to the operator, or "" if there is none.
func commandIn(message string) string {
	if found := command.FindString(message); found != "" {
		return found
	}
	if strings.Contains(message, "import again") {
		return "eds import"
	}
	return ""
}
