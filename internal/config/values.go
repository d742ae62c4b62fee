package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// problems collects errors, so that the operator sees all of them at once.
type problems struct{ errs []error }

func (p *problems) add(err error) {
	if err != nil {
		p.errs = append(p.errs, err)
	}
}

// check adds a UsageError with the name of the flag or variable, unless err is nil.
func (p *problems) check(name string, err error) {
	if err != nil {
		p.add(&UsageError{name, err})
	}
}

func (p *problems) join() error { return errors.Join(p.errs...) }

// try calls the function parse with a value, and returns the result. If the function fails, try
// adds a UsageError to p.
func try[In, Out any](p *problems, name string, in In, parse func(In) (Out, error)) Out {
	out, err := parse(in)
	p.check(name, err)
	return out
}

// checkGiven returns an error if a flag is given with an empty value. An unset variable in a
// script must not silently mean "everything" or the default.
func checkGiven(fs *pflag.FlagSet, name string, empty bool) error {
	if !empty || !fs.Changed(name) {
		return nil
	}
	return errors.New("its value is empty; leave the flag out if you mean that")
}

func checkRange(n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("want a number from %d to %d", least, most)
	}
	return nil
}

func checkDuration(d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("want a time from %v to %v", least, most)
	}
	return nil
}

func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, errors.New("want a time with its zone, like 2026-01-31T18:30:00Z or 2026-01-31T18:30:00+02:00")
	}
	return t, nil
}

// durationFlag is a flag value whose error shows how to write a duration.
type durationFlag struct{ value *time.Duration }

func durationVar(fs *pflag.FlagSet, value *time.Duration, name string, byDefault time.Duration, usage string) {
	*value = byDefault
	fs.Var(durationFlag{value}, name, usage)
}

func (d durationFlag) Set(text string) error {
	value, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("want a time like 250ms, 90s, 15m or 24h")
	}
	*d.value = value
	return nil
}

func (d durationFlag) String() string {
	if d.value == nil || *d.value == 0 {
		return "" // so that the help shows no default
	}
	text := d.value.String()
	if whole, ok := strings.CutSuffix(text, "m0s"); ok {
		text = whole + "m"
	}
	if whole, ok := strings.CutSuffix(text, "h0m"); ok {
		text = whole + "h"
	}
	return text
}

func (d durationFlag) Type() string { return "duration" }

// number is a flag value whose error does not mention strconv.
type number struct{ value *int }

func numberVar(fs *pflag.FlagSet, value *int, name string, byDefault int, usage string) {
	*value = byDefault
	fs.Var(number{value}, name, usage)
}

func (n number) Set(text string) error {
	value, err := strconv.Atoi(text)
	if err != nil {
		return errors.New("want a whole number")
	}
	*n.value = value
	return nil
}

func (n number) String() string {
	if n.value == nil || *n.value == 0 {
		return ""
	}
	return strconv.Itoa(*n.value)
}

func (n number) Type() string { return "int" }
