package sqlsink

import (
	"fmt"
	"strings"
)

// Adjustment is a way to change a value that a column cannot store as it is.
type Adjustment uint8

const (
	ReplaceNUL       Adjustment = iota // U+0000 becomes U+FFFD
	ReplaceSurrogate                   // half of a surrogate pair becomes U+FFFD
	ReplaceUTF8                        // bytes that are not UTF-8 become U+FFFD
	CutSecond                          // an instant loses digits of the second
	DropTime                           // an instant loses the time of day
	RoundFloat                         // a number becomes the nearest floating-point number
	RoundDecimal                       // a number is rounded to the decimal places of the column
	PadText                            // a text of fixed length loses blanks or gets zeros
	RoundJSON                          // a number inside JSON becomes the nearest floating-point number

	adjustments // the number of adjustments
)

// ValueRule is a dialect's rule for an adjustment. Metrics count adjusted values by Name.
type ValueRule struct{ Name, Help string }

// ValueRules are the rules of a dialect by Adjustment. A rule without a name is not in use: the
// dialect stores such values unchanged.
type ValueRules [adjustments]ValueRule

// List returns the rules in use.
func (r ValueRules) List() []ValueRule {
	var list []ValueRule
	for _, rule := range r {
		if rule.Name != "" {
			list = append(list, rule)
		}
	}
	return list
}

// Help describes the rules for a driver's help, one per line.
func (r ValueRules) Help() string {
	var b strings.Builder
	for _, rule := range r.List() {
		fmt.Fprintf(&b, "    %-26s %s\n", rule.Name, rule.Help)
	}
	return b.String()
}
