package torture

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// These are the parameters of make torture.
var (
	seed     = flag.Uint64("seed", 1, "the seed of the first round; each further one has the next")
	length   = flag.Duration("for", 0, "how long to begin rounds; 0 is one round")
	kinds    = flag.String("kinds", "", "kinds of faults, separated by commas, or none; all: the enabled ones, then each known fault")
	patience = flag.Duration("patience", 90*time.Second, "how long eds may take to make the destination complete, or to say why it is not")
)

// directory holds the built program. It is removed when the tests end.
var directory string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Rounds mostly wait, so more of them than CPUs can run in parallel.
	err := flag.Set("test.parallel", "6")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if directory, err = os.MkdirTemp("", "eds-torture-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	return m.Run()
}

// build builds eds once and returns the path of the program.
var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(directory, "eds")
	build := exec.Command("go", "build", "-tags", "use_custom_driver,use_postgres,use_sqlite", "-o", path, "github.com/shopmonkeyus/eds")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build eds: %w\n%s", err, out)
	}
	return path, nil
})

func TestTorture(t *testing.T) {
	t.Parallel()
	for i, name := range slices.Sorted(maps.Keys(Destinations())) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := Destinations()[name]
			began := time.Now()
			for n := *seed; n == *seed || time.Since(began) < *length; n++ {
				r := newRound(t, name, start)
				r.Seed, r.Kinds = n, chosen(t, i, name, n)
				if err := r.finish(t); err != nil {
					t.Fatalf("%s\nto replay it:\n\n  make torture ON=%s SEED=%d FOR=0 KINDS=%s\n", r.Report(err), name, n,
						cmp.Or(Names(r.Kinds), "none"))
				}
			}
			if *kinds == "all" {
				failAsKnown(t, name, start)
			}
		})
	}
}

// chosen returns the kinds for a round on destination number i. If there is only one round per
// destination, the destinations share the enabled kinds among them.
func chosen(t *testing.T, i int, name string, seed uint64) []Kind {
	t.Helper()
	switch *kinds {
	case "none":
		return nil
	case "all":
		return Enabled(name, seed)
	case "":
		if *length == 0 {
			return Share(slices.Sorted(maps.Keys(Destinations())), i, seed)
		}
		return Enabled(name, seed)
	}
	named, err := Named(*kinds)
	if err != nil {
		t.Fatal(err)
	}
	return named
}

// failAsKnown runs a round for each known fault, and reports faults whose round passes.
func failAsKnown(t *testing.T, name string, start func(*testing.T, string) Destination) {
	for _, known := range knownOn(name) {
		t.Run(known.Kind, func(t *testing.T) {
			chosen, err := Named(known.Kind)
			if err != nil {
				t.Fatal(err)
			}
			r := newRound(t, name, start)
			r.Seed, r.Kinds = known.Seed, chosen
			err = r.finish(t)
			failure := new(Failure)
			switch {
			case err == nil:
				t.Errorf("seed %d passes now; if other seeds do too, remove %s from the known faults", known.Seed, known.Kind)
			case !errors.As(err, &failure):
				t.Error(r.Report(err))
			case failure.Symptom != known.Symptom:
				t.Errorf("it no longer fails as listed, %q:\n%s", known.Symptom, r.Report(err))
			default:
				t.Logf("it fails as listed: %v; %s", failure, known.Needs)
				if err := os.RemoveAll(r.Dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// newRound returns a round on a new destination. The caller sets the seed and the kinds.
func newRound(t *testing.T, name string, start func(*testing.T, string) Destination) *Round {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(t.ArtifactDir(), name+"-")
	if err != nil {
		t.Fatal(err)
	}
	return &Round{Program: program, Dir: dir, Destination: start(t, dir), Patience: *patience}
}

// finish runs the round. It removes the files of the round unless the round fails.
func (r *Round) finish(t *testing.T) error {
	t.Helper()
	began := time.Now()
	err := r.Run(t.Context())
	t.Logf("seed %d, %s: %v", r.Seed, Names(r.Kinds), time.Since(began).Round(time.Millisecond))
	if err == nil {
		err = os.RemoveAll(r.Dir)
	}
	return err
}

// TestRound_FailsForAWrongDestination changes rows in a way that eds cannot detect.
func TestRound_FailsForAWrongDestination(t *testing.T) {
	t.Parallel()
	r := newRound(t, "falsified", func(t *testing.T, dir string) Destination {
		return falsifier{newSQLite(t, dir).(*sqlite)}
	})
	truncate, err := kindOf("truncate-table") // the falsifier does not truncate
	if err != nil {
		t.Fatal(err)
	}
	r.Seed, r.Kinds, r.Patience = 5, []Kind{truncate}, 5*time.Second
	err = r.finish(t)
	if failure := new(Failure); !errors.As(err, &failure) || failure.Symptom != Silence {
		t.Fatalf("the round ended with %v, want %q", err, Silence)
	}
	report := r.Report(err)
	for _, want := range []string{"seed 5", "$ eds import\n", "truncate a table", "company: ", "(name)", "eds reports no problem", r.Dir} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
}

// falsifier is a database in which another program changes rows.
type falsifier struct{ *sqlite }

func (f falsifier) Truncate(ctx context.Context, _ string) error {
	return f.execute(ctx, `UPDATE "company" SET "name" = 'another name'`)
}
