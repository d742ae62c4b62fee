package fault_test

import (
	"errors"
	"fmt"

	"github.com/shopmonkeyus/eds/internal/fault"
)

func ExampleMark() {
	err := fault.Mark(fault.Poison, errors.New("the row is too large"))
	err = fmt.Errorf("insert a change: %w", err)
	fmt.Println(fault.Of(err), "-", err)
	fmt.Println(fault.Of(errors.New("connection refused")))
	// Output:
	// poison - insert a change: the row is too large
	// transient
}
