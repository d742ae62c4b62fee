package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"
)

// screen is standard error, which the log and the progress display share. It shows written
// lines permanently. On a terminal it can also show a block of lines below them, and replace
// that block. Each change is a single write, so that lines are never torn. It is safe for
// concurrent use.
type screen struct {
	out   io.Writer
	moves bool // out is a terminal whose cursor can be moved

	mu    sync.Mutex
	block []string // lines shown below the written lines
}

func newScreen(p Process) *screen {
	return &screen{out: p.Stderr, moves: p.takesEscapes(p.Stderr)}
}

// size returns the numbers of columns and rows of the terminal, or 80 and 24 if they are
// unknown.
func (s *screen) size() (columns, rows int) {
	if f, ok := s.out.(*os.File); ok {
		columns, rows, _ = term.GetSize(int(f.Fd()))
	}
	if columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// Write writes complete lines above the block.
func (s *screen) Write(lines []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.block) == 0 {
		return s.out.Write(lines)
	}
	if err := s.replace(lines, s.block); err != nil {
		return 0, err
	}
	return len(lines), nil
}

// show replaces the block. If the terminal is too small, show truncates the lines, and shows
// only the last lines of the block.
func (s *screen) show(block ...string) {
	columns, rows := s.size()
	// The cursor is in the row below the block. Leave one row above the block free: if a
	// terminal is erased from its first row, it moves the erased text into its history each
	// time.
	shown := min(max(rows-2, 0), len(block))
	block = slices.Clone(block[len(block)-shown:])
	for i, line := range block {
		// Leave the last column free, because some terminals wrap a line that fills it.
		if r := []rune(line); len(r) >= columns {
			line = string(r[:columns-1])
		}
		block[i] = strings.TrimRight(line, " ")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(block, s.block) {
		_ = s.replace(nil, block) // a failure to show progress must not stop the import
	}
}

// keep makes the block permanent.
func (s *screen) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.block = nil
}

// replace erases the block, writes the given lines in its place, and shows the parameter next below
// these lines as the new block. The caller holds mu.
func (s *screen) replace(lines []byte, next []string) error {
	var b bytes.Buffer
	if n := len(s.block); n > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA\x1b[J", n)
	}
	b.Write(lines)
	for _, line := range next {
		b.WriteString(line + "\n")
	}
	s.block = next
	_, err := s.out.Write(b.Bytes())
	return err
}
