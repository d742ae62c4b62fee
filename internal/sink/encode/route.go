package encode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// Route names the topic, hub or the like that an event goes to: one for all, or one
// by a template. It is safe for concurrent use.
type Route struct {
	what     string // is named, for messages
	fixed    string // "" where there is a template
	template *Path  // nil where the name is fixed
	byTable  bool   // the template depends on the table alone
	legal    func(name string) string
}

// IsTemplate reports whether a name is the template of names, by its braces.
func IsTemplate(name string) bool { return strings.Contains(name, "{{") }

// ParseRoute reads a name, which is taken as it is, or the template of names, which
// legal makes such that the destination takes them. What says what is named.
func ParseRoute(what, name string, legal func(name string) string) (*Route, error) {
	if !IsTemplate(name) {
		return &Route{what: what, fixed: name, legal: legal}, nil
	}
	template, err := ParsePath(name)
	if err != nil {
		return nil, errors.New(what + strings.TrimPrefix(err.Error(), "path"))
	}
	return &Route{what: what, template: template, byTable: !IsTemplate(strings.ReplaceAll(name, "{{.table}}", "")), legal: legal}, nil
}

// Fixed returns the one name of all events, false where each has its own.
func (r *Route) Fixed() (string, bool) { return r.fixed, r.template == nil }

// Of returns where an event goes; known keeps the names of tables. An error is about
// this event alone.
func (r *Route) Of(e *cdc.Event, known map[string]string) (string, error) {
	if r.template == nil {
		return r.fixed, nil
	}
	if name, ok := known[e.Table]; ok && r.byTable {
		return name, nil
	}
	name, err := r.template.Render(e)
	if err != nil {
		return "", fault.Mark(fault.Poison, errors.New("the "+r.what+"'s template can not be rendered for this change"))
	}
	name = r.legal(name)
	known[e.Table] = name
	return name, nil
}

// CutName returns text of at most limit bytes, which is 34 at least: what is longer is
// cut, with a hash of the whole name at its end.
func CutName(text, whole string, limit int) string {
	if len(text) <= limit {
		return text
	}
	sum := sha256.Sum256([]byte(whole))
	return text[:limit-33] + "-" + hex.EncodeToString(sum[:16])
}
