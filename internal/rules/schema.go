package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// base is the URL that represents the rules directory. Schemas refer to each other by paths
// relative to base, or by their own $id.
const base = "rules:///"

func newCompiler(dir fs.FS) *jsonschema.Compiler {
	c := jsonschema.NewCompiler()
	c.UseLoader(&schemaLoader{dir: dir})
	return c
}

// schemaLoader loads schemas from the rules directory only.
type schemaLoader struct {
	dir fs.FS
	ids map[string]string // file names by $id; nil until first needed
}

// Load implements jsonschema.URLLoader.
func (l *schemaLoader) Load(location string) (any, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	if strings.HasPrefix(location, base) {
		return l.read(strings.TrimPrefix(u.Path, "/"))
	}
	if l.ids == nil {
		l.ids = l.findIDs()
	}
	if file, ok := l.ids[location]; ok {
		return l.read(file)
	}
	return nil, errors.New("no file of the directory has this $id, and nothing is fetched from elsewhere")
}

func (l *schemaLoader) read(file string) (any, error) {
	text, err := fs.ReadFile(l.dir, file)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s%s", file, position(text, err))
	}
	return doc, nil
}

// findIDs returns the names of all JSON files that have a $id, keyed by their $id.
func (l *schemaLoader) findIDs() map[string]string {
	ids := make(map[string]string)
	// Ignore a directory that cannot be read. A reference to one of its schemas will fail with an
	// error.
	_ = fs.WalkDir(l.dir, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(file) != ".json" {
			return nil
		}
		text, err := fs.ReadFile(l.dir, file)
		if err != nil {
			return nil
		}
		var schema struct {
			ID string `json:"$id"`
		}
		if json.Unmarshal(text, &schema) == nil && schema.ID != "" {
			ids[strings.TrimSuffix(schema.ID, "#")] = file
		}
		return nil
	})
	return ids
}

// compile compiles the schema in a file and all schemas that it refers to.
func compile(c *jsonschema.Compiler, file string) (*jsonschema.Schema, error) {
	schema, err := c.Compile(base + (&url.URL{Path: file}).EscapedPath())
	if err == nil {
		return schema, nil
	}
	if e := new(jsonschema.LoadURLError); errors.As(err, &e) {
		if location, ok := strings.CutPrefix(e.URL, base); ok && location == file {
			return nil, e.Err
		}
		return nil, fmt.Errorf("load %s: %w", strings.TrimPrefix(e.URL, base), e.Err)
	}
	if e := new(jsonschema.SchemaValidationError); errors.As(err, &e) {
		var v *jsonschema.ValidationError
		if errors.As(e.Err, &v) {
			leaf := leaves(v, nil)[0]
			return nil, fmt.Errorf("it is not a JSON Schema: %s is wrong: %s", pointer(leaf.InstanceLocation),
				leaf.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
		}
	}
	return nil, errors.New(strings.ReplaceAll(err.Error(), base, ""))
}

// maxLocations is the maximum number of schema locations that a reason lists.
const maxLocations = 3

// validate checks doc against the schema. The error names the locations in the schema that doc
// fails, and quotes no value of doc.
func validate(schema *jsonschema.Schema, doc any) (err error) {
	defer func() {
		// The library computes with numbers of any size, and panics for exponents of millions.
		if recover() != nil {
			err = errors.New("the change has a number too large to be validated")
		}
	}()
	err = schema.Validate(doc)
	var failed *jsonschema.ValidationError
	if err == nil || !errors.As(err, &failed) {
		return err
	}
	all := leaves(failed, nil)
	var locations []string
	for _, leaf := range all[:min(len(all), maxLocations)] {
		locations = append(locations, location(leaf))
	}
	if more := len(all) - maxLocations; more > 0 {
		locations = append(locations, fmt.Sprintf("%d more", more))
	}
	return fmt.Errorf("the change fails the schema at %s", strings.Join(locations, ", "))
}

// leaves finds those errors below e that have no causes themselves. It appends these errors to the
// given slice, and returns the extended slice.
func leaves(e *jsonschema.ValidationError, all []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return append(all, e)
	}
	for _, cause := range e.Causes {
		all = leaves(cause, all)
	}
	return all
}

// location returns the location in the schema where e failed: the file, "#", and a JSON pointer.
func location(e *jsonschema.ValidationError) string {
	file, fragment, _ := strings.Cut(strings.TrimPrefix(e.SchemaURL, base), "#")
	return file + "#" + fragment + pointer(e.ErrorKind.KeywordPath())
}

// pointer returns the JSON pointer that consists of the given tokens.
func pointer(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(t))
	}
	return b.String()
}
