package sqlsink

import (
	"fmt"
	"strings"
)

// Adjustment is a kind of change to a value that a column cannot store unchanged.
type Adjustment uint8

const (
	ReplaceNUL       Adjustment = iota // U+0000 becomes U+FFFD
	ReplaceSurrogate                   // an unpaired surrogate becomes U+FFFD
	ReplaceUTF8                        // bytes that are not UTF-8 become U+FFFD
	CutSecond                          // an instant loses digits of the second
	DropTime                           // an instant loses the time of day
	RoundFloat                         // a number becomes the nearest floating-point number
	RoundDecimal                       // a number is rounded to the decimal places of the column
	PadText                            // a fixed-length text loses blanks or gets zeros
	RoundJSON                          // a number inside JSON becomes the nearest floating-point number

	adjustments // the number of adjustments
)

// ValueRule is a dialect's rule for an adjustment. Metrics count the adjusted values under Name.
type ValueRule struct{ Name, Help string }

// ValueRules are a dialect's rules, indexed by Adjustment. A rule with an empty Name is not used,
// because the dialect can store the values unchanged.
type ValueRules [adjustments]ValueRule

// List returns the rules that are used.
func (r ValueRules) List() []ValueRule {
	var list []ValueRule
	for _, rule := range r {
		if rule.Name != "" {
			list = append(list, rule)
		}
	}
	return list
}

// Help returns the rules that are used, one per line, for the help of a driver.
func (r ValueRules) Help() string {
	var b strings.Builder
	for _, rule := range r.List() {
		fmt.Fprintf(&b, "    %-26s %s\n", rule.Name, rule.Help)
	}
	return b.String()
}
