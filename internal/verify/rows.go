package verify

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
)

// Rows yields one row for each JSON object in images, with the values split into the columns of t.
// A row is valid until the next iteration.
func Rows(t *schema.Table, images iter.Seq[json.RawMessage]) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		s, n := change.NewSplitter(t), 0
		for image := range images {
			n++
			spans, err := s.Split(image)
			if err != nil {
				yield(nil, fmt.Errorf("row %d of %q: %w", n, t.Name, err))
				return
			}
			if !yield(&change.Row{Image: image, Spans: spans}, nil) {
				return
			}
		}
	}
}

// Lines yields the rows of t that r contains as NDJSON, with one row object per line. It skips
// empty lines. A row is valid until the next iteration.
func Lines(t *schema.Table, r io.Reader) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		var failed error
		for row, err := range Rows(t, nonEmptyLines(r, &failed)) {
			if !yield(row, err) {
				return
			}
		}
		if failed != nil {
			yield(nil, fmt.Errorf("read the rows of %q: %w", t.Name, failed))
		}
	}
}

// nonEmptyLines yields the lines of r that are not empty. Each line overwrites the memory of the
// previous line. If reading fails, nonEmptyLines stores the error in *failed.
func nonEmptyLines(r io.Reader, failed *error) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		in := bufio.NewReaderSize(r, 1<<16)
		var line []byte
		for {
			part, err := in.ReadSlice('\n')
			line = append(line, part...)
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				*failed = err
				return
			}
			if text := trim(line); len(text) > 0 && !yield(text) {
				return
			}
			if err != nil {
				return
			}
			line = line[:0]
		}
	}
}

func trim(line []byte) []byte {
	for len(line) > 0 && line[len(line)-1] <= ' ' {
		line = line[:len(line)-1]
	}
	return line
}
