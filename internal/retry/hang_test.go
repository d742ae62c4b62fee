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
	for takes, want := range map[time.Duration]int{
		0: 0, retry.HangTimeout - time.Nanosecond: 0, retry.HangTimeout + time.Nanosecond: 1, time.Hour: 1,
	} {
		synctest.Test(t, func(t *testing.T) {
			began, reports := time.Now(), 0
			err := retry.Watch(func() {
				if reports++; time.Since(began) != retry.HangTimeout {
					t.Errorf("reported after %v", time.Since(began))
				}
			}, func() error {
				time.Sleep(takes)
				return failure
			})
			if reports != want || !errors.Is(err, failure) {
				t.Errorf("%v: reported %d times, want %d; %v", takes, reports, want, err)
			}
		})
	}
}
