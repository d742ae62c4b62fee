package fault

import (
	"errors"
	"fmt"
	"time"
)

// Silence is how long an attempt may go without returning until somebody is told.
const Silence = 30 * time.Second

// ErrSilence is what somebody is told then.
var ErrSilence = errors.New("there was no answer for " + Silence.String())

// Attempt calls fn. If fn does not return within Silence, silent is called meanwhile, once,
// and has returned when Attempt does.
func Attempt(silent func(), fn func() error) error {
	told := make(chan struct{})
	timer := time.AfterFunc(Silence, func() {
		defer close(told)
		silent()
	})
	defer func() {
		if !timer.Stop() {
			<-told
		}
	}()
	return fn()
}

// After returns err with why the attempt before failed, unless that is "".
func After(err error, failure string) error {
	if failure == "" {
		return err
	}
	return fmt.Errorf("%w; the attempt before: %s", err, failure)
}
