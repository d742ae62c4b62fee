package sinktest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// recorder is a testing.TB that records the failures of a check.
type recorder struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()                           {}
func (r *recorder) Log(...any)                        {}
func (r *recorder) Logf(string, ...any)               {}
func (r *recorder) Failed() bool                      { return len(r.failures) > 0 }
func (r *recorder) Fail()                             { r.failures = append(r.failures, "failed") }
func (r *recorder) FailNow()                          { r.Fail(); runtime.Goexit() }
func (r *recorder) Error(args ...any)                 { r.failures = append(r.failures, fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }
func (r *recorder) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }

// failuresOf runs the check with the given name, and returns its failures.
func failuresOf(t *testing.T, c Config, name string) []string {
	t.Helper()
	i := slices.IndexFunc(checks, func(k property) bool { return k.name == name })
	if i < 0 {
		t.Fatalf("there is no check %q", name)
	}
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for _, f := range slices.Backward(r.cleanups) {
				f()
			}
		}()
		defer func() {
			if p := recover(); p != nil {
				r.Error("panic: ", p)
			}
		}()
		checks[i].run(newHarness(r, c))
	}()
	<-done
	return r.failures
}

// mustFail checks that the check with the given name finds the defect of c.
func mustFail(t *testing.T, c Config, name string) {
	t.Helper()
	failures := failuresOf(t, c, name)
	if len(failures) == 0 {
		t.Errorf("the check %q does not find it", name)
	} else {
		t.Logf("%s: %.200s", name, strings.ReplaceAll(failures[0], "\n", " "))
	}
}
