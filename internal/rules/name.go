package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode"
	"unicode/utf8"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// fields lists the members of a change.
var fields = []string{
	"operation", "id", "table", "key", "modelVersion", "companyId", "locationId", "userId",
	"before", "after", "diff", "timestamp", "mvccTimestamp", "imported",
}

// parseName parses the template for an object's name. It returns an error if the template uses a
// field that no change has.
func parseName(table, text string) (*template.Template, error) {
	t, err := template.New(table).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	// A nested template may be executed with any value as its dot, so only the root template is
	// checked.
	return t, checkFields(t.Root, true)
}

// checkFields returns an error if the node uses a field that no change has. It always checks fields
// of $. It checks fields of the dot only if the dot is the change, which is the case if the second
// argument is true.
func checkFields(node parse.Node, top bool) error {
	switch n := node.(type) {
	case *parse.ListNode:
		return checkAll(top, listNodes(n)...)
	case *parse.ActionNode:
		return checkFields(n.Pipe, top)
	case *parse.PipeNode:
		if n == nil {
			return nil
		}
		for _, c := range n.Cmds {
			if err := checkAll(top, c.Args...); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return checkBranch(&n.BranchNode, top, top)
	case *parse.RangeNode:
		return checkBranch(&n.BranchNode, top, false)
	case *parse.WithNode:
		return checkBranch(&n.BranchNode, top, false)
	case *parse.TemplateNode:
		return checkFields(n.Pipe, top)
	case *parse.ChainNode:
		return checkFields(n.Node, top)
	case *parse.FieldNode:
		if top {
			return checkField(n.Ident[0])
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			return checkField(n.Ident[1])
		}
	}
	return nil
}

func checkBranch(n *parse.BranchNode, top, inside bool) error {
	return errors.Join(checkFields(n.Pipe, top), checkAll(inside, listNodes(n.List)...), checkAll(top, listNodes(n.ElseList)...))
}

func listNodes(n *parse.ListNode) []parse.Node {
	if n == nil {
		return nil
	}
	return n.Nodes
}

func checkAll(top bool, nodes ...parse.Node) error {
	for _, n := range nodes {
		if err := checkFields(n, top); err != nil {
			return err
		}
	}
	return nil
}

func checkField(name string) error {
	if slices.Contains(fields, name) {
		return nil
	}
	hint := "fields are " + strings.Join(fields, ", ")
	if best := sink.Nearest(name, fields); best != "" {
		hint = fmt.Sprintf("did you mean %q?", best)
	}
	return fmt.Errorf("the template uses %q, which no change has; %s", "."+name, hint)
}

// absent represents a field that is missing or null in the change. It is false in a condition and
// equal to "". Printing an absent field produces a NUL, which is an error, because no name may
// contain a NUL.
type absent string

func (absent) String() string { return "\x00" }

// absentList is like absent, but for an array. It has no elements.
type absentList []any

func (absentList) String() string { return "\x00" }

// present replaces every null in a value by absent, including nulls in nested members and elements.
// It modifies the value in place.
func present(value any) any {
	switch value := value.(type) {
	case nil:
		return absent("")
	case map[string]any:
		for k, v := range value {
			value[k] = present(v)
		}
	case []any:
		for i, v := range value {
			value[i] = present(v)
		}
	}
	return value
}

// MaxName is the maximum length of an object's name in bytes. It is the limit of S3.
const MaxName = 1024

// name returns the object's name for the change doc, and modifies doc. Errors quote no value of
// the change.
func name(t *template.Template, doc any) (string, error) {
	members, ok := present(doc).(map[string]any)
	if !ok {
		return "", errors.New("the change is not an object")
	}
	for _, f := range fields {
		if value := members[f]; value != nil && value != absent("") {
			continue
		}
		members[f] = absent("")
		if f == "key" || f == "diff" {
			members[f] = absentList(nil)
		}
	}
	var out limited
	if err := t.Execute(&out, members); err != nil {
		if errors.Is(err, errLong) {
			return "", errLong
		}
		return "", errors.New("the path template fails: it uses a member that the change lacks or one of another type")
	}
	return checkName(string(out.text))
}

var errLong = fmt.Errorf("the path template makes a name longer than %d bytes", MaxName)

// limited is a buffer that refuses to grow beyond MaxName bytes.
type limited struct{ text []byte }

func (l *limited) Write(p []byte) (int, error) {
	if len(l.text)+len(p) > MaxName {
		return 0, errLong
	}
	l.text = append(l.text, p...)
	return len(p), nil
}

// checkName returns the name if it is valid on every operating system. A valid name is a relative,
// slash-separated path that does not leave its directory.
func checkName(name string) (string, error) {
	switch {
	case strings.Contains(name, "\x00"):
		return "", errors.New("the path template prints a field that the change lacks, or one with a NUL in it")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", errors.New("the path template makes a name with control characters in it")
	case name == "." || !fs.ValidPath(name) || strings.Contains(name, `\`) || drive(name):
		return "", errors.New("the path template makes a name that is not a relative path of plain elements")
	}
	return name, nil
}

// drive reports whether Windows would interpret the start of the name as a drive letter.
func drive(name string) bool {
	return len(name) >= 2 && name[1] == ':' && unicode.IsLetter(rune(name[0]))
}
