package encode

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Path is a template of object names: a Go text/template over the members of a change, for
// example {{.table}}/received/{{.table}}_{{.mvccTimestamp}}_{{.id}}.json. Path is safe for
// concurrent use.
type Path struct {
	text     *template.Template
	needsRow bool // the template uses the member before or after
}

// maxElement and maxPath are the maximum lengths of one element and of a whole rendered path, in
// bytes. S3 allows paths of 1024 bytes.
const (
	maxElement = 240
	maxPath    = 1024
)

// fields has the members that a template can use, by name. The function of a member returns the
// value of the member.
var fields = map[string]func(e *cdc.Event) any{
	"operation":     func(e *cdc.Event) any { return e.Op.String() },
	"id":            func(e *cdc.Event) any { return inPath(e.ID) },
	"table":         func(e *cdc.Event) any { return inPath(e.Table) },
	"key":           func(e *cdc.Event) any { return elements(e.Key) },
	"modelVersion":  func(e *cdc.Event) any { return inPath(e.ModelVersion) },
	"companyId":     func(e *cdc.Event) any { return inPath(e.CompanyID) },
	"locationId":    func(e *cdc.Event) any { return inPath(e.LocationID) },
	"userId":        func(e *cdc.Event) any { return inPath(e.UserID) },
	"before":        func(e *cdc.Event) any { return members(e.Before) },
	"after":         func(e *cdc.Event) any { return members(e.After) },
	"diff":          func(e *cdc.Event) any { return elements(e.Diff) },
	"timestamp":     func(e *cdc.Event) any { return e.Timestamp },
	"mvccTimestamp": func(e *cdc.Event) any { return inPath(e.MVCC) },
	"imported":      func(e *cdc.Event) any { return e.Imported },
}

// quoted matches quoted parts of a template in error messages of text/template.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// ParsePath parses a template. It is an error if the template uses a field that no change has.
// Errors quote no part of the template, because the template may come from a URL. ParsePath does
// not check that different changes have different paths. If several changes share a path, the last
// one overwrites the others.
func ParsePath(text string) (*Path, error) {
	t, err := template.New("path").Option("missingkey=zero").Parse(strings.TrimLeft(text, "/"))
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "template: ")
		return nil, fmt.Errorf("path template: %s", quoted.ReplaceAllString(text, `"..."`))
	}
	p := &Path{text: t}
	for _, name := range fieldsOf(t.Root, true) {
		if fields[name] == nil {
			all := slices.Sorted(maps.Keys(fields))
			hint := "fields are " + strings.Join(all, ", ")
			if best := sink.Nearest(name, all); best != "" {
				hint = fmt.Sprintf("did you mean %q?", best)
			}
			return nil, errors.New("path template: it names a field that no change has; " + hint)
		}
		p.needsRow = p.needsRow || name == "before" || name == "after"
	}
	for _, element := range strings.Split(text, "/") {
		if element == ".." {
			return nil, errors.New("path template: an element .. leads out of the destination")
		}
	}
	return p, nil
}

// Render returns the path of e's object. A value of the change can neither add an element to the
// path nor lead to another directory. A member that is absent or null renders as empty text. An
// element that is empty becomes NONE. An error concerns only this event, and contains none of its
// values.
func (p *Path) Render(e *cdc.Event) (string, error) {
	data := make(map[string]any, len(fields))
	for name, value := range fields {
		if p.needsRow || name != "before" && name != "after" {
			data[name] = value(e)
		}
	}
	var b strings.Builder
	if err := p.text.Execute(&b, data); err != nil {
		return "", errors.New("the path template cannot be rendered for this event")
	}
	path := CleanPath(b.String())
	if len(path) > maxPath {
		return "", fmt.Errorf("the path template makes a path of %d bytes, more than %d", len(path), maxPath)
	}
	return path, nil
}

// NameOf returns the path of e's object. If a rule of the user has set e.Object, that is the
// path. Otherwise the template gives the path. If p is nil, there is no template, and the path is
// ObjectName.
func (p *Path) NameOf(e *cdc.Event) (string, error) {
	switch {
	case e.Object != "":
		return CleanPath(e.Object), nil
	case p != nil:
		return p.Render(e)
	default:
		return ObjectName(e), nil
	}
}

// CleanPath returns a path below the destination for any text. Every element is a valid file
// name: an empty element becomes NONE, and unsafe bytes are escaped in the same way as by
// Segment. CleanPath does not change a path that is already clean.
func CleanPath(text string) string {
	elements := strings.Split(strings.TrimLeft(text, "/"), "/")
	plain := inElement
	if !utf8.ValidString(text) {
		plain = func(c byte) bool { return c < utf8.RuneSelf && inElement(c) }
	}
	for i, element := range elements {
		if element == "" {
			element = none
		}
		clean := escape(element, plain)
		if len(clean) > maxElement {
			clean = cut(clean, element, maxElement)
		}
		elements[i] = clean
	}
	return strings.Join(elements, "/")
}

// inElement reports whether the template's own text may contain the byte. It accepts more bytes
// than plainByte does for values, because the user has chosen the template.
func inElement(c byte) bool {
	return c >= ' ' && c != 0x7f && strings.IndexByte(`\:*?"<>|`, c) < 0
}

// inPath escapes a member's value for use in a path element.
func inPath(text string) string {
	if text == "" {
		return ""
	}
	return escape(text, plainByte)
}

// list is the value of an array member. A template can index it. Its text is all elements, joined
// with dashes.
type list []string

func (l list) String() string { return strings.Join(l, "-") }

func elements(array []byte) list {
	var all list
	_ = rawjson.Elements(array, func(s rawjson.Span) error { // it was validated when the event was decoded
		all = append(all, inPath(string(rawjson.Text(array[s.Start:s.End]))))
		return nil
	})
	return all
}

func members(object []byte) map[string]string {
	values := make(map[string]string)
	m, err := rawjson.OpenObject(object)
	for err == nil && m.Next() {
		value := ""
		if !rawjson.IsNull(m.Value()) {
			value = inPath(string(rawjson.Text(m.Value())))
		}
		values[string(m.Name())] = value
	}
	return values
}

// fieldsOf returns the names of the members of the change that node uses. If top is true, the dot
// is the change, so {{.name}} counts. {{$.name}} always counts.
func fieldsOf(node parse.Node, top bool) []string {
	var names []string
	visit := func(top bool, nodes ...parse.Node) {
		for _, n := range nodes {
			names = append(names, fieldsOf(n, top)...)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		if n != nil {
			visit(top, n.Nodes...)
		}
	case *parse.ActionNode:
		visit(top, n.Pipe)
	case *parse.PipeNode:
		if n != nil {
			for _, c := range n.Cmds {
				visit(top, c.Args...)
			}
		}
	case *parse.ChainNode:
		visit(top, n.Node)
	case *parse.TemplateNode:
		visit(top, n.Pipe)
	case *parse.IfNode:
		visit(top, n.Pipe, n.List, n.ElseList)
	case *parse.WithNode:
		visit(top, n.Pipe, n.ElseList)
		visit(false, n.List)
	case *parse.RangeNode:
		visit(top, n.Pipe, n.ElseList)
		visit(false, n.List)
	case *parse.FieldNode:
		if top {
			names = append(names, n.Ident[0])
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			names = append(names, n.Ident[1])
		}
	}
	return names
}
