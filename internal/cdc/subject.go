package cdc

import "strings"

// SubjectCompany returns the company in the subject of a change, or in a filter for such subjects.
// Subjects have the form dbchange.<table>.<operation>.<company>.…. If the subject has no company,
// the result is "".
func SubjectCompany(subject string) string {
	if tokens := strings.Split(subject, "."); len(tokens) > 3 {
		return tokens[3]
	}
	return ""
}
