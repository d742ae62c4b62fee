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

// patience is how long the worker waits for a parent that does not read, such as one
// that a debugger has stopped.
const patience = 5 * time.Second

// probeEvery is how often the worker looks whether its parent is still there, once
// the parent has closed its end.
const probeEvery = time.Second

// Worker is the worker's end of the line. Its methods are safe for concurrent
// use, and none waits for longer than a few seconds for the parent.
type Worker struct {
	stdin  io.Reader
	stdout io.Writer

	gone     chan struct{} // the parent is gone, or asks for an orderly end
	leave    func()        // closes gone
	orphaned chan struct{} // the parent is gone
	orphan   func()        // closes orphaned
	wake     chan struct{} // holds one item while something waits to be written
	quit     chan struct{} // closed by Close
	done     chan struct{} // closed once both goroutines have ended
	close    func()

	mu   sync.Mutex
	next outbox
}

// outbox is what waits to be written: at most one message of each type, the
// latest, so that it is bounded and nothing that matters is lost.
type outbox struct {
	ready, beat bool
	session     *string
	upgrade     *report
	exiting     *report
	written     []chan<- error // told once all of that is written
}

// Attach is called first by a worker: it reads what the parent has to tell from
// stdin, and speaks to the parent on stdout, on which nothing else should be
// written. Before, the worker should have called IgnoreBrokenPipes. It should give
// a sign of life, each at most 30 s after the last, from what would not run if the
// worker hung.
func Attach(stdin io.Reader, stdout io.Writer) (*Worker, Start, error) {
	in := bufio.NewReaderSize(io.LimitReader(stdin, maxStart), 4<<10)
	start, err := readStart(in)
	if err != nil {
		return nil, Start{}, fmt.Errorf("attach to the parent: %w; a worker is started by eds server, not by hand", err)
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

// readStart reads the first message, which is the first line that is not empty.
func readStart(in *bufio.Reader) (Start, error) {
	var text []byte
	for len(text) == 0 {
		all, err := in.ReadBytes('\n')
		if err != nil {
			return Start{}, fmt.Errorf("read what to do: %w", err)
		}
		text = bytes.TrimSpace(all)
	}
	var m startMessage
	if err := json.Unmarshal(text, &m); err != nil || m.Type != typeStart {
		return Start{}, errors.New("read what to do: it is no start message") // whose text may hold secrets
	}
	return m.Start, nil
}

// Done is closed when the worker shall end in order: the parent asks for it, or
// is gone.
func (w *Worker) Done() <-chan struct{} { return w.gone }

// Orphaned is closed when the parent is gone, soon after Done.
func (w *Worker) Orphaned() <-chan struct{} { return w.orphaned }

// Ready says that the worker does its work. It returns once the parent can
// read it, or can't be reached.
func (w *Worker) Ready() { _ = w.deliver(func(o *outbox) { o.ready = true }) }

// Beat says that the worker lives. It never waits.
func (w *Worker) Beat() { w.post(func(o *outbox) { o.beat = true }) }

// Session says which session is open, so that the next worker can report how
// it ended where this one can't; "" says that none is. It returns once the parent
// can read it, or can't be reached.
func (w *Worker) Session(id string) { _ = w.deliver(func(o *outbox) { o.session = &id }) }

// Upgrade asks the parent for the binary at staged, which is version. The
// exchange takes place once the worker has ended with CodeRestart. After an error
// the parent may not know of it.
func (w *Worker) Upgrade(version, staged string) error {
	if version == "" || staged == "" {
		return errors.New("ask for an upgrade: without a version or a binary")
	}
	err := w.deliver(func(o *outbox) { o.upgrade = &report{Type: typeUpgrade, Version: version, Staged: staged} })
	if err != nil {
		return fmt.Errorf("ask for an upgrade: %w", err)
	}
	return nil
}

// Exiting says that the worker is about to end with code, and for people why.
// It has to be the last word. It returns once the parent can read it, or can't
// be reached.
func (w *Worker) Exiting(code int, reason string) {
	_ = w.deliver(func(o *outbox) { o.exiting = &report{Type: typeExiting, Code: code, Reason: reason} })
}

// Close ends the line. It waits for its goroutines, but not longer than a few
// seconds for a parent that does not move.
func (w *Worker) Close() {
	w.close()
	if c, ok := w.stdin.(io.Closer); ok {
		_ = c.Close() // which ends a read, but of a file that can't be waited for: there the parent does, after Exiting
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
}

// read waits for the end of the parent's words, of which none are known but
// the first.
func (w *Worker) read() {
	defer w.leave()
	_, _ = io.Copy(io.Discard, w.stdin)
}

// post puts something into the outbox.
func (w *Worker) post(put func(*outbox)) {
	w.mu.Lock()
	put(&w.next)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// deliver puts something into the outbox and waits until it is written.
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
		return errors.New("the line to the parent is closed")
	case <-timer.C:
		return errors.New("the parent does not read")
	}
}

// write empties the outbox until Close. After the end of the parent's words it also
// looks now and then whether the parent still reads.
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

// probe writes an empty line, which the parent passes over. After Close, which also
// ends the reading, it writes nothing.
func (w *Worker) probe() {
	select {
	case <-w.quit:
	default:
		_ = w.put([]byte{'\n'}) // which tells Orphaned
	}
}

// put writes to the parent. If nobody reads, the parent is gone.
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

// messages returns what is in the outbox in the order in which it is sent.
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
		one, err := line(m)
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
