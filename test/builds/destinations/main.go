// Command destinations prints the names of all destinations that are linked into it, one per line.
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
