// Package e2e_test runs the real program, in real processes, between a local HQ
// and real destinations.
package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// tags choose the drivers of the program under test.
const tags = "use_custom_driver,use_postgres,use_sqlite,use_file,use_webhook"

// program is the eds binary under test.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if wrapped := os.Getenv(programVariable); wrapped != "" {
		return wrap(wrapped)
	}
	// The tests wait more than they work.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "eds-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "eds")
	build := exec.Command("go", "build", "-race", "-ldflags", "-s -w -linkmode=internal", "-tags", tags, "-o", program, "github.com/shopmonkeyus/eds")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build eds:", err)
		return 1
	}
	return m.Run()
}
