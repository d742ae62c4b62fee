package cli

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/snapshot"
)

// Rendered returns the lines that a terminal without an edge shows after text was
// written to it.
func Rendered(text string) []string {
	lines, at, column := []string{""}, 0, 0
	escape := regexp.MustCompile(`^\x1b\[(\d*)([A-Za-z])`)
	for len(text) > 0 {
		if m := escape.FindStringSubmatch(text); m != nil {
			text = text[len(m[0]):]
			n, _ := strconv.Atoi(m[1])
			switch m[2] {
			case "A":
				at -= n
			case "J":
				lines = append(lines[:at], lines[at][:column])
			case "K":
				lines[at] = lines[at][:column]
			}
			continue
		}
		c := text[0]
		text = text[1:]
		switch c {
		case '\r':
			column = 0
		case '\n':
			at, column = at+1, 0
			if at == len(lines) {
				lines = append(lines, "")
			}
		default:
			line := lines[at]
			lines[at] = line[:column] + string(c) + line[min(column+1, len(line)):]
			column++
		}
	}
	return lines
}

func TestScreen_TearsNoLine(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, moves: true}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := range 50 {
				fmt.Fprintf(s, "line %d of writer %d\n", n, w)
			}
		})
		writers.Go(func() {
			for n := range 50 {
				s.show(fmt.Sprintf("block %d", n), strings.Repeat("=", n))
			}
		})
	}
	writers.Wait()
	s.show("the last", "block")
	s.keep()
	fmt.Fprintln(s, "afterwards")
	lines := Rendered(out.String())
	if len(lines) != 204 {
		t.Fatalf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	if diff := cmp.Diff([]string{"the last", "block", "afterwards", ""}, lines[200:]); diff != "" {
		t.Error(diff)
	}
	next := make(map[int]int)
	for _, line := range lines[:200] {
		var n, w int
		if _, err := fmt.Sscanf(line, "line %d of writer %d", &n, &w); err != nil || n != next[w] ||
			line != fmt.Sprintf("line %d of writer %d", n, w) {
			t.Errorf("%q: %v", line, err)
		}
		next[w] = n + 1
	}
}

func TestScreen_FitsTheTerminal(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, moves: true} // 80 columns, 24 rows
	var block []string
	for n := range 30 {
		block = append(block, fmt.Sprintf("%d %s", n, strings.Repeat("ä", 90)))
	}
	s.show(block...)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 22 || !strings.HasPrefix(lines[0], "8 ") { // one row is free above them, and the cursor's below
		t.Errorf("%d lines, the first %q", len(lines), lines[0])
	}
	for _, line := range lines {
		if n := len([]rune(line)); n != 79 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

// barOf returns how much of the width of a line's bar is full.
func barOf(t *testing.T, line string) float64 {
	t.Helper()
	m := regexp.MustCompile(`\[(=*)>?( *)\]`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no bar in %q", line)
	}
	width := strings.Index(line, "]") - strings.Index(line, "[") - 1
	return float64(len(m[1])) / float64(width)
}

func TestBars_ShowTheShareOfAllTables(t *testing.T) {
	b := &bars{screen: &screen{out: new(bytes.Buffer)}, what: "import"}
	totals := snapshot.Totals{}
	for n := range 16 {
		totals.Tables++
		b.record(snapshot.TableProgress{Table: fmt.Sprint("t", n), Phase: snapshot.Waiting}, totals)
	}
	whole := func(columns int) float64 {
		lines, _ := b.render(columns, time.Second)
		return barOf(t, lines[len(lines)-2])
	}
	if got := whole(80); got != 0 {
		t.Errorf("nothing is done, and the bar shows %.2f", got)
	}
	// One table is done, and of the others not even the size is known.
	totals = snapshot.Totals{Tables: 16, Done: 1, Rows: 10, Bytes: 1000, TotalBytes: 1000, Unsized: 15}
	b.record(snapshot.TableProgress{Table: "t0", Phase: snapshot.Done, Bytes: 1000, TotalBytes: 1000}, totals)
	for _, columns := range []int{80, 120, 200} {
		if got := whole(columns); got < 0.02 || got > 1.0/16 {
			t.Errorf("%d columns: one table of 16 is done, and the bar shows %.2f", columns, got)
		}
	}
	for n := range 15 {
		totals.Done++
		b.record(snapshot.TableProgress{Table: fmt.Sprint("t", n+1), Phase: snapshot.Loading, Bytes: 999, TotalBytes: 1000}, totals)
	}
	if got := whole(200); got == 1 {
		t.Error("the bar is full before everything is done")
	}
	for n := range 15 {
		b.record(snapshot.TableProgress{Table: fmt.Sprint("t", n+1), Phase: snapshot.Done}, totals)
	}
	if got := whole(80); got != 1 {
		t.Errorf("everything is done, and the bar shows %.2f", got)
	}
}

func TestBars_HaveALineForEachTableUnderWay(t *testing.T) {
	b := &bars{screen: &screen{out: new(bytes.Buffer)}, what: "import"}
	totals := snapshot.Totals{Tables: 4, Done: 1, Failed: 1, Rows: 1234, Bytes: 3 << 20, TotalBytes: 4 << 20, Unsized: 1}
	b.record(snapshot.TableProgress{Table: "customer", Phase: snapshot.Done}, totals)
	b.record(snapshot.TableProgress{Table: "order", Phase: snapshot.Loading, Rows: 1000, Bytes: 1 << 20, TotalBytes: 2 << 20}, totals)
	b.record(snapshot.TableProgress{Table: "vehicle", Phase: snapshot.Failed, Err: errors.New("no room")}, totals)
	b.record(snapshot.TableProgress{Table: "a_table_with_a_very_long_name", Phase: snapshot.Waiting}, totals)
	b.record(snapshot.TableProgress{Table: "a_table_with_a_very_long_name", Phase: snapshot.Finishing, Rows: 7}, totals)
	lines, failures := b.render(80, 61*time.Second)
	if diff := cmp.Diff([]string{
		"order                [=========>         ] loading         1000 rows    1.0 MiB",
		"a_table_with_a_very_ [===================] finishing          7 rows        0 B",
		"all tables           [================>  ] 1/4             1234 rows    3.0 MiB",
		"1m1s, 20 rows/s",
	}, lines); diff != "" {
		t.Error(diff)
	}
	if len(failures) != 1 || failures[0].Table != "vehicle" {
		t.Errorf("failures: %v", failures)
	}
	totals.Unsized = 0
	b.record(snapshot.TableProgress{Table: "order", Phase: snapshot.Loading, Rows: 1000, Bytes: 1 << 20, TotalBytes: 2 << 20}, totals)
	lines, failures = b.render(40, 3*time.Minute)
	if diff := cmp.Diff([]string{
		"order                loading         1000 rows    1.0 MiB",
		"a_table_with_a_very_ finishing          7 rows        0 B",
		"all tables           1/4             1234 rows    3.0 MiB",
		"3m0s, 7 rows/s, 1m0s left",
	}, lines); diff != "" || len(failures) != 0 {
		t.Error(diff, failures)
	}
}

// blocked is a terminal whose flow is stopped.
type blocked struct{ until chan struct{} }

func (b blocked) Write(p []byte) (int, error) {
	<-b.until
	return len(p), nil
}

func TestBars_DoNotHoldTheImportUp(t *testing.T) {
	terminal := blocked{make(chan struct{})}
	b := &bars{screen: &screen{out: terminal, moves: true}, what: "import"}
	for n := range 100 {
		b.observe(
			snapshot.TableProgress{Table: fmt.Sprint("t", n), Phase: snapshot.Failed, Err: errors.New("no room")},
			snapshot.Totals{Tables: 100},
		)
	}
	close(terminal.until)
	b.finish()
}
