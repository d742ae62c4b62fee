package cli

import (
	"bufio"
	"fmt"
	"strings"
)

// prompter prompts the operator at the terminal.
type prompter struct {
	p     Process
	lines *bufio.Reader
}

func newPrompter(p Process) prompter { return prompter{p, bufio.NewReader(p.Stdin)} }

// ask prints a question and returns the answer, which is one line. A signal during the prompt
// ends the program, because nothing can interrupt the read and no work is in progress. If a
// signal arrived before the prompt, ask returns an interrupted error.
func (a prompter) ask(question string) (string, error) {
	if err := a.p.signals.ask(); err != nil {
		return "", err
	}
	defer a.p.signals.answered()
	fmt.Fprint(a.p.Stderr, question)
	line, err := a.lines.ReadString('\n')
	return strings.TrimSpace(line), err
}
