package sqlsink

import "strings"

// InScope returns one condition per column of the layout's Scope. literal quotes a text, and term
// returns the condition that a column has one of the listed values.
func (l *Layout) InScope(literal func(text string) string, term func(column *Column, list string) string) []string {
	var terms []string
	for _, w := range l.Scope {
		values := make([]string, len(w.Values))
		for i, v := range w.Values {
			values[i] = literal(v)
		}
		terms = append(terms, term(w.Column, strings.Join(values, ", ")))
	}
	return terms
}
