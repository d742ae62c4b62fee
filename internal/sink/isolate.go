package sink

import "github.com/shopmonkeyus/eds/internal/fault"

// Isolate calls load with the range of all n items, and with each half of a range that load
// refuses as poison. It calls refused with each single item that load refuses, and the
// reason. Ranges and items come in order. Any other error ends Isolate, and so does an error
// of refused.
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
