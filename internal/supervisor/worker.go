package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// patience is how long the worker waits for a parent that does not read, such as one that
// is stopped in a debugger.
const patience = 5 * time.Second

// probeEvery is how often the worker checks that its parent is alive, after the parent has
// closed its end.
const probeEvery = time.Second

// Worker is the worker's connection to its parent. Its methods are safe for concurrent use,
// and none waits longer than a few seconds for the parent.
type Worker struct {
	stdin  io.Reader
	stdout io.Writer

	gone     chan struct{} // the parent has ended, or requests a shutdown
	leave    func()        // closes gone
	orphaned chan struct{} // the parent has ended
	orphan   func()        // closes orphaned
	wake     chan struct{} // has one item while the outbox is not empty
	quit     chan struct{} // closed by Close
	done     chan struct{} // closed once both goroutines have ended
	close    func()

	mu   sync.Mutex
	next outbox
}

// outbox has the messages to be written: at most one of each type, the latest, so that it
// is bounded and loses nothing that matters.
type outbox struct {
	ready, beat bool
	session     *string
	upgrade     *report
	exiting     *report
	written     []chan<- error // receive the result once all of that is written
}

// Attach connects a worker to its parent: it reads the parent's message from stdin, and
// reports to the parent on stdout, which the worker must not use otherwise. The worker must
// have called IgnoreBrokenPipes. It should call Beat at least every 30 s, from code that
// does not run if the worker hangs.
func Attach(stdin io.Reader, stdout io.Writer) (*Worker, Start, error) {
	in := bufio.NewReaderSize(io.LimitReader(stdin, maxStart), 4<<10)
	start, err := readStart(in)
	if err != nil {
		return nil, Start{}, fmt.Errorf("attach to the parent: %w; only eds server starts a worker", err)
	}
	w := &Worker{
		stdin: stdin, stdout: stdout,
		gone: make(chan struct{}), orphaned: make(chan struct{}),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	w.leave = sync.OnceFunc(func() { close(w.gone) })
	w.orphan = sync.OnceFunc(func() { close(w.orphaned) })
	w.close = sync.OnceFunc(func() { close(w.quit) })
	var running sync.WaitGroup
	running.Go(w.read)
	running.Go(w.write)
	go func() {
		running.Wait()
		close(w.done)
	}()
	return w, start, nil
}

// readStart reads the first message, which is the first non-empty line.
func readStart(in *bufio.Reader) (Start, error) {
	var text []byte
	for len(text) == 0 {
		all, err := in.ReadBytes('\n')
		if err != nil {
			return Start{}, fmt.Errorf("read the start message: %w", err)
		}
		text = bytes.TrimSpace(all)
	}
	var m startMessage
	if err := json.Unmarshal(text, &m); err != nil || m.Type != typeStart {
		return Start{}, errors.New("read the start message: it has another format") // its text may contain secrets
	}
	return m.Start, nil
}

// Done is closed when the worker must shut down: the parent requests it, or has ended.
func (w *Worker) Done() <-chan struct{} { return w.gone }

// Orphaned is closed when the parent has ended, soon after Done.
func (w *Worker) Orphaned() <-chan struct{} { return w.orphaned }

// Ready reports that the worker is at work. It returns once the parent can read it, or
// cannot be reached.
func (w *Worker) Ready() { _ = w.deliver(func(o *outbox) { o.ready = true }) }

// Beat is a sign of life. It never waits.
func (w *Worker) Beat() { w.post(func(o *outbox) { o.beat = true }) }

// Session reports the open session, "" if there is none, so that the next worker can end it
// if this one crashes. It returns once the parent can read it, or cannot be reached.
func (w *Worker) Session(id string) { _ = w.deliver(func(o *outbox) { o.session = &id }) }

// Upgrade asks the parent to replace the program with the binary at staged, which has the
// given version. The parent swaps it once the worker has ended with CodeRestart. After an
// error the parent may not have received the request.
func (w *Worker) Upgrade(version, staged string) error {
	if version == "" || staged == "" {
		return errors.New("request an upgrade: no version or binary")
	}
	err := w.deliver(func(o *outbox) { o.upgrade = &report{Type: typeUpgrade, Version: version, Staged: staged} })
	if err != nil {
		return fmt.Errorf("request an upgrade: %w", err)
	}
	return nil
}

// Exiting announces the worker's end with code, and the reason for the operator. It must be
// the last message. It returns once the parent can read it, or cannot be reached.
func (w *Worker) Exiting(code int, reason string) {
	_ = w.deliver(func(o *outbox) { o.exiting = &report{Type: typeExiting, Code: code, Reason: reason} })
}

// Close ends the connection. It waits for its goroutines, but at most a few seconds for a
// parent that does not read.
func (w *Worker) Close() {
	w.close()
	if c, ok := w.stdin.(io.Closer); ok {
		_ = c.Close() // ends the read; if a file cannot be polled, the parent ends it after Exiting
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
}

// read waits for the end of the parent's messages. It ignores all after the first.
func (w *Worker) read() {
	defer w.leave()
	_, _ = io.Copy(io.Discard, w.stdin)
}

// post adds to the outbox.
func (w *Worker) post(put func(*outbox)) {
	w.mu.Lock()
	put(&w.next)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// deliver adds to the outbox and waits until it is written.
func (w *Worker) deliver(put func(*outbox)) error {
	written := make(chan error, 1)
	w.post(func(o *outbox) {
		put(o)
		o.written = append(o.written, written)
	})
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-written:
		return err
	case <-w.done:
		return errors.New("the connection to the parent is closed")
	case <-timer.C:
		return errors.New("the parent does not read")
	}
}

// write empties the outbox until Close. After the end of the parent's messages it also
// checks regularly that the parent still reads.
func (w *Worker) write() {
	ticker := time.NewTicker(probeEvery)
	ticker.Stop()
	defer ticker.Stop()
	gone := w.gone
	for {
		select {
		case <-w.wake:
			w.empty()
		case <-gone:
			gone = nil
			ticker.Reset(probeEvery)
			w.probe()
		case <-ticker.C:
			w.probe()
		case <-w.quit:
			w.empty()
			return
		}
	}
}

// probe writes an empty line, which the parent ignores. After Close, which also ends the
// reading, it writes nothing.
func (w *Worker) probe() {
	select {
	case <-w.quit:
	default:
		_ = w.put([]byte{'\n'}) // its failure closes Orphaned
	}
}

// put writes to the parent. If that fails, the parent has ended.
func (w *Worker) put(text []byte) error {
	_, err := w.stdout.Write(text)
	if err != nil {
		w.leave()
		w.orphan()
	}
	return err
}

func (w *Worker) empty() {
	w.mu.Lock()
	o := w.next
	w.next = outbox{}
	w.mu.Unlock()
	err := w.writeAll(o.messages())
	for _, written := range o.written {
		written <- err
	}
}

// messages returns the messages of the outbox in the order in which they are sent.
func (o outbox) messages() []report {
	var all []report
	if o.session != nil {
		all = append(all, report{Type: typeSession, Session: *o.session})
	}
	if o.ready {
		all = append(all, report{Type: typeReady})
	}
	if o.upgrade != nil {
		all = append(all, *o.upgrade)
	}
	if o.beat {
		all = append(all, report{Type: typeHeartbeat})
	}
	if o.exiting != nil {
		all = append(all, *o.exiting)
	}
	return all
}

func (w *Worker) writeAll(messages []report) error {
	var text []byte
	for _, m := range messages {
		one, err := encode(m)
		if err != nil {
			return err
		}
		text = append(text, one...)
	}
	if len(text) == 0 {
		return nil
	}
	return w.put(text)
}
