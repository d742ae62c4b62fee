package torture

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/devhq/shop"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/verify"
)

// Symptom is a way in which eds breaks its promise; see brokenPromise.
type Symptom string

// These are all symptoms.
const (
	Silence     Symptom = "the destination is wrong and eds reports no problem"
	Unverified  Symptom = "the destination is wrong, and eds only warns that it cannot check"
	Unnamed     Symptom = "the destination is wrong, and eds is unhealthy but names no table"
	Misnamed    Symptom = "eds names other tables than those that differ"
	Incurable   Symptom = "eds names a table without a command that makes it complete"
	Ineffective Symptom = "the command that eds prints does not make the destination complete"
	FalseAlarm  Symptom = "eds raises an alarm although nothing is missing"
	Stuck       Symptom = "eds neither reaches the end of the stream nor says why"
	Ended       Symptom = "the server exits by itself"
	Refused     Symptom = "a command of eds failed"
)

// Failure reports that eds broke its promise.
type Failure struct {
	Symptom Symptom
	Detail  string
}

func (f *Failure) Error() string { return string(f.Symptom) + ": " + f.Detail }

// suspects is the set of tables that may have lost changes in a way that eds cannot detect
// precisely. A report of such a table as incomplete is correct even if the table is equal to the
// shop's.
type suspects struct {
	all   bool
	names []string
}

func (s suspects) with(other suspects) suspects {
	return suspects{s.all || other.all, append(slices.Clone(s.names), other.names...)}
}

func (s suspects) has(table string) bool { return s.all || slices.Contains(s.names, table) }

// observation is the state at one moment while the shop makes no changes.
type observation struct {
	tables  []string // all tables of the shop
	drained bool     // the consumer has no pending or unacknowledged messages
	reports []verify.Report
	claim   Claim
}

// differing returns the tables in the destination that are not equal to the shop's.
func (o observation) differing() []string {
	var names []string
	for _, r := range o.reports {
		if !r.Equal() {
			names = append(names, r.Table)
		}
	}
	return names
}

// brokenPromise returns the way in which eds breaks its promise in the observation o, or nil if eds
// keeps the promise. There are two ways to keep the promise. Either the destination equals the shop
// and eds reports no problem. Or eds reports every differing table, with a command for each, and no
// other tables except suspects. While eds reports that it does not follow the stream because of
// some tables, other tables may differ without being reported.
func brokenPromise(o observation, may suspects) *Failure {
	differing, named := o.differing(), o.claim.Names(o.tables)
	fail := func(s Symptom, format string, args ...any) *Failure {
		return &Failure{s, fmt.Sprintf(format, args...)}
	}
	unnamed := without(differing, func(t string) bool { return slices.Contains(named, t) })
	invented := without(named, func(t string) bool { return slices.Contains(differing, t) || may.has(t) })
	missed := len(unnamed) > 0 && (len(named) == 0 || o.claim.Running)
	switch {
	case missed && len(named) > 0:
		return fail(Misnamed, "%s differ and are not named", list(unnamed))
	case missed && len(o.claim.Alarms) > 0:
		return fail(Unnamed, "%s differ", list(unnamed))
	case missed && !(o.drained && o.claim.Running):
		return fail(Stuck, "%s differ; drained: %v, running: %v", list(unnamed), o.drained, o.claim.Running)
	case missed && o.claim.Unverified != "":
		return fail(Unverified, "%s differ", list(unnamed))
	case missed:
		return fail(Silence, "%s differ", list(unnamed))
	case len(invented) > 0 && len(differing) > 0:
		return fail(Misnamed, "%s are equal and are named", list(invented))
	case len(invented) > 0:
		return fail(FalseAlarm, "%s are equal and are named", list(invented))
	case slices.ContainsFunc(o.claim.Remedies(), func(r Remedy) bool { return r.Command == "" }):
		return fail(Incurable, "%v", o.claim)
	case len(named) > 0:
		return nil
	case len(o.claim.Alarms) > 0:
		return fail(FalseAlarm, "%s", strings.Join(o.claim.Alarms, "; "))
	case !o.drained || !o.claim.Running:
		return fail(Stuck, "the destination is equal; drained: %v, running: %v", o.drained, o.claim.Running)
	}
	return nil
}

func without(names []string, drop func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(names), drop)
}

func list(names []string) string { return strings.Join(names, ", ") }

// compare compares every table of the shop with the rows of a destination, value by value.
func compare(ctx context.Context, s *shop.Shop, destination sink.Reader) ([]verify.Report, error) {
	var reports []verify.Report
	model, tables := s.Snapshot(), make(map[string]*schema.Table)
	for object, text := range s.LatestSchemas() {
		t, err := schema.Decode(text)
		if err != nil {
			return nil, fmt.Errorf("read the schema of %s: %w", object, err)
		}
		tables[t.Name] = t
	}
	for _, name := range s.Tables() {
		t := tables[name]
		r, err := verify.Compare(ctx, t, nil, verify.Rows(t, model.Rows(name, nil, nil)), destination.Read(ctx, t))
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}
