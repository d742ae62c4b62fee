package supervisor

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// Limits in bytes. Only the last maxStderr bytes of a worker's standard error are kept. The line
// that reports a fatal error is cut to maxMessage bytes.
const (
	maxStderr  = 64 << 10
	maxMessage = 1 << 10
)

// output forwards a worker's output to another writer, and keeps the last maxStderr bytes.
// Write never fails, because an error would cut off the worker's output. It is safe for
// concurrent use.
type output struct {
	writing sync.Mutex // held during each write to the field to
	to      io.Writer

	// mu is never held while the output is forwarded, because forwarding can block forever.
	mu      sync.Mutex
	kept    []byte
	message string
	split   lineSplitter
}

func newOutput(to io.Writer) *output {
	o := &output{to: to}
	o.split = lineSplitter{max: maxMessage, handle: o.inspect}
	return o
}

func (o *output) Write(p []byte) (int, error) {
	o.keep(p)
	o.writing.Lock()
	defer o.writing.Unlock()
	_, _ = o.to.Write(p)
	return len(p), nil
}

func (o *output) keep(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, _ = o.split.Write(p)
	o.kept = append(o.kept, p...)
	if over := len(o.kept) - maxStderr; over > maxStderr {
		o.kept = append(o.kept[:0], o.kept[over:]...)
	}
}

// inspect stores the last line that starts a fatal error report of Go's runtime. The line is
// stored separately, because the report may be longer than maxStderr.
func (o *output) inspect(text []byte, _ bool) {
	for _, beginning := range []string{"panic: ", "fatal error: "} {
		if bytes.HasPrefix(text, []byte(beginning)) {
			o.message = string(text)
		}
	}
	if runtimeSignal(string(text)) != "" {
		o.message = string(text)
	}
}

// runtimeSignal returns the name of the signal if message looks like "SIGSEGV: segmentation
// violation". Otherwise it returns "". Go's runtime reports a fatal signal with such a line, and
// exits with code 2.
func runtimeSignal(message string) string {
	name, _, ok := strings.Cut(message, ": ")
	if !ok || !strings.HasPrefix(name, "SIG") || strings.ContainsFunc(name, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return ""
	}
	return name
}

// tail returns the end of the output, and the last line that starts a fatal error report. If
// there is no such line, the second result is "".
func (o *output) tail() (text, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.split.flush()
	kept := o.kept[max(0, len(o.kept)-maxStderr):]
	return strings.ToValidUTF8(string(kept), "\uFFFD"), strings.ToValidUTF8(o.message, "\uFFFD")
}
