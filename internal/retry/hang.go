package retry

import (
	"errors"
	"fmt"
	"time"
)

// HangTimeout is how long a call may run before Watch reports it.
const HangTimeout = 30 * time.Second

// ErrNoAnswer is the error that is reported for a call without an answer after HangTimeout.
var ErrNoAnswer = errors.New("there was no answer for " + HangTimeout.String())

// Watch calls fn and returns its error. If fn runs longer than HangTimeout, Watch calls the first
// callback once, in another goroutine. Watch returns only after each callback that it has called
// has returned.
func Watch(hangs func(), fn func() error) error {
	reported := make(chan struct{})
	timer := time.AfterFunc(HangTimeout, func() {
		defer close(reported)
		hangs()
	})
	defer func() {
		if !timer.Stop() {
			<-reported
		}
	}()
	return fn()
}

// After returns err with the failure of the previous attempt added to its text. If failure is "",
// After returns err unchanged.
func After(err error, failure string) error {
	if failure == "" {
		return err
	}
	return fmt.Errorf("%w; the previous attempt: %s", err, failure)
}
