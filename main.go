// Eds makes a database that you own equal to the database of a SaaS, and keeps the two equal.
package main

import (
	"os"

	"github.com/shopmonkeyus/eds/internal/cli"
)

func main() { os.Exit(cli.Run(cli.System())) }
