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

// Option declares one query parameter of a destination's URL. The parser, its errors, the help,
// the tables of docs/drivers and the masking of URLs all use this declaration.
type Option struct {
	Name string
	// Type says which values are valid: Choice, Bool, Int, Duration, Size, FilePath or SecretText.
	// If Type is nil, any text is valid.
	Type OptionType
	// Default is the value of an option that is absent or empty, or "" for no default.
	Default string
	// DefaultNote, in Markdown, replaces Default in help and docs if Default does not describe
	// the default well.
	DefaultNote string
	// Help says what the option does, in Markdown: lower case, no full stop at the end.
	Help string
	// Harmless says that logs and HQ may show any value of the option. They may always show valid
	// values of Choice, Bool, Int, Duration and Size, even if Harmless is false.
	Harmless bool
	// Unlisted says that the option is omitted from help and docs.
	Unlisted bool
	Aliases  []string // other names of the option that a URL may use
}

// Unlisted declares options that accept any text, and that are omitted from help and docs.
func Unlisted(names ...string) []Option {
	options := make([]Option, len(names))
	for i, name := range names {
		options[i] = Option{Name: name, Unlisted: true}
	}
	return options
}

// Listed returns the options that are listed in help and docs.
func Listed(options []Option) []Option {
	return slices.DeleteFunc(slices.Clone(options), func(o Option) bool { return o.Unlisted })
}

// DefaultText describes the default as plain text. It returns "" if the option has no default.
func (o *Option) DefaultText() string { return plainText(cmp.Or(o.DefaultNote, o.Default)) }

// Description returns Help as plain text.
func (o *Option) Description() string { return plainText(o.Help) }

func plainText(markdown string) string { return strings.ReplaceAll(markdown, "`", "") }

// Values holds the options of one URL, and the defaults of options that the URL lacks. Its
// methods panic if the driver did not declare the option, or declared it with another type.
type Values struct {
	declared map[string]*Option
	given    url.Values     // from the URL, by declared name, without empty values
	parsed   map[string]any // results of OptionType.parse, by declared name
}

// ParseOptions reads the options of target. An option that is absent or empty has its default
// value. Errors are fatal and name the option. They never quote the option's value, which may be a
// secret, or even the secret of another option.
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
			values := slices.DeleteFunc(slices.Clone(query[name]), func(value string) bool { return value == "" })
			if len(values) > 0 {
				v.given[o.Name] = values
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

// optionName matches names that errors may quote. Any other name may be a piece of a secret
// value.
var optionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9 ._-]{0,39}$`)

// checkNames returns an error for the first option of query that is not declared. The error
// suggests the most similar declared option.
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

// Given reports whether the URL has a value for the option. It ignores the default.
func (v Values) Given(name string) bool { return v.given.Get(v.option(name).Name) != "" }

// All returns all values that the URL has for the option, without the default.
func (v Values) All(name string) []string { return v.given[v.option(name).Name] }

// Text returns the value as text, or "" if there is none. For a Choice, the text is one of
// Choice.Values.
func (v Values) Text(name string) string {
	o := v.option(name)
	if text, ok := v.parsed[name].(string); ok {
		return text
	}
	return cmp.Or(v.given.Get(name), o.Default)
}

// Bool returns the value of a Bool option, or false if there is none.
func (v Values) Bool(name string) bool { return typed[bool](v, name) }

// Int returns the value of an Int option, or 0 if there is none.
func (v Values) Int(name string) int { return typed[int](v, name) }

// Duration returns the value of a Duration option, or 0 if there is none.
func (v Values) Duration(name string) time.Duration { return typed[time.Duration](v, name) }

// Size returns the value of a Size option in bytes, or 0 if there is none.
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

// File returns the content of the file that a FilePath option names, or nil if the option has no
// value. Errors are fault.Refused, because the file may be about to be replaced.
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

// RejectedOptions returns the error for options that a client library does not accept. Use it
// instead of the library's own error, which may quote their values. The parameter accepts is a
// function that reports whether the library accepts the given options. RejectedOptions calls
// accepts with each option alone, and names the first option that the library does not accept. If
// the library accepts each option alone, the error names all options.
func RejectedOptions(query url.Values, accepts func(url.Values) bool) error {
	names := slices.Sorted(maps.Keys(query))
	for _, name := range names {
		if !accepts(url.Values{name: query[name]}) {
			return fmt.Errorf("option %s has a value that cannot be used", name)
		}
	}
	return fmt.Errorf("options %s do not go together", strings.Join(names, ", "))
}
