package sinktest

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
)

var driverChecks = []property{
	{"the driver describes itself", func(features) bool { return true }, checkDescription},
	{"the driver makes URLs of its fields", func(features) bool { return true }, checkFields},
	{"unknown options are named", func(features) bool { return true }, checkUnknownOption},
	{"a probe succeeds and leaves nothing", func(features) bool { return true }, checkProbe},
	{"opening, probing and reading make nothing", func(features) bool { return true }, checkUntouched},
}

func checkDescription(h *harness) {
	d := h.config.Driver
	if !regexp.MustCompile(`^[a-z][a-z0-9-]*$`).MatchString(d.Name) || d.Title == "" || d.Summary == "" || d.Help == "" {
		h.Errorf("the driver %q lacks a name, title, summary or help", d.Name)
	}
	if d.Limits.Rows <= 0 || d.Limits.Bytes <= 0 {
		h.Errorf("the limits are %+v", d.Limits)
	}
	if len(d.Schemes) == 0 || !strings.HasPrefix(d.Example, d.Schemes[0]+"://") {
		h.Errorf("the example %q has none of the schemes %q", d.Example, d.Schemes)
	}
	if _, err := url.Parse(d.Example); err != nil {
		h.Errorf("the example: %v", err)
	}
	for _, o := range sink.Listed(d.Options) {
		if o.Name == "" || o.Help == "" {
			h.Errorf("the option %q is not described", o.Name)
		}
	}
	if _, err := sink.ParseOptions(&url.URL{Scheme: d.Schemes[0]}, d.Options); err != nil {
		h.Errorf("a default is not valid: %v", err)
	}
}

func checkFields(h *harness) {
	d := h.config.Driver
	if d.URL == nil {
		return // it is configured by URL only
	}
	var required []string
	full := make(map[string]string)
	for _, f := range d.Fields {
		if f.Required {
			required = append(required, f.Name)
		}
		if !slices.Contains([]string{"string", "number", "boolean"}, f.Type) || f.Description == "" {
			h.Errorf("the field %q has type %q and description %q", f.Name, f.Type, f.Description)
		}
		full[f.Name] = map[string]string{"string": "value", "number": "1234", "boolean": "true"}[f.Type]
	}
	_, problems := d.URL(nil)
	var missing []string
	for _, p := range problems {
		missing = append(missing, p.Field)
	}
	slices.Sort(missing)
	slices.Sort(required)
	if !slices.Equal(missing, required) {
		h.Errorf("without values it misses %q, want %q", missing, required)
	}
	for _, f := range d.Fields {
		for _, hostile := range []string{
			"", " ", "a b", "a/b", "a?b#c", "a@b:c", "%", "%zz", "ä", "a\x00b", "${X}", "'\"", "-1",
			"99999999999", strings.Repeat("x", 10_000),
		} {
			values := make(map[string]string)
			for k, v := range full {
				values[k] = v
			}
			values[f.Name] = hostile
			made, problems := d.URL(values)
			if len(problems) > 0 {
				continue
			}
			if _, err := sink.ParseURL(made, func(string) (string, bool) { return "", true }); err != nil {
				h.Errorf("with %.20q in field %q it makes a URL that does not parse: %v", hostile, f.Name, err)
			}
		}
	}
}

func checkUnknownOption(h *harness) {
	target, err := url.Parse(h.option("nonsuch=1"))
	if err != nil {
		h.Fatal(err)
	}
	s, err := h.config.Driver.Open(h.ctx(), target, h.env())
	if err == nil {
		h.close(s)
	}
	h.expectClass(err, fault.Fatal)
	if err != nil && !strings.Contains(err.Error(), "nonsuch") {
		h.Errorf("the error does not name the option: %v", err)
	}
}

func checkProbe(h *harness) {
	s := h.open()
	t := customers(h)
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one"}`))
	before := h.contents(s, t)
	for range 2 {
		if err := s.Probe(h.ctx()); err != nil {
			h.Errorf("probe: %v", err)
		}
	}
	if after := h.contents(s, t); after != before {
		h.Errorf("the probe changed the destination from %s to %s", before, after)
	}
}

func checkUntouched(h *harness) {
	url, state := h.url, func() string { return fmt.Sprint(h.config.History(h.outer, h.url)) }
	if h.config.Untouched != nil {
		url, state = h.config.Untouched(h.outer)
	} else if h.config.History == nil {
		h.Fatal("the Config has neither Untouched nor History")
	}
	before, t := state(), customers(h)
	unchanged := func(what string) {
		h.Helper()
		if now := state(); now != before {
			h.Errorf("%s changed the destination from\n%s\nto\n%s", what, before, now)
		}
	}
	for range 2 {
		s := h.openAt(url, h.env())
		unchanged("opening")
		if err := s.Probe(h.ctx()); err != nil {
			h.Errorf("probe: %v", err)
		}
		unchanged("probing")
		if r, ok := s.(sink.Reader); ok {
			for _, err := range r.Read(h.ctx(), t) {
				h.Errorf("reading a missing table yields a row, or the error %v", err)
			}
			unchanged("reading")
		}
		h.close(s)
		unchanged("closing")
	}
	// The sink can write after a probe.
	s := h.openURL(url)
	if err := s.Probe(h.ctx()); err != nil {
		h.Errorf("probe: %v", err)
	}
	h.migrate(s, t)
	h.apply(s, h.insert(t, `{"id":"1","name":"one"}`))
	if state() == before {
		h.Errorf("writing did not change the destination: %s", before)
	}
}

// contents describes the rows or events of the destination.
func (h *harness) contents(s sink.Sink, t *schema.Table) string {
	h.Helper()
	if h.config.History != nil {
		return fmt.Sprint(h.config.History(h.outer, h.url))
	}
	return h.compare(s, t, h.model(t.Name)).String()
}
