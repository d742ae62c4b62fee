package supervisor

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLineSplitter_SplitsAnyChunks(t *testing.T) {
	const text = "one\n\n  two \r\nabcdefghij\nabcdefghijk\nthree"
	want := []string{"one", "two", "abcdefghij", "abcdefghij (cut)", "three"}
	for size := 1; size <= len(text); size++ {
		var got []string
		l := lineSplitter{max: 10, handle: func(text []byte, cut bool) {
			one := string(text)
			if cut {
				one += " (cut)"
			}
			got = append(got, one)
		}}
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if wrote, err := l.Write([]byte(rest[:n])); wrote != n || err != nil {
				t.Fatal(wrote, err)
			}
			rest = rest[n:]
		}
		l.flush()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("in pieces of %d (-want +got):\n%s", size, diff)
		}
	}
}

func TestOutput_IsBounded(t *testing.T) {
	const flood = 100
	piece := []byte(strings.Repeat("x", 32<<10))
	o := newOutput(broken{})
	l := lineSplitter{max: maxLine, handle: func([]byte, bool) {}}
	for range flood {
		if n, err := o.Write(piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
		_, _ = l.Write(piece)
	}
	if kept := cap(o.kept); kept > 4*maxStderr {
		t.Errorf("%d bytes of output are held", kept)
	}
	if held := cap(l.held) + cap(o.split.held); held > 4*maxLine {
		t.Errorf("%d bytes of a line are held", held)
	}
}

// broken is a standard error without a reader.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestOutput_FindsTheRuntimesMessage(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "",
		"log: panic: no\n":                     "",
		"panic: one":                           "panic: one",
		"log\npanic: one\n\ngoroutine 1:\n":    "panic: one",
		"panic: one [recovered]\n\tpanic: two": "panic: two",
		"fatal error: all goroutines are asleep - " +
			"deadlock!\n" + strings.Repeat("goroutine\n", 20_000): "fatal error: all goroutines are asleep - deadlock!",
		"panic: \xff" + strings.Repeat("x", 5000) + "\n": "panic: \uFFFD" + strings.Repeat("x", maxMessage-len("panic: \xff")),
	} {
		o := newOutput(broken{})
		_, _ = o.Write([]byte(text))
		kept, got := o.tail()
		if got != want {
			t.Errorf("%.40q: got %.40q, want %.40q", text, got, want)
		}
		if want := strings.ToValidUTF8(text[max(0, len(text)-maxStderr):], "\uFFFD"); kept != want {
			t.Errorf("%.40q: kept %d bytes, want %d", text, len(kept), len(want))
		}
	}
}
