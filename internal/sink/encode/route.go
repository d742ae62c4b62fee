package encode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
)

// Route determines the name of the topic or hub for an event: either a fixed name for all events,
// or a name that a template gives for each event. Route is safe for concurrent use.
type Route struct {
	kind     string // kind of the name, such as "topic", for messages
	fixed    string // "" if there is a template
	template *Path  // nil if the name is fixed
	byTable  bool   // whether the template depends only on the table
	legal    func(name string) string
}

// IsTemplate reports whether a name is a template, which contains {{.
func IsTemplate(name string) bool { return strings.Contains(name, "{{") }

// ParseRoute parses name, which is a fixed name or a template. The callback legal converts the
// result of a template into a name that the destination accepts. The parameter kind says what the
// name denotes, such as "topic", for messages.
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

// Fixed returns the name that all events share. It returns false if the name depends on the
// event.
func (r *Route) Fixed() (string, bool) { return r.fixed, r.template == nil }

// Of returns the name for an event. The parameter known is a cache of names by table, which belongs
// to the caller. An error concerns only this event.
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

// CutName returns text, cut to limit bytes if it is longer. A cut text ends in a hash of whole, the
// complete name. The parameter limit must be at least 34.
func CutName(text, whole string, limit int) string {
	if len(text) <= limit {
		return text
	}
	sum := sha256.Sum256([]byte(whole))
	return text[:limit-33] + "-" + hex.EncodeToString(sum[:16])
}
