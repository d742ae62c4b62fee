package supervisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/supervisor"
)

const startLine = `{"type":"start","args":["--url","x"],"note":{"upgrade":{"version":"2","failed":true,"reason":"it ` +
	`crashed"}},"of a later version":1}` + "\n"

// attach attaches a worker to a parent that has said startLine.
func attach(t *testing.T, stdout io.Writer) (*supervisor.Worker, *io.PipeWriter) {
	t.Helper()
	stdin, parent := io.Pipe()
	go io.WriteString(parent, startLine)
	w, _, err := supervisor.Attach(stdin, stdout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w, parent
}

func TestAttach_ReadsTheStartMessage(t *testing.T) {
	w, start, err := supervisor.Attach(io.NopCloser(strings.NewReader("\n"+startLine)), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	want := supervisor.StartRequest{
		Args: []string{"--url", "x"},
		Note: supervisor.Note{Upgrade: &supervisor.Upgraded{Version: "2", Failed: true, Reason: "it crashed"}},
	}
	if diff := cmp.Diff(want, start); diff != "" {
		t.Error(diff)
	}
	<-w.Done() // because that was all
}

func TestAttach_RefusesAWorkerWithoutParent(t *testing.T) {
	const hint = "; only eds server starts a worker"
	for text, want := range map[string]string{
		"":                         "attach to the parent: read the start message: EOF" + hint,
		`{"type":"start"`:          "attach to the parent: read the start message: EOF" + hint,
		"secret\n":                 "attach to the parent: read the start message: it has another format" + hint,
		`{"type":"secret"}` + "\n": "attach to the parent: read the start message: it has another format" + hint,
		strings.Repeat("x", 5<<20): "attach to the parent: read the start message: EOF" + hint,
	} {
		w, _, err := supervisor.Attach(strings.NewReader(text), io.Discard)
		if w != nil || err == nil || err.Error() != want {
			t.Errorf("%.20q: %v, want %s", text, err, want)
		}
	}
}

func TestWorker_WritesItsMessages(t *testing.T) {
	var said buffer
	w, _ := attach(t, &said)
	w.Session("s-1")
	w.Ready()
	if err := w.Upgrade("2", "/staged/eds"); err != nil {
		t.Error(err)
	}
	w.Exiting(4, "upgrade")
	w.Close()
	want := `{"type":"session","session":"s-1"}
{"type":"ready"}
{"type":"upgrade","version":"2","staged":"/staged/eds"}
{"type":"exiting","code":4,"reason":"upgrade"}
`
	if diff := cmp.Diff(want, strings.ReplaceAll(said.String(), "\n\n", "\n")[1:]); diff != "" {
		t.Error(diff)
	}
	if err := w.Upgrade("2", ""); err == nil || err.Error() != "request an upgrade: no version or binary" {
		t.Error(err)
	}
	if err := w.Upgrade("3", "/staged/eds"); err == nil || err.Error() != "request an upgrade: the connection to the parent is closed" {
		t.Error(err)
	}
}

func TestWorker_NoticesTheEndOfItsParent(t *testing.T) {
	w, parent := attach(t, io.Discard)
	select {
	case <-w.Done():
		t.Fatal("at once")
	default:
	}
	if _, err := io.WriteString(parent, `{"type":"of a later version"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	parent.Close()
	<-w.Done()
}

func TestWorker_TreatsAParentThatDoesNotReadAsEnded(t *testing.T) {
	reader, stdout := io.Pipe()
	reader.CloseWithError(errors.New("broken pipe"))
	w, _ := attach(t, stdout)
	w.Beat()
	<-w.Done()
	if err := w.Upgrade("2", "/staged/eds"); err == nil || err.Error() != "request an upgrade: broken pipe" {
		t.Error(err)
	}
}

func TestWorker_IsNotBlockedByAStoppedParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader, stdout := io.Pipe()
		w, _ := attach(t, stdout)
		begin := time.Now()
		w.Beat()
		synctest.Wait() // it is being written
		for range 1000 {
			w.Beat()
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("the beats took %s", waited)
		}
		w.Session("s-1")
		w.Session("s-2")
		if err := w.Upgrade("2", "/staged/eds"); err == nil || err.Error() != "request an upgrade: the parent does not read" {
			t.Error(err)
		}
		w.Exiting(0, "")
		w.Close()
		if waited := time.Since(begin); waited != 25*time.Second {
			t.Errorf("it waited %s", waited)
		}

		said := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(reader)
			said <- all
		}()
		synctest.Wait()
		stdout.Close()
		want := "\n{\"type\":\"heartbeat\"}\n\n{\"type\":\"session\",\"session\":\"s-2\"}\n\n{\"type\":\"upgrade\"," +
			"\"version\":\"2\",\"staged\":\"/staged/eds\"}\n\n" +
			"{\"type\":\"heartbeat\"}\n\n{\"type\":\"exiting\"}\n"
		if diff := cmp.Diff(want, string(<-said)); diff != "" {
			t.Errorf("what it said once it could (-want +got):\n%s", diff)
		}
	})
}

func TestWorker_IsSafeForConcurrentUse(t *testing.T) {
	reader, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w, _ := attach(t, stdout)
	var speaking sync.WaitGroup
	for i := range 8 {
		speaking.Go(func() {
			for n := range 50 {
				w.Beat()
				w.Ready()
				w.Session(fmt.Sprint(i, n))
			}
		})
	}
	go func() {
		speaking.Wait()
		w.Exiting(0, "")
		stdout.Close()
	}()
	all, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	for text := range bytes.Lines(all) {
		if text = bytes.TrimSpace(text); len(text) > 0 && (text[0] != '{' || text[len(text)-1] != '}') {
			t.Fatalf("it said %q", text)
		}
	}
	if !bytes.HasSuffix(all, []byte("{\"type\":\"exiting\"}\n")) {
		t.Errorf("the last was %q", all[max(0, len(all)-100):])
	}
}

func TestWorker_IsOrphanedOnceItsParentHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, stdout := io.Pipe()
		go io.Copy(io.Discard, read)
		w, parent := attach(t, stdout)
		parent.Close() // which asks for an orderly end
		<-w.Done()
		time.Sleep(time.Hour)
		select {
		case <-w.Orphaned():
			t.Fatal("the parent still reads")
		default:
		}
		read.Close()
		<-w.Orphaned()
		w.Close()
	})
}

func TestWorker_IsOrphanedByAParentThatDies(t *testing.T) {
	read, stdout := io.Pipe()
	w, parent := attach(t, stdout)
	read.Close()
	parent.Close()
	<-w.Orphaned()
	<-w.Done()
}
