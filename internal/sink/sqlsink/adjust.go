package sqlsink

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/value"
)

// Adjuster counts the values of one column that documented rules change.
type Adjuster struct {
	Table, Source string                           // the column, as the source calls it
	Key           bool                             // it is part of the key, of which nothing may change
	Text          TextRules                        // of its dialect
	Adjusted      func(table, column, rule string) // nil: nobody counts
}

// TextRules are the names that a dialect has for what can be wrong with text; ""
// where the dialect keeps it.
type TextRules struct{ NUL, Surrogate, UTF8 string }

// NewAdjuster returns the adjuster of a target of a layout.
func NewAdjuster(l *Layout, t *Target, rules TextRules, adjusted func(table, column, rule string)) Adjuster {
	source := t.Real.Name
	if t.Slot >= 0 {
		source = l.Table.Columns[t.Slot].Name
	}
	return Adjuster{Table: l.Table.Name, Source: source, Key: t.Key, Text: rules, Adjusted: adjusted}
}

// Refuse returns err, which holds no value, as poison that names the column; its type
// there has the given spelling.
func (a *Adjuster) Refuse(spelling string, err error) error {
	return fault.Mark(fault.Poison, fmt.Errorf("value of %s.%s (%s): %w", a.Table, a.Source, spelling, err))
}

// Adjust counts that a rule changes a value, or refuses it.
func (a *Adjuster) Adjust(rule string) error {
	if a.Key {
		return ErrKeyChanged
	}
	if a.Adjusted != nil {
		a.Adjusted(a.Table, a.Source, rule)
	}
	return nil
}

// Note counts what had to be changed of a text, or refuses it.
func (a *Adjuster) Note(flaws value.Flaw) error {
	if flaws == 0 {
		return nil
	}
	var err error
	for _, f := range []struct {
		flaw value.Flaw
		rule string
	}{{value.NUL, a.Text.NUL}, {value.Surrogate, a.Text.Surrogate}, {value.UTF8, a.Text.UTF8}} {
		if flaws&f.flaw != 0 && f.rule != "" {
			err = a.Adjust(f.rule)
		}
	}
	return err
}
