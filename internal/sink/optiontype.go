package sink

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// OptionType defines the valid values of an option, and parses them.
type OptionType interface {
	// parse returns the value of text, which is not empty. The result ok is false if text is not
	// valid.
	parse(text string) (value any, ok bool)
	// valid describes the valid values for an error message.
	valid() string
	// harmless reports whether logs and HQ may show a valid value.
	harmless() bool
}

// Choice accepts one of a few values, ignoring case.
type Choice struct {
	Values []string
	// Synonyms maps other spellings, in lower case, to the values.
	Synonyms map[string]string
}

// OneOf returns a Choice of values.
func OneOf(values ...string) Choice { return Choice{Values: values} }

func (c Choice) parse(text string) (any, bool) {
	if value, ok := c.Synonyms[strings.ToLower(text)]; ok {
		return value, true
	}
	for _, value := range c.Values {
		if strings.EqualFold(text, value) {
			return value, true
		}
	}
	return nil, false
}

func (c Choice) valid() string {
	last := len(c.Values) - 1
	return strings.Join(c.Values[:last], ", ") + " or " + c.Values[last]
}

func (Choice) harmless() bool { return true }

// Bool accepts what strconv.ParseBool accepts.
type Bool struct{}

func (Bool) parse(text string) (any, bool) {
	value, err := strconv.ParseBool(text)
	return value, err == nil
}

func (Bool) valid() string  { return "true or false" }
func (Bool) harmless() bool { return true }

// Int accepts a number from Min to Max. If Max is 0, there is no upper bound.
type Int struct {
	Min, Max int
	// None is a number that is also valid, and asks for no particular value. If None is 0, there
	// is no such number.
	None int
}

func (i Int) parse(text string) (any, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && (n >= i.Min && (n <= i.Max || i.Max == 0) || n == i.None && i.None != 0)
}

func (i Int) valid() string {
	text := fmt.Sprintf("a number from %d to %d", i.Min, i.Max)
	if i.Max == 0 {
		text = fmt.Sprintf("a number, %d at least", i.Min)
	}
	if i.None != 0 {
		text += fmt.Sprintf(", or %d", i.None)
	}
	return text
}

func (Int) harmless() bool { return true }

// Duration accepts a duration from Min to Max. If Max is 0, there is no upper bound.
type Duration struct {
	Min, Max time.Duration
	// Unit is the unit that applies if the text is a number without a unit. If Unit is 0, such a
	// text is not valid.
	Unit time.Duration
}

func (d Duration) parse(text string) (any, bool) {
	value, err := time.ParseDuration(text)
	if n, e := strconv.ParseUint(text, 10, 31); e == nil && d.Unit > 0 {
		value, err = time.Duration(n)*d.Unit, nil
	}
	return value, err == nil && value >= d.Min && (value <= d.Max || d.Max == 0)
}

func (d Duration) valid() string {
	text := "a duration like 500ms, 30s or 5m, "
	if d.Max == 0 {
		text += fmt.Sprintf("%v at least", d.Min)
	} else {
		text += fmt.Sprintf("from %v to %v", d.Min, d.Max)
	}
	switch d.Unit {
	case time.Second:
		text += ", or a number of seconds"
	case time.Millisecond:
		text += ", or a number of milliseconds"
	}
	return text
}

func (Duration) harmless() bool { return true }

// Size accepts a number of bytes, from 1 to 1024g. The suffixes k, m and g mean KiB, MiB and GiB.
type Size struct{}

func (Size) parse(text string) (any, bool) {
	digits, shift := text, 0
	if last := len(text) - 1; last > 0 {
		if i := strings.IndexByte("kmg", text[last]|0x20); i >= 0 {
			digits, shift = text[:last], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || n > 1<<40>>shift {
		return nil, false
	}
	return n << shift, true
}

func (Size) valid() string  { return "a number of bytes like 64m, 1 at least and 1024g at most" }
func (Size) harmless() bool { return true }

// FilePath accepts the path of a file.
type FilePath struct{}

func (FilePath) parse(text string) (any, bool) { return text, true }
func (FilePath) valid() string                 { return "the path of a file" }
func (FilePath) harmless() bool                { return false }

// SecretText accepts any text, which logs and HQ never show.
type SecretText struct{}

func (SecretText) parse(text string) (any, bool) { return text, true }
func (SecretText) valid() string                 { return "a text" }
func (SecretText) harmless() bool                { return false }
