package sink_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/sink"
)

func TestTableState_GapID(t *testing.T) {
	since := time.Date(2026, 11, 30, 6, 40, 0, 123456789, time.UTC)
	state := func(change func(s *sink.TableState)) sink.TableState {
		s := sink.TableState{Table: "order", State: sink.Incomplete, Cause: sink.CauseGap, Since: since}
		change(&s)
		return s
	}
	const gap, emptied, later = "8f5b3f", "3dde77", "3ee81d"
	for name, test := range map[string]struct {
		state sink.TableState
		want  string
	}{
		"a gap":                       {state(func(*sink.TableState) {}), gap},
		"another table":               {state(func(s *sink.TableState) { s.Table = "part" }), gap},
		"accepted":                    {state(func(s *sink.TableState) { s.Accepted = true }), gap},
		"read back without fractions": {state(func(s *sink.TableState) { s.Since = since.Truncate(time.Second) }), gap},
		"read back in another zone":   {state(func(s *sink.TableState) { s.Since = since.In(time.FixedZone("", 3600)) }), gap},
		"another cause":               {state(func(s *sink.TableState) { s.Cause = sink.CauseEmptied }), emptied},
		"another time":                {state(func(s *sink.TableState) { s.Since = since.Add(time.Second) }), later},
		"behind":                      {state(func(s *sink.TableState) { s.State = sink.Behind }), ""},
		"missing":                     {state(func(s *sink.TableState) { s.State = sink.Missing }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.state.GapID()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRemedy_QuotesNames(t *testing.T) {
	for name, want := range map[string]string{
		"order": "order", "größe_2": "größe_2", "a;reboot": "'a;reboot'", "it's": `'it'\''s'`, "-x": "'-x'", "$(reboot)": "'$(reboot)'",
		"": "''",
	} {
		state := sink.TableState{Table: name, State: sink.Incomplete}
		if got := state.Remedy(); got != "eds import --only "+want {
			t.Errorf("%q: %s", name, got)
		}
	}
}
