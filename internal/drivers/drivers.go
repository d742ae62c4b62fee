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

// builtin has the drivers of the builtin_<name>.go files, which add them before main begins.
var builtin []sink.Driver

// All returns every driver, by name.
func All() []sink.Driver {
	return slices.SortedFunc(slices.Values(builtin), func(a, b sink.Driver) int { return cmp.Compare(a.Name, b.Name) })
}

var scheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,31}$`)

// Find returns the driver of the given name or URL scheme.
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
	if !scheme.MatchString(name) { // a whole URL, say
		return sink.Driver{}, fault.Mark(fault.Fatal, errors.New("no driver has such a name; "+hint))
	}
	return sink.Driver{}, fault.Mark(fault.Fatal, fmt.Errorf("no driver for the scheme %q; %s", name, hint))
}

// Parse reads a destination's URL and finds its driver.
func Parse(raw string, lookup sink.Lookup) (sink.Driver, *url.URL, error) {
	target, err := sink.ParseURL(raw, lookup)
	if err != nil {
		return sink.Driver{}, nil, err
	}
	d, err := Find(target.Scheme)
	return d, target, err
}

// Expander returns a function that expands the placeholders of raw again, for sink.NewAccess. Each
// result must pass check, if check is not nil.
func Expander(raw string, lookup sink.Lookup, check func(sink.Driver, *url.URL) error) func() (*url.URL, error) {
	return func() (*url.URL, error) {
		d, target, err := Parse(raw, lookup)
		if err == nil && check != nil {
			err = check(d, target)
		}
		return target, err
	}
}

// MaskURL returns raw without its secrets, fit for a log and for HQ; see sink.MaskURL. If no
// driver has its scheme, all options are masked.
func MaskURL(raw string) string {
	d, err := Find(sink.Scheme(raw))
	if err != nil {
		d = sink.Driver{}
	}
	return sink.MaskURL(raw, d)
}

// Identity returns the identity of the destination that raw names, masked or not.
func Identity(raw string, lookup sink.Lookup) (string, error) {
	d, target, err := Parse(raw, lookup)
	if fault.Of(err) == fault.Refused { // an identity does not depend on the secret in an unreadable file
		d, target, err = Parse(sink.WithoutFiles(raw), lookup)
	}
	if err != nil {
		return "", err
	}
	return d.Identity(target), nil
}

// Open connects to the destination that raw names, and resolves what its sink can do.
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
