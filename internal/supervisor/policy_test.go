package supervisor

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPolicy_DecidesAfterEachEnd(t *testing.T) {
	said := func(code int) *workerMessage { return &workerMessage{Type: typeExiting, Code: code} }
	at := func(d time.Duration) decision { return decision{wait: d} }
	const now, soon = time.Duration(0), time.Second // the longest first wait
	tests := map[string]struct {
		end       ending
		noRestart bool
		want      decision
		err       string
	}{
		"it has done":                         {end: ending{exiting: said(0)}, want: end(0, nil)},
		"it can't go on":                      {end: ending{exiting: said(1), code: 1}, want: end(1, nil)},
		"it refuses its arguments":            {end: ending{exiting: said(3), code: 3}, want: end(3, nil)},
		"it asks for a restart":               {end: ending{exiting: said(4), code: 4, ready: true}, want: at(now)},
		"even where none is wanted":           {end: ending{exiting: said(4), code: 4, ready: true}, noRestart: true, want: at(now)},
		"it asks for one before it was ready": {end: ending{exiting: said(4), code: 4}, want: at(soon)},
		"it asks for one while it is stopped": {end: ending{exiting: said(4), code: 4, stopped: true}, want: end(0, nil)},
		"an unannounced restart":              {end: ending{code: 4, ready: true}, want: at(soon)},
		"an unannounced success":              {end: ending{}, want: at(soon)},
		"the same while it is stopped":        {end: ending{stopped: true}, want: end(0, nil)},
		"a signal after it announced success": {end: ending{exiting: said(0), code: -1, signal: "SIGSEGV"}, want: at(soon)},
		"a panic":                             {end: ending{code: 2}, want: at(soon)},
		"a panic where no restart is wanted": {
			end: ending{code: 2}, noRestart: true, want: end(1, nil),
			err: "the worker crashed, and --no-restart is set: it panicked (exit code 2); see /crash",
		},
		"it was slow to end after it hung": {end: ending{exiting: said(0), hung: true}, want: at(soon)},
		"ended at once": {
			end: ending{code: -1, signal: "SIGKILL", stopped: true, killed: true}, want: end(1, nil),
			err: "the worker was ended at once; unfinished work is repeated at the next start",
		},
		"just before it would have been killed": {end: ending{exiting: said(0), stopped: true, killed: true}, want: end(0, nil)},
		"it cannot be started": {
			end: ending{failure: errors.New("no such file")}, want: end(1, nil), err: "start the worker: no such file",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := restartPolicy{limits: RunLimits{}.withDefaults(), noRestart: test.noRestart, crash: "/crash"}
			p.backoff.Min = time.Second
			got := p.decide(test.end)
			text := ""
			if got.err != nil {
				text, got.err = got.err.Error(), nil
			}
			if test.want.wait == soon && got.wait >= soon/2 && got.wait <= soon {
				got.wait = soon
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(decision{})); diff != "" || text != test.err {
				t.Errorf("error %q, want %q; (-want +got):\n%s", text, test.err, diff)
			}
		})
	}
}
