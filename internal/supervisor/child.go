package supervisor

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// leftOpen is how long the output of a worker that has ended is read on where
// another process holds it open.
const leftOpen = 3 * time.Second

// child is a worker as the parent sees it.
type child struct {
	pid     int
	reports <-chan report
	ended   <-chan exit // sends once, after all that the worker said has been read

	// All three return at once and may be called at any time, also after the end.
	stop func() // asks for an orderly end
	quit func() // makes it write where it stands, and end, where the system can
	kill func()
}

// exit is how the process of a worker ended.
type exit struct {
	code    int    // -1 after a signal
	signal  string // the name of the signal, or ""
	starved bool   // memory ran out meanwhile, and something was killed for it
	message string
	stderr  string
}

// start starts the program at path as a worker, and tells it s.
func (c Config) start(path string, s Start) (*child, error) {
	first, err := line(startMessage{Type: typeStart, Start: s})
	if err != nil {
		return nil, err
	}
	reports, gone := make(chan report), make(chan struct{})
	stderr := newOutput(c.Stderr)
	messages := &lines{max: maxLine, handle: receiver(reports, gone, stderr, c.Logger)}

	cmd := exec.Command(path, c.Args...)
	cmd.Env = c.Env
	cmd.Stdout, cmd.Stderr = messages, stderr
	cmd.WaitDelay = leftOpen
	cmd.SysProcAttr = ownGroup()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	killsBefore := memoryKills()
	if err := cmd.Start(); err != nil {
		return nil, err
	}

	stop := make(chan struct{})
	stopped := sync.OnceFunc(func() { close(stop) })
	var telling sync.WaitGroup
	telling.Go(func() {
		_, _ = stdin.Write(first) // for as long as the worker doesn't read
		<-stop
		_ = stdin.Close()
	})

	ended := make(chan exit, 1)
	go func() {
		_ = cmd.Wait() // which closes stdin
		close(gone)
		messages.flush()
		stopped()
		telling.Wait()
		x := exitOf(cmd.ProcessState)
		x.starved = memoryKills() > killsBefore
		x.stderr, x.message = stderr.last()
		ended <- x
	}()
	return &child{
		pid: cmd.Process.Pid, reports: reports, ended: ended, stop: stopped,
		quit: func() { _ = quit(cmd.Process) },
		kill: func() { _ = cmd.Process.Kill() },
	}, nil
}

// exitOf returns how a process ended.
func exitOf(state *os.ProcessState) exit {
	if state == nil {
		return exit{code: -1}
	}
	return exit{code: state.ExitCode(), signal: signalOf(state)}
}

// receiver returns what handles the lines of a worker's standard output. Those
// that are no messages were printed by somebody who did not know whose it is,
// and go where the worker's other output goes.
func receiver(reports chan<- report, gone <-chan struct{}, other io.Writer, logger *slog.Logger) func([]byte, bool) {
	strangers := 0
	return func(text []byte, cut bool) {
		r, ok := parse(text)
		if cut || !ok {
			if strangers++; strangers == 1 {
				logger.Warn("the worker wrote something to its standard output that is not for the parent; it follows on standard error")
			}
			_, _ = other.Write(append(text[:len(text):len(text)], '\n'))
			return
		}
		select {
		case reports <- r:
		case <-gone:
		}
	}
}
