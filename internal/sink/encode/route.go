package encode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// Route returns the name of an event's topic or hub: one for all events, or one by a template. It
// is safe for concurrent use.
type Route struct {
	kind     string // of the name, such as "topic", for messages
	fixed    string // "" if there is a template
	template *Path  // nil if the name is fixed
	byTable  bool   // the template depends on the table alone
	legal    func(name string) string
}

// IsTemplate reports whether a name is a template, by its braces.
func IsTemplate(name string) bool { return strings.Contains(name, "{{") }

// ParseRoute parses a name, or a template of names. legal turns the names of a template into
// names that the destination accepts; kind is the kind of the name, such as "topic".
func ParseRoute(kind, name string, legal func(name string) string) (*Route, error) {
	if !IsTemplate(name) {
		return &Route{kind: kind, fixed: name, legal: legal}, nil
	}
	template, err := ParsePath(name)
	if err != nil {
		return nil, errors.New(kind + strings.TrimPrefix(err.Error(), "path"))
	}
	byTable := !IsTemplate(strings.ReplaceAll(name, "{{.table}}", ""))
	return &Route{kind: kind, template: template, byTable: byTable, legal: legal}, nil
}

// Fixed returns the one name of all events; false if names depend on the event.
func (r *Route) Fixed() (string, bool) { return r.fixed, r.template == nil }

// Of returns the name for an event; known caches the names of tables. An error is about this
// event alone.
func (r *Route) Of(e *cdc.Event, known map[string]string) (string, error) {
	if r.template == nil {
		return r.fixed, nil
	}
	if name, ok := known[e.Table]; ok && r.byTable {
		return name, nil
	}
	name, err := r.template.Render(e)
	if err != nil {
		return "", fault.Mark(fault.Poison, errors.New("the "+r.kind+"'s template cannot be rendered for this change"))
	}
	name = r.legal(name)
	known[e.Table] = name
	return name, nil
}

// CutName returns text of at most limit bytes, which is at least 34. A longer text is cut, and
// ends in a hash of the whole name.
func CutName(text, whole string, limit int) string {
	if len(text) <= limit {
		return text
	}
	sum := sha256.Sum256([]byte(whole))
	return text[:limit-33] + "-" + hex.EncodeToString(sum[:16])
}
