package supervisor

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// maxStderr is how much of a worker's standard error is kept, maxMessage how
// much of the line that names the cause, in bytes.
const (
	maxStderr  = 64 << 10
	maxMessage = 1 << 10
)

// output hands on what a worker writes, and keeps the last of it. A Write never
// fails, because an error would end the worker's output. It is safe for
// concurrent use.
type output struct {
	writing sync.Mutex // one Write to to at a time
	to      io.Writer

	// mu is never held while to is written to, which can take for ever.
	mu      sync.Mutex
	kept    []byte
	message string
	split   lines
}

func newOutput(to io.Writer) *output {
	o := &output{to: to}
	o.split = lines{max: maxMessage, handle: o.look}
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

// look remembers the last line with which Go's runtime begins to say why it
// ends the process. What follows it may be longer than what is kept.
func (o *output) look(text []byte, _ bool) {
	for _, beginning := range []string{"panic: ", "fatal error: "} {
		if bytes.HasPrefix(text, []byte(beginning)) {
			o.message = string(text)
		}
	}
	if runtimeSignal(string(text)) != "" {
		o.message = string(text)
	}
}

// runtimeSignal returns the name of the signal that Go's runtime says, with
// exit code 2, has ended the process: "SIGSEGV: segmentation violation".
func runtimeSignal(message string) string {
	name, _, ok := strings.Cut(message, ": ")
	if !ok || !strings.HasPrefix(name, "SIG") || strings.ContainsFunc(name, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		return ""
	}
	return name
}

// last returns the end of what was written, and the runtime's message in it.
func (o *output) last() (text, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.split.flush()
	kept := o.kept[max(0, len(o.kept)-maxStderr):]
	return strings.ToValidUTF8(string(kept), "\uFFFD"), strings.ToValidUTF8(o.message, "\uFFFD")
}
