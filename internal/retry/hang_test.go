package retry_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shopmonkeyus/eds/internal/retry"
)

func TestWatch_ReportsAHangOnce(t *testing.T) {
	failure := errors.New("no route")
	for takes, want := range map[time.Duration]int{0: 0, retry.HangTimeout - time.Nanosecond: 0, retry.HangTimeout + time.Nanosecond: 1, time.Hour: 1} {
		synctest.Test(t, func(t *testing.T) {
			began, told := time.Now(), 0
			err := retry.Watch(func() {
				if told++; time.Since(began) != retry.HangTimeout {
					t.Errorf("told after %v", time.Since(began))
				}
			}, func() error {
				time.Sleep(takes)
				return failure
			})
			if told != want || !errors.Is(err, failure) {
				t.Errorf("%v: told %d times, want %d; %v", takes, told, want, err)
			}
		})
	}
}
