// Package rules holds the user's own rules about changes: which tables are
// wanted, which JSON Schema a change has to satisfy, and what the object that
// holds it is called.
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

// ConfigName is the file of a rules directory that maps tables to rules.
const ConfigName = "config.json"

// Rules decide, change by change. They are immutable: all methods may be called
// concurrently.
type Rules struct{ tables map[string]*rule }

type rule struct {
	schema *jsonschema.Schema
	name   *template.Template // of the object; nil where the rule gives none
}

// Load reads the rules of a directory: config.json, which reads
//
//	{"<table>": {"schema": "<file>", "path": "<template>"}, ...}
//
// and the JSON Schemas it names, in files below the directory; path is
// optional. Nothing outside the directory is read, over the network neither.
// Errors name the file and the place.
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

// entry is a rule as config.json has it.
type entry struct {
	Schema string `json:"schema"`
	Path   string `json:"path"`
}

func load(dir fs.FS) (*Rules, error) {
	text, err := fs.ReadFile(dir, ConfigName)
	if err != nil {
		return nil, err
	}
	entries := make(map[string]entry)
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%s%s", ConfigName, place(text, err))
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

func newRule(compiler *jsonschema.Compiler, table string, e entry) (*rule, error) {
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

// Tables returns the tables that have a rule, in order.
func (r *Rules) Tables() []string { return slices.Sorted(maps.Keys(r.tables)) }

// Check reports whether e is to be skipped, and why, else the name of the object
// that its rule gives it, "" where the rule gives none. A change is skipped
// whose table has no rule, which has no reason worth a line in a log, whose
// text fails its schema, or whose object can't be named. The reason names
// places of the rules, never a value of the change.
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
	// Numbers stay text, so that none is rounded.
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

// place returns where in text err happened, as ":line:column: what".
func place(text []byte, err error) string {
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
