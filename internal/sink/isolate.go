package sink

import "github.com/shopmonkeyus/eds/internal/fault"

// Isolate finds the items that the callback load refuses. It first calls load with the range of
// all n items. If load refuses a range as poison, Isolate calls load with each half of that range.
// For each single item that load refuses, Isolate calls the callback refused with the item's index
// and the reason. Both callbacks are called in the order of the items. Isolate stops at any other
// error of a callback, and returns that error.
func Isolate(n int, load func(from, to int) error, refused func(i int, reason error) error) error {
	if n == 0 {
		return nil
	}
	return isolate(0, n, load, refused)
}

func isolate(from, to int, load func(from, to int) error, refused func(i int, reason error) error) error {
	err := load(from, to)
	switch {
	case err == nil || fault.Of(err) != fault.Poison:
		return err
	case to-from == 1:
		return refused(from, err)
	}
	middle := from + (to-from)/2
	if err := isolate(from, middle, load, refused); err != nil {
		return err
	}
	return isolate(middle, to, load, refused)
}
