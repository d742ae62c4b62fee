// Package rules holds the operator's rules for changes. A rule selects a table, sets the JSON
// Schema that its changes must satisfy, and can set the names of the objects in which its changes
// are stored.
package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"text/template"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/shopmonkeyus/eds/internal/cdc"
)

// ConfigName is the name of the file in a rules directory that assigns rules to tables.
const ConfigName = "config.json"

// Rules checks changes one at a time. It is immutable, so all methods may be called concurrently.
type Rules struct{ tables map[string]*rule }

type rule struct {
	schema *jsonschema.Schema
	name   *template.Template // template for the object's name, or nil if the rule sets no name
}

// Load loads the rules in a directory. The directory contains config.json, which has the form
//
//	{"<table>": {"schema": "<file>", "path": "<template>"}, ...}
//
// and the JSON Schema files that config.json names. The member path is optional. Load reads no
// files outside the directory, and does not use the network. Errors name the file and the position
// in the file.
func Load(dir string) (*Rules, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the schema validator's directory: %w", err)
	}
	defer root.Close()
	r, err := load(root.FS())
	if err != nil {
		return nil, fmt.Errorf("schema validator %s: %w", dir, err)
	}
	return r, nil
}

// ruleEntry is the JSON form of a rule in config.json.
type ruleEntry struct {
	Schema string `json:"schema"`
	Path   string `json:"path"`
}

func load(dir fs.FS) (*Rules, error) {
	text, err := fs.ReadFile(dir, ConfigName)
	if err != nil {
		return nil, err
	}
	entries := make(map[string]ruleEntry)
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%s%s", ConfigName, position(text, err))
	}
	compiler := newCompiler(dir)
	r := &Rules{tables: make(map[string]*rule, len(entries))}
	var problems []error
	for _, table := range slices.Sorted(maps.Keys(entries)) {
		rule, err := newRule(compiler, table, entries[table])
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: table %q: %w", ConfigName, table, err))
		}
		r.tables[table] = rule
	}
	return r, errors.Join(problems...)
}

func newRule(compiler *jsonschema.Compiler, table string, e ruleEntry) (*rule, error) {
	if e.Schema == "" {
		return nil, errors.New(`it names no "schema" file`)
	}
	if !fs.ValidPath(e.Schema) {
		clean := path.Clean(e.Schema)
		if !fs.ValidPath(clean) {
			return nil, fmt.Errorf("schema %q: the file must be in the directory", e.Schema)
		}
		e.Schema = clean
	}
	schema, err := compile(compiler, e.Schema)
	if err != nil {
		return nil, fmt.Errorf("schema %q: %w", e.Schema, err)
	}
	r := &rule{schema: schema}
	if e.Path != "" {
		if r.name, err = parseName(table, e.Path); err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
	}
	return r, nil
}

// Tables returns the names of the tables that have a rule, sorted.
func (r *Rules) Tables() []string { return slices.Sorted(maps.Keys(r.tables)) }

// Check reports whether e must be skipped, and the reason. If e must not be skipped, Check returns
// the name that the rule sets for the object, or "" if the rule sets none. A change is skipped if
// its table has no rule, if the change fails its schema, or if its object cannot be named. The
// reason names positions in the rules, but quotes no value of the change. If the table has no rule,
// the reason is "", because such changes need no log entry.
func (r *Rules) Check(e *cdc.Event) (skip bool, reason, object string) {
	rule, ok := r.tables[e.Table]
	if !ok {
		return true, "", ""
	}
	object, err := rule.check(e)
	if err != nil {
		return true, err.Error(), ""
	}
	return false, "", object
}

func (r *rule) check(e *cdc.Event) (object string, err error) {
	// Numbers are decoded as text, so that none is rounded.
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.Payload))
	if err != nil {
		return "", errors.New("the change is nested too deeply to be validated")
	}
	if err := validate(r.schema, doc); err != nil {
		return "", err
	}
	if r.name == nil {
		return "", nil
	}
	return name(r.name, doc)
}

// position formats err, an error from decoding text, with its position as ":line:column: message".
func position(text []byte, err error) string {
	var offset int64
	what := err.Error()
	if e := new(json.SyntaxError); errors.As(err, &e) {
		offset = e.Offset
	}
	if e := new(json.UnmarshalTypeError); errors.As(err, &e) {
		offset, what = e.Offset, fmt.Sprintf(`want {"table": {"schema": "file", "path": "template"}}, found a %s`, e.Value)
	}
	before := text[:min(int(offset), len(text))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := max(1, len(before)-1-bytes.LastIndexByte(before, '\n'))
	return fmt.Sprintf(":%d:%d: %s", line, column, what)
}
