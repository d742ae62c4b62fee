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

// patience is the maximum time that the worker waits for a parent that does not read. A parent
// may, for example, be stopped in a debugger.
const patience = 5 * time.Second

// probeEvery is the interval at which a worker checks whether its parent is alive, after its
// standard input has ended.
const probeEvery = time.Second

// Worker is the worker's connection to its parent. Its methods are safe for concurrent use, and
// wait at most a few seconds for the parent.
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

// outbox has the messages to be written. It keeps only the latest message of each type. This
// limits the size of the outbox, and loses nothing that matters.
type outbox struct {
	ready, beat bool
	session     *string
	upgrade     *workerMessage
	exiting     *workerMessage
	written     []chan<- error // receive the result of writing the other fields
}

// Attach connects a worker to its parent. It reads the parent's message from stdin, and reports
// to the parent on stdout, which the worker must not use otherwise. The worker must call
// IgnoreBrokenPipes first. It should call Beat at least every 30 s, from code that stops
// running if the worker hangs.
func Attach(stdin io.Reader, stdout io.Writer) (*Worker, StartRequest, error) {
	in := bufio.NewReaderSize(io.LimitReader(stdin, maxStart), 4<<10)
	start, err := readStart(in)
	if err != nil {
		return nil, StartRequest{}, fmt.Errorf("attach to the parent: %w; only eds server starts a worker", err)
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
func readStart(in *bufio.Reader) (StartRequest, error) {
	var text []byte
	for len(text) == 0 {
		all, err := in.ReadBytes('\n')
		if err != nil {
			return StartRequest{}, fmt.Errorf("read the start message: %w", err)
		}
		text = bytes.TrimSpace(all)
	}
	var m startMessage
	if err := json.Unmarshal(text, &m); err != nil || m.Type != typeStart {
		return StartRequest{}, errors.New(
			"read the start message: it has another format",
		) // err may quote the message, which may contain secrets
	}
	return m.StartRequest, nil
}

// Done returns a channel that is closed when the worker must shut down, because the parent requests
// a shutdown or has ended.
func (w *Worker) Done() <-chan struct{} { return w.gone }

// Orphaned returns a channel that is closed when the parent has ended. It is closed soon after the
// channel that Done returns.
func (w *Worker) Orphaned() <-chan struct{} { return w.orphaned }

// Ready reports to the parent that the worker is at work. It returns when the message is written or
// the parent cannot be reached.
func (w *Worker) Ready() { _ = w.deliver(func(o *outbox) { o.ready = true }) }

// Beat sends a sign of life to the parent. It never blocks.
func (w *Worker) Beat() { w.post(func(o *outbox) { o.beat = true }) }

// Session reports the id of the open session to the parent, or "" if no session is open. If this
// worker crashes, the next worker can then end the session. Session returns when the message is
// written or the parent cannot be reached.
func (w *Worker) Session(id string) { _ = w.deliver(func(o *outbox) { o.session = &id }) }

// Upgrade asks the parent to replace the program with the staged binary at the given path. That
// binary has the given version. The parent replaces the program after the worker has ended with
// CodeRestart. If Upgrade returns an error, it is unknown whether the parent has received the
// request.
func (w *Worker) Upgrade(version, staged string) error {
	if version == "" || staged == "" {
		return errors.New("request an upgrade: no version or binary")
	}
	err := w.deliver(func(o *outbox) { o.upgrade = &workerMessage{Type: typeUpgrade, Version: version, Staged: staged} })
	if err != nil {
		return fmt.Errorf("request an upgrade: %w", err)
	}
	return nil
}

// Exiting announces to the parent that the worker will end with the given exit code. The reason is
// for the operator. The announcement must be the last message. Exiting returns when the message is
// written or the parent cannot be reached.
func (w *Worker) Exiting(code int, reason string) {
	_ = w.deliver(func(o *outbox) { o.exiting = &workerMessage{Type: typeExiting, Code: code, Reason: reason} })
}

// Close closes the connection. It waits until all messages are written, but only a few seconds
// for a parent that does not read.
func (w *Worker) Close() {
	w.close()
	if c, ok := w.stdin.(io.Closer); ok {
		_ = c.Close() // unblocks read; if the file does not support that, the parent closes the other end after Exiting
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
}

// read waits for the end of the parent's messages. It discards all messages after the first.
func (w *Worker) read() {
	defer w.leave()
	_, _ = io.Copy(io.Discard, w.stdin)
}

// post calls the function put to add a message to the outbox, and then wakes the goroutine that
// runs the method write.
func (w *Worker) post(put func(*outbox)) {
	w.mu.Lock()
	put(&w.next)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// deliver calls the function put to add a message to the outbox, and waits until the message is
// written.
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

// write sends the messages in the outbox, until Close is called. After the worker's standard
// input has ended, write also checks regularly that the parent still reads.
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

// probe checks that the parent reads, by writing an empty line, which the parent ignores. After
// Close it writes nothing, because Close also ends the standard input.
func (w *Worker) probe() {
	select {
	case <-w.quit:
	default:
		_ = w.put([]byte{'\n'}) // if the write fails, put closes the channel of Orphaned
	}
}

// put writes to the parent. A failed write means that the parent has ended.
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

// messages returns the messages of the outbox in the order in which they must be sent.
func (o outbox) messages() []workerMessage {
	var all []workerMessage
	if o.session != nil {
		all = append(all, workerMessage{Type: typeSession, Session: *o.session})
	}
	if o.ready {
		all = append(all, workerMessage{Type: typeReady})
	}
	if o.upgrade != nil {
		all = append(all, *o.upgrade)
	}
	if o.beat {
		all = append(all, workerMessage{Type: typeHeartbeat})
	}
	if o.exiting != nil {
		all = append(all, *o.exiting)
	}
	return all
}

func (w *Worker) writeAll(messages []workerMessage) error {
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
