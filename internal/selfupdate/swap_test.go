package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The environment of the process that changes the disk, and is killed.
const (
	childDir   = "EDS_TEST_SELFUPDATE_DIR"
	childDo    = "EDS_TEST_SELFUPDATE_DO"
	childAside = "EDS_TEST_SELFUPDATE_ASIDE"
	childKill  = "EDS_TEST_SELFUPDATE_KILL" // at this moment, counted from 0
)

// machine returns an updater of the program in dir. It needs no network.
func machine(dir string, renameFirst bool) *Updater {
	return &Updater{
		o:      Options{Version: running, Observe: func(Progress) {}},
		target: filepath.Join(dir, "eds"), bounds: defaultBounds(), renameFirst: renameFirst, now: time.Now,
		step: func(_ string, change func() error) error { return change() },
	}
}

// do performs one of the operations that change the disk.
func do(u *Updater, operation string) error {
	switch operation {
	case "swap":
		s := &Staged{u: u, plan: Plan{From: running, To: newer}}
		var err error
		if s.dir, err = os.MkdirTemp(u.dir(), u.scratchPattern()); err != nil {
			return err
		}
		s.program = filepath.Join(s.dir, "eds")
		if err := os.WriteFile(s.program, []byte(says(newer)), 0o755); err != nil {
			return err
		}
		if s.sum, err = sumFile(s.program); err != nil {
			return err
		}
		return s.Swap()
	case "rollback":
		return u.Rollback(context.Background(), "it was killed")
	default:
		_, err := u.Recover()
		return err
	}
}

// child performs an operation, and is killed at a moment before or after one of its
// changes of the disk, where there is such a moment.
func child(dir string) int {
	u := machine(dir, os.Getenv(childAside) != "")
	at, err := strconv.Atoi(os.Getenv(childKill))
	if err != nil {
		panic(err)
	}
	moment := 0
	maybeDie := func() {
		if moment == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		moment++
	}
	u.step = func(_ string, change func() error) error {
		maybeDie()
		err := change()
		maybeDie()
		return err
	}
	if err := do(u, os.Getenv(childDo)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killed performs an operation in a process that is killed at a moment, and
// reports whether that moment came.
func killed(t *testing.T, dir, operation string, renameFirst bool, moment int) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childDo+"="+operation, childKill+"="+strconv.Itoa(moment))
	if renameFirst {
		cmd.Env = append(cmd.Env, childAside+"=1")
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	exit := new(exec.ExitError)
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s: %v\n%s", operation, err, out)
	}
	return true
}

// outcome is what an operation, or a power cut in it, leaves.
type outcome struct {
	State   State
	InPlace string // version
}

// recovered starts the program in place as a machine does that has power again,
// and returns where it stands then.
func recovered(t *testing.T, dir string, renameFirst bool) outcome {
	t.Helper()
	u := machine(dir, renameFirst)
	first := u.target
	if _, err := os.Stat(first); err != nil && renameFirst {
		first = u.Old() // by hand
	}
	version(t, first)
	status, err := u.Recover()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := u.Status(); err != nil || again != status {
		t.Errorf("recovered %+v, but stands at %+v, %v", status, again, err)
	}
	return outcome{status.State, version(t, u.target)}
}

func newMachine(t *testing.T, renameFirst bool, operations ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "eds"), []byte(says(running)), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, o := range operations {
		if err := do(machine(dir, renameFirst), o); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSwap_StartsAfterAnyPowerCut(t *testing.T) {
	for operation, c := range map[string]struct {
		first         []string
		before, after outcome
	}{
		"swap":     {nil, outcome{Settled, running}, outcome{Probation, newer}},
		"rollback": {[]string{"swap"}, outcome{Probation, newer}, outcome{Reverted, running}},
	} {
		for _, renameFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s renameFirst=%t", operation, renameFirst), func(t *testing.T) {
				seen := make(map[outcome]int)
				for moment := 0; ; moment++ {
					dir := newMachine(t, renameFirst, c.first...)
					if !killed(t, dir, operation, renameFirst, moment) {
						break
					}
					got := recovered(t, dir, renameFirst)
					if seen[got]++; got != c.before && got != c.after {
						t.Errorf("moment %d: %+v", moment, got)
					}
					if err := do(machine(dir, renameFirst), operation); err != nil && !errors.Is(err, ErrOnProbation) {
						t.Errorf("moment %d, once more: %v", moment, err)
					}
					if got := recovered(t, dir, renameFirst); got != c.after {
						t.Errorf("moment %d, once more: %+v", moment, got)
					}
					if got := version(t, machine(dir, renameFirst).Old()); got != running {
						t.Errorf("moment %d: kept is %s", moment, got)
					}
				}
				if seen[c.before] == 0 || seen[c.after] == 0 {
					t.Errorf("the power was cut too late or too early: %v", seen)
				}
			})
		}
	}
}

func TestRecover_SurvivesAnotherPowerCut(t *testing.T) {
	for _, renameFirst := range []bool{false, true} {
		// Killed right after the reason was noted.
		for moment := 0; ; moment++ {
			dir := newMachine(t, renameFirst, "swap")
			if !killed(t, dir, "rollback", renameFirst, 1) {
				t.Fatal("the rollback was not killed")
			}
			if !killed(t, dir, "recover", renameFirst, moment) {
				break
			}
			if diff := cmp.Diff(outcome{Reverted, running}, recovered(t, dir, renameFirst)); diff != "" {
				t.Errorf("renameFirst=%t, moment %d: %s", renameFirst, moment, diff)
			}
		}
	}
}

func TestSwap_KeepsTheOldProgramIfAStepFails(t *testing.T) {
	broken := errors.New("input/output error")
	for _, renameFirst := range []bool{false, true} {
		for failing := 0; ; failing++ {
			dir := newMachine(t, renameFirst)
			u, step := machine(dir, renameFirst), 0
			u.step = func(_ string, change func() error) error {
				if step++; step-1 == failing {
					return broken
				}
				return change()
			}
			err := do(u, "swap")
			if step <= failing {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if !errors.Is(err, broken) {
				t.Errorf("renameFirst=%t, step %d: %v", renameFirst, failing, err)
			}
			if diff := cmp.Diff(outcome{Settled, running}, recovered(t, dir, renameFirst)); diff != "" {
				t.Errorf("renameFirst=%t, step %d: %s", renameFirst, failing, diff)
			}
		}
	}
}

func TestSwap_CopiesTheOldProgramIfItCannotLink(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte(says(running)), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := copyProgram(in, to); err != nil {
		t.Fatal(err)
	}
	if got := version(t, to); got != running {
		t.Error(got)
	}
}

func TestRollback_KeepsItsReasonUntilCommit(t *testing.T) {
	w := newWorld(t)
	u := w.upgrade()
	for want := 1; want <= 2; want++ {
		status, err := w.updater().Attempt(t.Context(), 2) // by another process each time
		if err != nil || status.State != Probation || status.Attempts != want {
			t.Errorf("%+v, %v, want %d attempts", status, err, want)
		}
	}
	if err := u.Rollback(t.Context(), "it was not healthy within a minute"); err != nil {
		t.Fatal(err)
	}
	status, err := w.updater().Recover()
	if err != nil || status.Began.IsZero() {
		t.Fatal(status, err)
	}
	want := Status{
		State: Reverted, From: running, To: newer, Began: status.Began, Attempts: 2,
		Reason: "it was not healthy within a minute",
	}
	if diff := cmp.Diff(want, status); diff != "" {
		t.Error(diff)
	}
	if status, err := u.Attempt(t.Context(), 2); err != nil || status.Attempts != 2 {
		t.Errorf("an attempt of the old program was counted: %+v, %v", status, err)
	}
	if got := version(t, w.target); got != running {
		t.Errorf("in place is %s", got)
	}
	if err := u.Commit(); err != nil {
		t.Fatal(err)
	}
	if status, err := u.Recover(); err != nil || status != (Status{}) {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestAttempt_RollsBackAfterTooManyStarts(t *testing.T) {
	w := newWorld(t)
	w.upgrade()
	var got []State
	for range 4 {
		status, err := w.updater().Attempt(t.Context(), 2) // by another process each time
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, status.State)
	}
	if diff := cmp.Diff([]State{Probation, Probation, Reverted, Reverted}, got); diff != "" {
		t.Error(diff)
	}
	status, err := w.updater().Recover()
	if err != nil || status.Reason != "it was started 2 times and did not pass its probation" || version(t, w.target) != running {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestRollback_WorksWithoutProbation(t *testing.T) {
	w := newWorld(t)
	u := w.upgrade()
	if err := u.Commit(); err != nil {
		t.Fatal(err)
	}
	w.options.Version = newer
	u = w.updater()
	if err := u.Rollback(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	status, err := u.Recover()
	if err != nil || status.State != Reverted || status.From != running || status.To != newer || status.Reason != "requested" {
		t.Errorf("%+v, %v", status, err)
	}
	if err := u.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := u.Rollback(t.Context(), ""); !errors.Is(err, ErrNoOld) {
		t.Errorf("once more: %v", err)
	}
	if got := version(t, w.target); got != running {
		t.Errorf("in place is %s", got)
	}
}

func TestRollback_RefusesAChangedOldProgram(t *testing.T) {
	for name, spoil := range map[string]func(old string) error{
		"missing": os.Remove,
		"changed": func(old string) error { return os.WriteFile(old, []byte("garbage"), 0o755) },
	} {
		w := newWorld(t)
		u := w.upgrade()
		if err := os.Remove(u.Old()); err != nil { // it is a link to the program that ran
			t.Fatal(err)
		}
		if err := os.WriteFile(u.Old(), nil, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := spoil(u.Old()); err != nil {
			t.Fatal(err)
		}
		if err := u.Rollback(t.Context(), "it failed"); !errors.Is(err, ErrNoOld) {
			t.Errorf("%s: %v", name, err)
		}
		if got := version(t, w.target); got != newer {
			t.Errorf("%s: in place is %s", name, got)
		}
	}
}

func TestRecover_SettlesIfAnotherProgramWasInstalled(t *testing.T) {
	w := newWorld(t)
	u := w.upgrade()
	if err := os.Remove(w.target); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.target, []byte(says("9.9.9")), 0o755); err != nil {
		t.Fatal(err)
	}
	status, err := u.Recover()
	if err != nil || status != (Status{}) {
		t.Errorf("%+v, %v", status, err)
	}
	if got := version(t, w.target); got != "9.9.9" {
		t.Errorf("in place is %s", got)
	}
	if got := fmt.Sprint(w.listing()); got != "[eds eds.old]" {
		t.Errorf("the directory holds %s", got)
	}
}

func TestRecover_IgnoresADamagedJournal(t *testing.T) {
	w := newWorld(t)
	u := w.upgrade()
	if err := os.WriteFile(u.journalPath(), []byte(`{"from":`), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, err := u.Recover(); err != nil || status != (Status{}) {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestSwap_WritesAJournalThatEveryUserCanRead(t *testing.T) {
	w := newWorld(t)
	info, err := os.Stat(w.upgrade().journalPath())
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
