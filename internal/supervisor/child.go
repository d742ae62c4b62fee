package supervisor

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// leftOpen is how long the parent continues to read the output of an ended worker if another
// process keeps the pipe open.
const leftOpen = 3 * time.Second

// child is the parent's view of a worker.
type child struct {
	pid     int
	reports <-chan workerMessage
	ended   <-chan exit // sends once, after all of the worker's messages were read

	// The functions below return at once, and may be called at any time, even after the worker has
	// ended.
	stop func() // requests a shutdown
	quit func() // makes the worker write its goroutines and end, if the system supports that
	kill func()
}

// exit describes the end of a worker's process.
type exit struct {
	code    int    // -1 after a signal
	signal  string // the name of the signal, or ""
	starved bool   // memory ran out while the worker ran, and the system killed a process
	message string
	stderr  string
}

// start starts the program at path as a worker, and sends s to it.
func (c Config) start(path string, s StartRequest) (*child, error) {
	first, err := encode(startMessage{Type: typeStart, StartRequest: s})
	if err != nil {
		return nil, err
	}
	reports, gone := make(chan workerMessage), make(chan struct{})
	stderr := newOutput(c.Stderr)
	messages := &lineSplitter{max: maxLine, handle: receiver(reports, gone, stderr, c.Logger)}

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
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = stdin.Write(first) // blocks until the worker reads
		<-stop
		_ = stdin.Close()
	})

	ended := make(chan exit, 1)
	go func() {
		_ = cmd.Wait() // closes stdin
		close(gone)
		messages.flush()
		stopped()
		sending.Wait()
		x := exitOf(cmd.ProcessState)
		x.starved = memoryKills() > killsBefore
		x.stderr, x.message = stderr.tail()
		ended <- x
	}()
	return &child{
		pid: cmd.Process.Pid, reports: reports, ended: ended, stop: stopped,
		quit: func() { _ = quit(cmd.Process) },
		kill: func() { _ = cmd.Process.Kill() },
	}, nil
}

// exitOf returns the exit code and signal of an ended process.
func exitOf(state *os.ProcessState) exit {
	if state == nil {
		return exit{code: -1}
	}
	return exit{code: state.ExitCode(), signal: signalOf(state)}
}

// receiver returns the handler for the lines of a worker's standard output. The handler sends
// messages to the channel reports, until the channel gone is closed. A line that is not a
// message was printed by mistake. The handler writes such a line to the given writer, which also
// receives the worker's standard error.
func receiver(reports chan<- workerMessage, gone <-chan struct{}, other io.Writer, logger *slog.Logger) func([]byte, bool) {
	foreign := 0
	return func(text []byte, cut bool) {
		r, ok := parse(text)
		if cut || !ok {
			if foreign++; foreign == 1 {
				logger.Warn("the worker printed text on its standard output, which is for messages only; it follows on standard error")
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
