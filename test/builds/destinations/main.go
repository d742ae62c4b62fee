// Command destinations prints the names of the destinations that were linked into it,
// a line each.
package main

import (
	"fmt"

	"github.com/shopmonkeyus/eds/internal/drivers"
)

func main() {
	for _, d := range drivers.All() {
		fmt.Println(d.Name)
	}
}
