// Package drivers finds the drivers that are linked into this binary.
package drivers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// builtin holds the linked drivers. The init functions of the builtin_<name>.go files add them
// before main starts.
var builtin []sink.Driver

// All returns all linked drivers, sorted by name.
func All() []sink.Driver {
	return slices.SortedFunc(slices.Values(builtin), func(a, b sink.Driver) int { return cmp.Compare(a.Name, b.Name) })
}

var scheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,31}$`)

// Find returns the driver with the given name or URL scheme. For an unknown name it returns a Fatal
// error with a hint.
func Find(name string) (sink.Driver, error) {
	name = strings.ToLower(name)
	if name == "" {
		return sink.Driver{}, fault.Mark(fault.Fatal, errors.New("no driver is named"))
	}
	var known []string
	for _, d := range All() {
		if d.Name == name || slices.Contains(d.Schemes, name) {
			return d, nil
		}
		known = append(known, d.Schemes...)
	}
	hint := "known schemes are " + strings.Join(known, ", ")
	if best := sink.Nearest(name, known); best != "" {
		hint = fmt.Sprintf("did you mean %q?", best)
	}
	if !scheme.MatchString(name) { // it may be a whole URL with secrets
		return sink.Driver{}, fault.Mark(fault.Fatal, errors.New("no driver has such a name; "+hint))
	}
	return sink.Driver{}, fault.Mark(fault.Fatal, fmt.Errorf("no driver for the scheme %q; %s", name, hint))
}

// Parse parses a destination URL, expands its placeholders, and finds its driver. The function
// lookup returns the value of a variable that a placeholder names.
func Parse(raw string, lookup sink.Lookup) (sink.Driver, *url.URL, error) {
	target, err := sink.ParseURL(raw, lookup)
	if err != nil {
		return sink.Driver{}, nil, err
	}
	d, err := Find(target.Scheme)
	return d, target, err
}

// Expander returns a function that expands the placeholders of raw again, for use with
// sink.NewAccess. If the parameter check is not nil, the function also passes each result to check,
// and returns any error from check.
func Expander(raw string, lookup sink.Lookup, check func(sink.Driver, *url.URL) error) func() (*url.URL, error) {
	return func() (*url.URL, error) {
		d, target, err := Parse(raw, lookup)
		if err == nil && check != nil {
			err = check(d, target)
		}
		return target, err
	}
}

// MaskURL returns raw with its secrets masked, so that logs and HQ may show it; see sink.MaskURL.
// If no driver has the URL's scheme, all options are masked.
func MaskURL(raw string) string {
	d, err := Find(sink.Scheme(raw))
	if err != nil {
		d = sink.Driver{}
	}
	return sink.MaskURL(raw, d)
}

// Identity returns the identity of the destination that raw names. The secrets of raw may be
// masked.
func Identity(raw string, lookup sink.Lookup) (string, error) {
	d, target, err := Parse(raw, lookup)
	if fault.Of(err) == fault.Refused { // an identity needs no secrets from files
		d, target, err = Parse(sink.WithoutFiles(raw), lookup)
	}
	if err != nil {
		return "", err
	}
	return d.Identity(target), nil
}

// Open connects to the destination that raw names, and determines the capabilities of its sink. If
// env.Access is nil, Open sets it to a new sink.Access, which expands the placeholders of raw
// again.
func Open(ctx context.Context, raw string, lookup sink.Lookup, env sink.Env) (sink.Driver, *sink.Opened, error) {
	env.Lookup = lookup
	if env.Access == nil {
		env.Access = sink.NewAccess(Expander(raw, lookup, nil), false, nil)
	}
	d, target, err := Parse(raw, lookup)
	if err != nil {
		return d, nil, env.Access.Reject(err)
	}
	s, err := d.Open(ctx, target, env)
	if err != nil {
		return d, nil, fmt.Errorf("open %s: %w", d.Title, err)
	}
	return d, sink.NewOpened(s), nil
}
