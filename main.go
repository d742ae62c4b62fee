// Eds makes a database that you own equal to a SaaS's, and keeps it so.
package main

import (
	"os"

	"github.com/shopmonkeyus/eds/internal/cli"
)

func main() { os.Exit(cli.Run(cli.System())) }
