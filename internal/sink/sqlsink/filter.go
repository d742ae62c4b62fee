package sqlsink

import (
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// selects reports whether at least one of the filters selects every message of the given subject.
func selects(filters []string, subject string) bool {
	return slices.ContainsFunc(filters, func(pattern string) bool { return matches(pattern, subject) })
}

// matches reports whether pattern selects every subject that the parameter subject selects. Both
// may contain wildcards.
func matches(pattern, subject string) bool {
	p, t := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return i < len(t)
		case i >= len(t), token != "*" && token != t[i]:
			return false
		}
	}
	return len(p) == len(t)
}

// covered reports whether newer snapshots include the rows of the subject's company: every table
// that was ever imported must have a snapshot that includes these rows, and that has a higher
// generation than the given one.
func covered(snapshots []sink.LoadRecord, since int64, subject string) bool {
	company := cdc.SubjectCompany(subject)
	has := make(map[string]bool) // by table
	for _, s := range snapshots {
		has[s.Table] = has[s.Table] || s.Scope.Has(company) && s.Generation > since
	}
	for _, ok := range has {
		if !ok {
			return false
		}
	}
	return len(has) > 0
}

// subjectsOf returns the subjects of a filter, or nil if filter is only a hash.
func subjectsOf(filter string) []string {
	if strings.HasPrefix(filter, "sha256:") {
		return nil
	}
	return strings.Fields(filter)
}
