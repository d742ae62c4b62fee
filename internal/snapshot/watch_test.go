package snapshot_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// stall is a call of snapshot.Config.Stalled and its time.
type stall struct {
	After        time.Duration
	Part, Reason string
}

// stalls returns the calls of an import.
func (w *world) stalls(d *destination) (calls []stall, err error) {
	began := time.Now()
	_, err = w.run(w.t.Context(), d, func(c *snapshot.Config) {
		c.Stalled = func(part, reason string) { calls = append(calls, stall{time.Since(began), part, reason}) }
	})
	return calls, err
}

func TestStalled_NamesTheOperationWithoutProgress(t *testing.T) {
	for operation, waits := range map[string][2]string{
		"migrate": {"all tables", "make the tables"},
		"begin":   {`table "order"`, "begin the load"},
		"load":    {`table "order"`, "load file " + fileName("order", 1)},
		"finish":  {`table "order"`, "put the table in place"},
	} {
		t.Run(operation, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				d.hangs(operation, "order", 70*time.Second)
				calls, err := w.stalls(d)
				if err != nil {
					t.Fatal(err)
				}
				for i := range calls {
					calls[i].After = calls[i].After.Truncate(10 * time.Second)
				}
				reason := "the import of " + waits[0] + " makes no progress: " + waits[1] + ": there was no progress for "
				want := []stall{
					{30 * time.Second, waits[0], reason + "30s"},
					{time.Minute, waits[0], reason + "1m0s"},
					{70 * time.Second, waits[0], ""},
				}
				if diff := cmp.Diff(want, calls); diff != "" {
					t.Error(diff)
				}
				if logs := w.log.String(); strings.Count(logs, "the import makes no progress") != 2 || strings.Count(
					logs, "the import makes progress again",
				) != 1 {
					t.Errorf("it logs\n%s", logs)
				}
			})
		})
	}
}

func TestStalled_NamesTheErrorOfFailedAttempts(t *testing.T) {
	for operation, doing := range map[string]string{"begin": "begin the load", "finish": "put the table in place"} {
		t.Run(operation, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				began := time.Now()
				d.fail = func(what, table, _ string) error {
					if table == "order" && what == operation && time.Since(began) < 50*time.Second {
						return errors.New("pid 7 has a lock")
					}
					return nil
				}
				calls, err := w.stalls(d)
				if err != nil {
					t.Fatal(err)
				}
				if len(calls) < 2 || !strings.HasSuffix(
					calls[0].Reason, "no progress: there was no progress for 30s; the previous attempt: "+doing+": pid 7 has a lock",
				) || calls[len(calls)-1].Reason != "" {
					t.Errorf("it reports %v", calls)
				}
			})
		})
	}
}

// TestPatience_BeginsWithTheFirstFailure: a call that hangs may take longer than the import retries
// failures.
func TestPatience_BeginsWithTheFirstFailure(t *testing.T) {
	for _, operation := range []string{"migrate", "begin", "load", "finish"} {
		t.Run(operation, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world, d *destination) {
				failed := false
				d.hangs(operation, "order", 15*time.Minute)
				d.fail = func(what, table, _ string) error {
					if table == "order" && what == operation && !failed {
						failed = true
						return errors.New("no answer")
					}
					return nil
				}
				if _, err := w.run(t.Context(), d, nil); err != nil {
					t.Fatal(err)
				}
				expect(t, d, everyRow)
			})
		})
	}
}
