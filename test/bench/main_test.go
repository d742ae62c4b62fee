// Package bench_test measures eds as users run it: the program in its own processes, with real
// servers. The same run measures the destination without eds. Read the ratios: absolute figures
// depend on the machine.
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
	"sync"
	"testing"
)

// program builds the measured eds binary once and returns its path. A run without benchmarks does
// not build it.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(directory, "eds")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/shopmonkeyus/eds")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build eds: %w\n%s", err, out)
	}
	return path, nil
})

// directory holds the program, and is removed at the end.
var directory string

// results are the lines of the table printed at the end.
var results []string

func report(format string, args ...any) { results = append(results, fmt.Sprintf(format, args...)) }

// events is the number of events in the stream at the start.
func events() int { return setting("EDS_BENCH_EVENTS", 1_000_000) }

func setting(name string, standard int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return standard
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if directory, err = os.MkdirTemp("", "eds-bench-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	code := m.Run()
	if len(results) > 0 {
		fmt.Printf("\n%s\n", strings.Join(results, "\n"))
	}
	return code
}
