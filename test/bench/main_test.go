// Package bench_test measures eds as its users meet it: the program in processes
// of its own, real servers, and in the same run what the destination can do with no
// eds around it. Read the ratios; absolute figures depend on the machine.
//
//	make bench                    a million events
//	EDS_BENCH_EVENTS=100000 EDS_BENCH_ROWS=100000 ...   fewer
package bench_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// program is the eds binary that is measured.
var program string

// results are the lines of the table that is printed at the end.
var results []string

func report(format string, args ...any) { results = append(results, fmt.Sprintf(format, args...)) }

// events is how many events the stream holds when it is caught up on.
func events() int { return setting("EDS_BENCH_EVENTS", 1_000_000) }

func setting(name string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return standard
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "eds-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "eds")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "github.com/shopmonkeyus/eds")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build eds:", err)
		return 1
	}
	code := m.Run()
	if len(results) > 0 {
		fmt.Printf("\n%s\n", strings.Join(results, "\n"))
	}
	return code
}
