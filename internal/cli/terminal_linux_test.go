package cli_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/shopmonkeyus/eds/internal/cli"
	"github.com/shopmonkeyus/eds/internal/devhq"
)

// person sits at a terminal at which a command runs.
type person struct {
	t       *testing.T
	keys    *os.File
	signals chan os.Signal
	code    chan int

	mu   sync.Mutex
	read sync.Cond
	seen bytes.Buffer // guarded by mu
}

// sitDown runs a command at a terminal of its own.
func sitDown(t *testing.T, env map[string]string, args ...string) *person {
	t.Helper()
	keys, screen := openTerminal(t)
	p := &person{t: t, keys: keys, signals: make(chan os.Signal, 2), code: make(chan int, 1)}
	p.read.L = &p.mu
	go func() {
		buffer := make([]byte, 4<<10)
		for {
			n, err := keys.Read(buffer)
			p.mu.Lock()
			p.seen.Write(buffer[:n])
			p.read.Broadcast()
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		p.code <- cli.Run(cli.Process{
			Args: args, Stdin: screen, Stdout: screen, Stderr: screen, Signals: p.signals,
			Lookup: func(name string) (string, bool) { value, ok := env[name]; return value, ok },
		})
	}()
	return p
}

// openTerminal returns both ends of a new terminal, 80 columns wide.
func openTerminal(t *testing.T) (keys, screen *os.File) {
	t.Helper()
	keys, screen, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = keys.Close()
		_ = screen.Close()
	})
	if err := pty.Setsize(screen, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	return keys, screen
}

// types types a line.
func (p *person) types(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.keys, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// sees waits until the terminal has shown text n times.
func (p *person) sees(text string, n int) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	late := false
	timer := time.AfterFunc(time.Minute, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.read.Broadcast()
	})
	defer timer.Stop()
	for strings.Count(p.seen.String(), text) < n {
		if late {
			p.t.Fatalf("%q is not shown %d times:\n%s", text, n, p.seen.String())
		}
		p.read.Wait()
	}
}

// screen returns what the terminal has shown.
func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

func TestServer_PromptsForTheCode(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	// The first letter of a code selects one of Shopmonkey's HQs; --api-url overrides it.
	p := sitDown(
		t, nil, "server", "--data-dir", dir, "--api-url", h.APIURL(), "--server", "nats://192.0.2.1", "--url",
		"file://"+t.TempDir(), "--port", "0",
	)
	p.sees("The code that HQ shows: ", 1)
	p.types("LWRONG")
	p.sees("The code that HQ shows: ", 2)
	p.types(code)
	p.sees("Enrolled as server ", 1)
	// The worker's log is for the same terminal.
	p.sees("eds is starting", 1)
	p.signals <- os.Interrupt
	if exit := <-p.code; exit != 0 || !strings.Contains(p.screen(), "That did not work: the code is unknown or was used already") ||
		strings.Contains(p.screen(), `{"time"`) {
		t.Errorf("exit code %d\n%s", exit, p.screen())
	}
}

func TestServer_AsksForNoCodeIfTheKeyCannotBeKept(t *testing.T) {
	dir := nowhere(t)
	p := sitDown(t, nil, "server", "--data-dir", dir)
	if exit := <-p.code; exit != 1 {
		t.Errorf("exit code %d", exit)
	}
	p.sees("no code was used: check that this user may write to "+dir, 1)
	if strings.Contains(p.screen(), "The code that HQ shows") {
		t.Error(p.screen())
	}
}

func TestEnroll_GivesUpAfterThreeWrongCodes(t *testing.T) {
	dir := t.TempDir()
	p := sitDown(t, nil, "server", "--data-dir", dir)
	for n := range 3 {
		p.sees("The code that HQ shows: ", n+1)
		p.types("X")
	}
	if exit := <-p.code; exit != 3 {
		t.Errorf("exit code %d", exit)
	}
	p.sees("run: eds enroll --data-dir "+dir+" CODE", 1)
}

func TestPrompt_EndsAtAnInterrupt(t *testing.T) {
	p := sitDown(t, nil, "server", "--data-dir", t.TempDir())
	p.sees("The code that HQ shows: ", 1)
	p.signals <- os.Interrupt
	if exit := <-p.code; exit != 1 {
		t.Errorf("exit code %d", exit)
	}
	p.sees("eds: interrupted", 1)
	p.types("") // which ends the reading
}

func TestPrompt_DoesNotOpenAfterAnInterrupt(t *testing.T) {
	for range 20 {
		p := sitDown(t, nil, "server", "--data-dir", t.TempDir())
		p.signals <- os.Interrupt
		if exit := <-p.code; exit != 1 {
			t.Errorf("exit code %d\n%s", exit, p.screen())
		}
		p.sees("interrupted", 1)
		p.types("") // which ends the reading
	}
}

func TestHelp_IsColouredOnATerminalOnly(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"help", "dlq"}, {"server", "--help"}, {"server", "help"}, {"server", "help", "file"}} {
		p := sitDown(t, nil, args...)
		if exit := <-p.code; exit != 0 {
			t.Errorf("eds %v: exit code %d", args, exit)
		}
		p.sees("\x1b[1m", 1)
		plain := sitDown(t, map[string]string{"NO_COLOR": "1"}, args...)
		<-plain.code
		plain.sees("\n", 5)
		if strings.Contains(plain.screen(), "\x1b") {
			t.Errorf("eds %v: %q", args, plain.screen())
		}
	}
}

// TestImport_EndsOnATerminal imports often enough that a display which can wait for the
// import that waits for the display does.
func TestImport_EndsOnATerminal(t *testing.T) {
	t.Parallel()
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	for range 5 {
		var imports []*person
		for range 10 {
			imports = append(
				imports,
				sitDown(t, env, "import", "--data-dir", t.TempDir(), "--url", "file://"+t.TempDir(), "--no-confirm"),
			)
		}
		for _, p := range imports {
			select {
			case exit := <-p.code:
				p.sees("rows of 16 tables in", 1)
				if exit != 0 || !strings.Contains(p.screen(), "all tables") {
					t.Fatalf("exit code %d\n%s", exit, p.screen())
				}
			case <-time.After(time.Minute):
				t.Fatalf("an import hangs\n%s", p.screen())
			}
		}
	}
}

func TestImport_ShowsProgressOnlyWhileItImports(t *testing.T) {
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"})}
	for name, c := range map[string]struct {
		flags  []string
		answer string
		want   string
		code   int
	}{
		"declined":      {nil, "n", "not confirmed; nothing was changed", 1},
		"dry run":       {[]string{"--dry-run"}, "", "Nothing was changed.", 0},
		"validate only": {[]string{"--validate-only"}, "", "the destination works", 0},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(
				[]string{"import", "--data-dir", t.TempDir(), "--url", "sqlite://" + filepath.Join(t.TempDir(), "shop.db")},
				c.flags...)
			p := sitDown(t, env, args...)
			if c.answer != "" {
				p.sees("Continue? [y/N] ", 1)
				p.types(c.answer)
			}
			exit := <-p.code
			p.sees(c.want, 1)
			if exit != c.code || strings.Contains(p.screen(), "tables  ") || strings.Contains(p.screen(), "\x1b[J") {
				t.Errorf("exit code %d\n%q", exit, p.screen())
			}
		})
	}
}

// TestImport_TearsNoLine reads what a terminal shows of a log and a display together.
func TestImport_TearsNoLine(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"}), "NO_COLOR": "1"}
	p := sitDown(t, env, "import", "--data-dir", dir, "--url", "sqlite://"+filepath.Join(t.TempDir(), "shop.db"), "--verbose")
	p.sees("Continue? [y/N] ", 1)
	p.types("y")
	if exit := <-p.code; exit != 0 {
		t.Fatalf("exit code %d\n%s", exit, p.screen())
	}
	p.sees("rows of 16 tables in", 2) // the question has it, too
	shown := cli.Rendered(p.screen())
	whole := regexp.MustCompile(
		`^(INFO  |DEBUG |WARN  ).+$|^Continue\? \[y/N\] y$|^This replaces all rows of 16 tables in sqlite:.*$|^all ` +
			`tables +\[=+\] 16/16 +\d+ rows +[0-9.]+ \w+$|^\d+s, \d+ rows/s$` +
			`|^ +table +rows +files +bytes +result$|^ *\w+ +\d+ +\d+ +\d+ +done$|^\d+ rows of 16 tables in .*$|^$`,
	)
	logged := 0
	for _, line := range shown {
		if !whole.MatchString(line) {
			t.Errorf("a torn line: %q", line)
		}
		if strings.HasPrefix(line, "INFO  ") || strings.HasPrefix(line, "DEBUG ") {
			logged++
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "logs", "import.log"))
	if want := bytes.Count(file, []byte("\n")); err != nil || logged != want || want == 0 {
		t.Errorf("%d lines of log are shown, and %d in the file, %v\n%s", logged, want, err, strings.Join(shown, "\n"))
	}
}

func TestTerminal_GetsNoEscapesIfItIsDumb(t *testing.T) {
	t.Parallel()
	h := startHQ(t)
	env := map[string]string{"SM_APIKEY": h.APIKey(devhq.KeyOptions{ServerID: "s"}), "TERM": "dumb"}
	dir, url := t.TempDir(), "sqlite://"+filepath.Join(t.TempDir(), "shop.db")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"rows of 16 tables in", []string{"import", "--verbose", "--no-confirm", "--url", url}},
		{"import: 16 of 16 tables", []string{"import", "--no-confirm", "--url", url}},
		{"tables are equal", []string{"verify", "--url", url}},
		{"The dead-letter queue is empty", []string{"dlq", "list"}},
		{"no server answers", []string{"status"}},
		{"NATS", []string{"doctor", "--url", url}},
		{"Usage:", []string{"help"}},
		{"Usage:", []string{"import", "--help"}},
		{"sqlite", []string{"server", "help"}},
		{"Options", []string{"server", "help", "file"}},
		{"All ", []string{"demo", "--for", "1ms", "--dir", filepath.Join(dir, "demo")}},
	} {
		args := c.args
		if args[0] != "demo" {
			args = append(args, "--data-dir", dir)
		}
		p := sitDown(t, env, args...)
		<-p.code
		p.sees(c.want, 1)
		if strings.Contains(p.screen(), "\x1b") || strings.Contains(p.screen(), "%!") { // what fmt writes for a wrong argument
			t.Errorf("eds %v: %q", args, p.screen())
		}
	}
}
