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
// way meanwhile, and nothing could end the reading: a signal ends the program. One that
// came before is the error.
func (a asker) ask(question string) (string, error) {
	if err := a.p.signals.ask(); err != nil {
		return "", err
	}
	defer a.p.signals.answered()
	fmt.Fprint(a.p.Stderr, question)
	line, err := a.lines.ReadString('\n')
	return strings.TrimSpace(line), err
}
