package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/shopmonkeyus/eds/internal/cli"
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

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (keys, screen *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keys.Close() })
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() })
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
	for strings.Count(p.seen.String(), text) < n {
		p.read.Wait()
	}
}

// screen returns what the terminal has shown.
func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

func TestAServerThatIsNotEnrolledAsksForTheCode(t *testing.T) {
	h, dir := startHQ(t), t.TempDir()
	code, err := h.NewEnrolment()
	if err != nil {
		t.Fatal(err)
	}
	// The letter of a code stands for an HQ of others; this one is told where to ask.
	p := sitDown(t, nil, "server", "--data-dir", dir, "--api-url", h.APIURL(), "--server", "nats://192.0.2.1", "--url", "file://"+t.TempDir(), "--port", "0")
	p.sees("The code that HQ shows: ", 1)
	p.types("LWRONG")
	p.sees("The code that HQ shows: ", 2)
	p.types(code)
	p.sees("Enrolled as server ", 1)
	// The worker's log is for the same terminal.
	p.sees("eds is starting", 1)
	p.signals <- os.Interrupt
	if exit := <-p.code; exit != 0 || !strings.Contains(p.screen(), "That did not work: the code is unknown, or was used already") || strings.Contains(p.screen(), `{"time"`) {
		t.Errorf("exit code %d\n%s", exit, p.screen())
	}
}

func TestThreeWrongCodesAreEnough(t *testing.T) {
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

func TestAnInterruptEndsAQuestion(t *testing.T) {
	p := sitDown(t, nil, "server", "--data-dir", t.TempDir())
	p.sees("The code that HQ shows: ", 1)
	p.signals <- os.Interrupt
	if exit := <-p.code; exit != 1 {
		t.Errorf("exit code %d", exit)
	}
	p.sees("eds: interrupted", 1)
	p.types("") // which ends the reading
}

// TestAnInterruptBeforeAQuestionEndsTheProgramToo: whoever interrupts need not have read
// what is asked.
func TestAnInterruptBeforeAQuestionEndsTheProgramToo(t *testing.T) {
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

func TestHelpIsColouredOnATerminalUnlessTheEnvironmentForbids(t *testing.T) {
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
