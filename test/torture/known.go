package torture

import "slices"

// KnownFault is a kind of fault that eds does not survive yet. Schedules omit a kind as long as it
// is in the list of known faults.
type KnownFault struct {
	Kind string
	// Apart lists kinds, separated by commas, that cause the same fault if a round combines them. A
	// round uses either the first of these kinds or the others, never both.
	Apart string
	On    string // the affected destination, or "" for all
	Seed  uint64 // seed of a round with only this kind that fails
	// Symptom is the way in which the round with the seed in Seed fails.
	Symptom Symptom
	// Needs describes what eds lacks to survive the fault.
	Needs string
}

// KnownFaults returns the list of known faults, with one entry per kind and destination.
func KnownFaults() []KnownFault {
	return []KnownFault{
		{"truncate-table", "", "", 1, Silence, "a table that gets rows again before the next look is not seen empty: only eds " +
			"verify finds the others"},
		{"import-company", "", "", 1, Silence, "records of snapshots have no scope: nothing says that the other companies are missing"},
		{"import-outgrow", "", "", 1, Unverified, "an import does not record the end of the stream before its export"},
		{"import-trim-only", "", "", 1, Ineffective, "tables have no positions: imports of all tables, one after another, do " +
			"not close a gap"},
		{
			"import-killed-trim", "import-killed,trim,trim-applied,recreate,outgrow", "", 1, Ineffective,
			"an import goes on with an unfinished one, though the stream no longer has the changes since its export",
		},
	}
}

// knownOn returns the known faults that affect a destination.
func knownOn(destination string) []KnownFault {
	return slices.DeleteFunc(KnownFaults(), func(k KnownFault) bool { return k.On != "" && k.On != destination })
}
