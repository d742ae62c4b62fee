package cli

import (
	"bufio"
	"fmt"
	"strings"
)

// asker asks a person at the terminal.
type asker struct {
	p     Process
	lines *bufio.Reader
}

func newAsker(p Process) asker { return asker{p, bufio.NewReader(p.Stdin)} }

// ask asks a question and returns the line that is the answer. Nothing is under
// way meanwhile, and nothing could end the reading: a signal ends the program.
func (a asker) ask(question string) (string, error) {
	fmt.Fprint(a.p.Stderr, question)
	a.p.signals.asking.Store(true)
	defer a.p.signals.asking.Store(false)
	line, err := a.lines.ReadString('\n')
	return strings.TrimSpace(line), err
}
