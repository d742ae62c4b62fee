// Command destinations prints the names of the destinations linked into it, one per line.
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
