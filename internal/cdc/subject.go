package cdc

import "strings"

// SubjectCompany returns the company of a change's subject, or of a filter of such subjects,
// dbchange.<table>.<operation>.<company>.…; "" if it has none.
func SubjectCompany(subject string) string {
	if tokens := strings.Split(subject, "."); len(tokens) > 3 {
		return tokens[3]
	}
	return ""
}
