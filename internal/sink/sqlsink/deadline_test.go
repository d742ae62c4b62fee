package sqlsink_test

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
)

func TestAwait(t *testing.T) {
	const limit = time.Minute
	const wait = limit - time.Second
	active := func(context.Context) sqlsink.Work { return sqlsink.Work{Active: true} }
	idle := func(context.Context) sqlsink.Work { return sqlsink.Work{Progress: "7"} }
	stuck := func(context.Context) sqlsink.Work { return sqlsink.Work{Active: true, Progress: "7"} }
	progress := func(every int) func(context.Context) sqlsink.Work { // once in so many questions
		n := 0
		return func(context.Context) sqlsink.Work {
			n++
			return sqlsink.Work{Active: true, Progress: strconv.Itoa(n / every)}
		}
	}
	unanswered := func(ctx context.Context) sqlsink.Work {
		<-ctx.Done()
		return sqlsink.Work{Active: true}
	}
	for name, test := range map[string]struct {
		working func(ctx context.Context) sqlsink.Work
		call    func(call *sqlsink.Deadline)
		silent  bool
	}{
		"answer in time": {call: func(*sqlsink.Deadline) { time.Sleep(wait) }},
		"no answer":      {call: func(*sqlsink.Deadline) { time.Sleep(limit + time.Second) }, silent: true},
		"progress":       {call: func(call *sqlsink.Deadline) { time.Sleep(wait); call.Progress(); time.Sleep(wait) }},
		"progress, then none": {call: func(call *sqlsink.Deadline) {
			time.Sleep(wait)
			call.Progress()
			time.Sleep(limit + time.Second)
		}, silent: true},
		"pause": {call: func(call *sqlsink.Deadline) {
			call.Pause()
			time.Sleep(10 * limit)
			call.Resume()
			time.Sleep(wait)
		}},
		"no answer after pause": {call: func(call *sqlsink.Deadline) {
			call.Pause()
			time.Sleep(10 * limit)
			call.Resume()
			time.Sleep(limit + time.Second)
		}, silent: true},
		"progress while paused":       {call: func(call *sqlsink.Deadline) { call.Pause(); call.Progress(); time.Sleep(10 * limit) }},
		"server at work":              {working: active, call: func(*sqlsink.Deadline) { time.Sleep(10 * limit) }},
		"server at work for too long": {working: active, call: func(*sqlsink.Deadline) { time.Sleep(100 * limit) }, silent: true},
		"server makes progress":       {working: progress(1), call: func(*sqlsink.Deadline) { time.Sleep(1000 * limit) }},
		"server makes slow progress":  {working: progress(3), call: func(*sqlsink.Deadline) { time.Sleep(1000 * limit) }},
		"server is stuck":             {working: stuck, call: func(*sqlsink.Deadline) { time.Sleep(4*limit + time.Second) }, silent: true},
		"server is stuck briefly":     {working: stuck, call: func(*sqlsink.Deadline) { time.Sleep(4*limit - time.Second) }},
		"server not at work":          {working: idle, call: func(*sqlsink.Deadline) { time.Sleep(limit + time.Second) }, silent: true},
		"question without answer":     {working: unanswered, call: func(*sqlsink.Deadline) { time.Sleep(10 * limit) }, silent: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, call := sqlsink.Await(t.Context(), limit, test.working)
				defer call.End()
				test.call(call)
				synctest.Wait()
				if err := ctx.Err(); (err != nil) != test.silent {
					t.Fatalf("the call's context has the error %v", err)
				}
				if silent := errors.As(sqlsink.CallError(ctx, io.EOF), new(*sqlsink.SilentError)); silent != test.silent {
					t.Errorf("the call's error is a *SilentError: %v", silent)
				}
			})
		})
	}
}

func TestReadTimeouts(t *testing.T) {
	for text, want := range map[string]sqlsink.Timeouts{
		"":                                     {Lock: 30 * time.Second, Statement: 5 * time.Minute},
		"lock_timeout=1s&statement_timeout=1h": {Lock: time.Second, Statement: time.Hour},
		"lock_timeout=0s":                      {},
		"statement_timeout=0":                  {},
		"statement_timeout=500ms":              {},
		"statement_timeout=2h":                 {},
		"statement_timeout=never":              {},
	} {
		v, err := sink.ParseOptions(&url.URL{RawQuery: text}, sqlsink.TimeoutOptions)
		got := sqlsink.Timeouts{}
		if err == nil {
			got = sqlsink.ReadTimeouts(v)
		}
		if refused := want == (sqlsink.Timeouts{}); (err != nil) != refused || err == nil && got != want {
			t.Errorf("%s: %+v, error %v", text, got, err)
		}
	}
}

func TestAwait_EndsWithItsCaller(t *testing.T) {
	outer, cancel := context.WithCancel(t.Context())
	ctx, call := sqlsink.Await(outer, time.Minute, nil)
	defer call.End()
	cancel()
	if err := sqlsink.CallError(ctx, io.EOF); ctx.Err() == nil || !errors.Is(err, io.EOF) {
		t.Errorf("the context has the error %v, the call %v", ctx.Err(), err)
	}
}
