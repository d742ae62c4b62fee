package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shopmonkeyus/eds/internal/dlq"
	"github.com/shopmonkeyus/eds/internal/state"
)

// put adds an entry to the queue of the world.
func (w *deadLetterWorld) put(e dlq.Entry) {
	w.t.Helper()
	dir, err := state.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	q, err := dlq.Open(filepath.Join(w.dir, "dlq"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.sent++
	e.Sequence, e.Stored, e.Time = w.sent, int64(w.sent), time.Now()
	if err := q.Put(e); err != nil {
		w.t.Fatal(err)
	}
}

// TestDeadLetters_PrintNothingThatDeceives: names, keys, reasons and payloads come from
// messages that anything may be in.
func TestDeadLetters_PrintNothingThatDeceives(t *testing.T) {
	const reversed, isolated, line, invisible = "\u202e", "\u2067", "\u2028", "\u200b"
	w := newDeadLetterWorld(t)
	long := strings.Repeat("table", 2000)
	w.put(
		dlq.Entry{
			Table: "order" + reversed, Operation: "UP" + isolated, Stage: "st\x1b[2Jage",
			Reason: "because" + line + invisible, Payload: []byte("{\"v\":\"" + reversed + "evil\"}"),
		},
	)
	w.put(dlq.Entry{Table: long, Operation: long, Stage: "decode", Reason: "because", Payload: []byte("evil\rgood")})
	w.put(dlq.Entry{Table: "x;reboot", Operation: "UPDATE", Stage: "decode", Reason: "because", Payload: []byte("$(reboot)")})
	for _, table := range []string{"order", "line_item"} {
		w.put(dlq.Entry{Table: table, Operation: "UPDATE", Stage: "decode", Reason: "because", Payload: []byte("x")})
	}
	list := w.eds("dlq", "list")
	outputs := []string{list}
	for _, id := range w.ids() {
		outputs = append(outputs, w.eds("dlq", "show", id))
	}
	for _, out := range outputs {
		if strings.ContainsAny(out, reversed+isolated+line+invisible+"\x1b\r") {
			t.Errorf("it prints %q", out)
		}
	}
	for n, text := range strings.Split(list, "\n") {
		if len(text) > 400 && n < 4 {
			t.Errorf("line %d has %d bytes", n, len(text))
		}
	}
	if want := "An import resolves them: eds import --only line_item,order\n"; !strings.HasSuffix(list, want) { // a command to copy
		t.Errorf("the list ends with %q", list[max(0, len(list)-60):])
	}
	if json := w.eds("dlq", "list", "--json"); !strings.Contains(json, `"table": "x;reboot"`) {
		t.Errorf("JSON: %.300s", json)
	}
}

// TestReplay_OfAnotherDestination says so. An entry that is named and cannot be applied is
// an error.
func TestReplay_OfAnotherDestination(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.put(
		dlq.Entry{
			Table: "order", Operation: "UPDATE", Stage: "apply", Reason: "because", Destination: "another",
			Payload: []byte(update("v1", "1", "x")),
		},
	)
	id := w.ids()[0]
	if out, want := w.eds("dlq", "replay", id), fmt.Sprintf("the entry %s belongs to another destination", id); !strings.Contains(
		out,
		"exit code 3",
	) ||
		!strings.Contains(out, want) {
		t.Errorf("named: %q", out)
	}
	if out, want := w.eds("dlq", "replay"), "0 applied, 0 rejected again, 0 superseded, 1 of other destinations left\n"; out != want {
		t.Errorf("all: %q", out)
	}
	if len(w.ids()) != 1 {
		t.Error("the entry is gone")
	}
}

// TestReplay_TouchesNothingBesideAServer: it would remove the file that the server is
// writing.
func TestReplay_TouchesNothingBesideAServer(t *testing.T) {
	w := newDeadLetterWorld(t)
	w.stream("garbage")
	dir, err := state.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	writing := filepath.Join(w.dir, "dlq", ".writing-1")
	if err := os.WriteFile(writing, []byte("half a letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := w.eds("dlq", "replay"); !strings.Contains(out, "exit code") {
		t.Errorf("it says %q", out)
	}
	if found, _ := filepath.Glob(writing); len(found) != 1 {
		t.Error("the server's file is gone")
	}
}
