package shop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/devhq/shop"
)

const childEnv = "SHOP_TEST_CHILD"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(1)
	}
	if err := flag.Set("rapid.checks", "40"); err != nil { // fewer than usual: each makes and breaks many shops
		panic(err)
	}
	os.Exit(m.Run())
}

// child works in the shop in dir for ever, and publishes to standard output.
func child(dir string) error {
	s, err := shop.Open(dir, shop.Options{})
	if err != nil {
		return err
	}
	s.CheckpointAfter(30_000)
	var line []byte
	for {
		if err := s.Work(context.Background(), 10, func(changes []shop.Change) (int, error) {
			for i := range changes {
				line = append(changes[i].AppendJSON(line[:0]), '\n')
				if _, err := os.Stdout.Write(line); err != nil {
					return i, err
				}
			}
			return len(changes), nil
		}); err != nil {
			return err
		}
	}
}

func TestAKilledShopLosesNothing(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, 14, c)
	model := held(t, s, s.Snapshot())
	keys := primaryKeys(t, s)
	closed(t, s)
	seen := map[string]bool{}
	var changes []shop.Change
	random := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		for _, line := range runAndKill(t, dir, 1+random.IntN(400)) {
			ch := parse(t, line)
			if !seen[ch.ID] {
				seen[ch.ID] = true
				changes = append(changes, ch)
			}
		}
	}
	var rest []shop.Change
	s, err := shop.Open(dir, shop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	must(t, s.Do(t.Context(), keep(&rest)))
	for _, ch := range rest {
		if !seen[ch.ID] {
			changes = append(changes, ch)
		}
	}
	for i := range changes {
		model.apply(t, keys, &changes[i])
	}
	if diff := cmp.Diff(held(t, s, s.Snapshot()), model); diff != "" {
		t.Fatal(diff)
	}
}

// runAndKill runs a child until it has published some changes, kills it, and
// returns all that it published.
func runAndKill(t *testing.T, dir string, after int) []string {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	in := bufio.NewReader(out)
	var lines []string
	for {
		line, err := in.ReadString('\n')
		if err != nil { // what was being written when it was killed was not published
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
		if len(lines) == after {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // it was killed, which is an error
	if len(lines) < after {
		t.Fatalf("the child ended by itself: %s", problems.String())
	}
	return lines
}

// parse reads what naive application needs of a change on the wire.
func parse(t testing.TB, line string) shop.Change {
	t.Helper()
	var w struct {
		ID, Table, Operation string
		Before, After        json.RawMessage
	}
	must(t, json.Unmarshal([]byte(line), &w))
	op, err := cdc.ParseOp([]byte(w.Operation))
	must(t, err)
	return shop.Change{ID: w.ID, Table: w.Table, Op: op, Before: w.Before, After: w.After}
}
