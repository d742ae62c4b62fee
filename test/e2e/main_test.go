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

// program is the eds binary under test; directory is where it was built.
var program, directory string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if wrapped := os.Getenv(programVariable); wrapped != "" {
		return wrap(wrapped)
	}
	// The tests wait more than they compute.
	if err := flag.Set("test.parallel", "12"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "eds-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	directory, program = dir, filepath.Join(dir, "eds")
	if err := build(program, "1", "-race", "-ldflags", "-s -w -linkmode=internal"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds the program under test, with or without cgo ("1" or "0").
func build(path, cgo string, options ...string) error {
	cmd := exec.Command("go", append(append([]string{"build"}, options...), "-tags", tags, "-o", path, "github.com/shopmonkeyus/eds")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build eds: %w\n%s", err, out)
	}
	return nil
}
