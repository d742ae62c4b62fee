package sink

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// Option declares one query parameter of a destination's URL. Parsing, errors, help, the
// tables of docs/drivers and masking follow from the declaration.
type Option struct {
	Name string
	// Type says which values are valid: Choice, Bool, Int, Duration, Size, File or Secret;
	// nil: any text.
	Type OptionType
	// Default is the value of an option that is absent or empty; "": it has none.
	Default string
	// DefaultNote describes the default for help and docs if Default does not, in Markdown.
	DefaultNote string
	// Help says what the option does, in Markdown: lower case, no full stop at the end.
	Help string
	// Harmless says that logs and HQ may show any value. Valid values of Choice, Bool, Int,
	// Duration and Size are shown without it.
	Harmless bool
	// Unlisted says that help and docs leave the option out.
	Unlisted bool
	Aliases  []string // other names that URLs may have
}

// Unlisted declares options with any text as value that help and docs leave out.
func Unlisted(names ...string) []Option {
	options := make([]Option, len(names))
	for i, name := range names {
		options[i] = Option{Name: name, Unlisted: true}
	}
	return options
}

// Listed returns the options that help and docs list.
func Listed(options []Option) []Option {
	return slices.DeleteFunc(slices.Clone(options), func(o Option) bool { return o.Unlisted })
}

// DefaultText describes the default as plain text; "" if there is none to describe.
func (o *Option) DefaultText() string { return plainText(cmp.Or(o.DefaultNote, o.Default)) }

// Description returns Help as plain text.
func (o *Option) Description() string { return plainText(o.Help) }

func plainText(markdown string) string { return strings.ReplaceAll(markdown, "`", "") }

// Values are the options of one URL, or their defaults. Methods panic if the driver did not
// declare the option, or declared another type.
type Values struct {
	declared map[string]*Option
	given    url.Values     // by declared name, without empty values
	parsed   map[string]any // as the Type parses them
}

// ParseOptions reads the options of target. An option that is absent or empty has its
// default. Errors are fatal, name the option, and never quote its value: it may be a secret,
// also if it was meant for another option.
func ParseOptions(target *url.URL, options []Option) (Values, error) {
	v := Values{declared: make(map[string]*Option), given: make(url.Values), parsed: make(map[string]any)}
	names := make(map[string]string) // declared names by name and alias
	for i := range options {
		o := &options[i]
		v.declared[o.Name] = o
		for _, name := range append([]string{o.Name}, o.Aliases...) {
			names[name] = o.Name
		}
	}
	query := target.Query()
	if err := checkNames(target.Scheme, query, options, names); err != nil {
		return v, fault.Mark(fault.Fatal, err)
	}
	for i := range options {
		o := &options[i]
		for _, name := range append([]string{o.Name}, o.Aliases...) {
			if query.Get(name) != "" {
				v.given[o.Name] = query[name]
				break
			}
		}
		text := cmp.Or(v.given.Get(o.Name), o.Default)
		if text == "" || o.Type == nil {
			continue
		}
		value, ok := o.Type.parse(text)
		if !ok {
			return v, fault.Mark(fault.Fatal, fmt.Errorf("option %s should be %s", o.Name, o.Type.valid()))
		}
		v.parsed[o.Name] = value
	}
	return v, nil
}

// optionName matches names that errors may quote: others may be part of a value.
var optionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9 ._-]{0,39}$`)

// checkNames returns an error that names an option that is not declared, and the most similar
// one that is.
func checkNames(scheme string, query url.Values, options []Option, declared map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if declared[name] != "" {
			continue
		}
		if !optionName.MatchString(name) || slices.Equal(query[name], []string{""}) { // part of a value, say
			return fmt.Errorf("the %s url has an option without a name or a value; write & in values as %%26", scheme)
		}
		hint := "it has no options"
		if len(options) > 0 {
			known := make([]string, len(options))
			for i := range options {
				known[i] = options[i].Name
			}
			hint = "known options are " + strings.Join(known, ", ")
			if best := Nearest(name, known); best != "" {
				hint = fmt.Sprintf("did you mean %q?", best)
			}
		}
		return fmt.Errorf("the %s url has an unknown option %q; %s", scheme, name, hint)
	}
	return nil
}

func (v Values) option(name string) *Option {
	o := v.declared[name]
	if o == nil {
		panic("sink: option " + name + " is not declared")
	}
	return o
}

// Given reports whether the URL has a value for the option.
func (v Values) Given(name string) bool { return v.given.Get(v.option(name).Name) != "" }

// All returns every value that the URL has for the option.
func (v Values) All(name string) []string { return v.given[v.option(name).Name] }

// Text returns the value as text: of a Choice one of its Values; "" without a value.
func (v Values) Text(name string) string {
	o := v.option(name)
	if text, ok := v.parsed[name].(string); ok {
		return text
	}
	return cmp.Or(v.given.Get(name), o.Default)
}

// Bool returns the value of a Bool; false without a value.
func (v Values) Bool(name string) bool { return typed[bool](v, name) }

// Int returns the value of an Int; 0 without a value.
func (v Values) Int(name string) int { return typed[int](v, name) }

// Duration returns the value of a Duration; 0 without a value.
func (v Values) Duration(name string) time.Duration { return typed[time.Duration](v, name) }

// Size returns the value of a Size in bytes; 0 without a value.
func (v Values) Size(name string) int64 { return typed[int64](v, name) }

func typed[T any](v Values, name string) (value T) {
	v.option(name)
	parsed, ok := v.parsed[name]
	if !ok {
		return value
	}
	if value, ok = parsed.(T); !ok {
		panic("sink: option " + name + " has another type")
	}
	return value
}

// File reads the file that a File names; nil without a value. An error is fault.Refused: the
// file may be about to be replaced.
func (v Values) File(name string) ([]byte, error) {
	path := v.Text(name)
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Mark(fault.Refused, fmt.Errorf("read the file that option %s names: %w", name, WithoutPath(err)))
	}
	return text, nil
}

// RejectedOptions is the error for options that a client library does not accept, and whose
// own error may quote them. It names the first option that the library does not accept on
// its own either.
func RejectedOptions(query url.Values, accepts func(url.Values) bool) error {
	names := slices.Sorted(maps.Keys(query))
	for _, name := range names {
		if !accepts(url.Values{name: query[name]}) {
			return fmt.Errorf("option %s has a value that cannot be used", name)
		}
	}
	return fmt.Errorf("options %s do not go together", strings.Join(names, ", "))
}
