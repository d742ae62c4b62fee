package supervisor

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// maxStderr bounds the part of a worker's standard error that is kept, maxMessage the line
// with the cause, in bytes.
const (
	maxStderr  = 64 << 10
	maxMessage = 1 << 10
)

// output forwards a worker's output and keeps the end of it. Write never fails, because an
// error would end the worker's output. It is safe for concurrent use.
type output struct {
	writing sync.Mutex // serializes writes to to
	to      io.Writer

	// mu is never held during a write to to, which can block for ever.
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

// inspect keeps the last line with which Go's runtime begins the report of a fatal error.
// The rest of the report may be longer than maxStderr.
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

// runtimeSignal returns the signal's name in a line like "SIGSEGV: segmentation violation",
// by which Go's runtime, with exit code 2, reports a fatal signal; "" for other lines.
func runtimeSignal(message string) string {
	name, _, ok := strings.Cut(message, ": ")
	if !ok || !strings.HasPrefix(name, "SIG") || strings.ContainsFunc(name, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return ""
	}
	return name
}

// tail returns the end of the output, and the runtime's message in it.
func (o *output) tail() (text, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.split.flush()
	kept := o.kept[max(0, len(o.kept)-maxStderr):]
	return strings.ToValidUTF8(string(kept), "\uFFFD"), strings.ToValidUTF8(o.message, "\uFFFD")
}
