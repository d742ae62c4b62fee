package snapshot

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/rawjson"
	"github.com/shopmonkeyus/eds/internal/schema"
)

const (
	// MaxLine is the maximum size of a row, in bytes of JSON. It equals the maximum size of a
	// message's payload in the stream.
	MaxLine = cdc.MaxPayload
	// blockSize is the amount of text that is decoded at once, in bytes. A block is larger only if
	// it contains a longer line.
	blockSize = 256 << 10
	// readSize is the size of the buffer for reading a file, in bytes.
	readSize = 64 << 10
	// keptBlock is the maximum size of a block whose memory is reused, in bytes.
	keptBlock = 4 << 20
	// blocks is the number of blocks in flight per file: one is being unpacked, one is being split,
	// and one is being loaded. A file that is loaded alone has one block in flight.
	blocks = 3
	// shortLines is the maximum memory, in bytes, for the lines in flight of all files that are
	// loaded concurrently, if each line is as long as shortLine allows.
	shortLines = 16 << 20
)

// shortLine returns the maximum length of a line, in bytes, if the given number of files is loaded
// concurrently.
func shortLine(files int) int { return max(blockSize, shortLines/(blocks*files)) }

// errLongLine reports that a file must be loaded alone, because one of its lines is too long for
// loading the file concurrently with other files.
var errLongLine = errors.New("a line is too long to load the file beside others")

// FileError is an error at a certain line of an export file, or about the whole file. It contains
// no value of a row.
type FileError struct {
	File string
	Line int64 // line number, from 1; 0 if the error is not about a line
	// Before is true if the error may also be in a line before Line.
	Before bool
	Err    error
}

func (e *FileError) Error() string {
	switch {
	case e.Line == 0:
		return fmt.Sprintf("file %s: %v", e.File, e.Err)
	case e.Before:
		return fmt.Sprintf("file %s, line %d or before: %v", e.File, e.Line, e.Err)
	}
	return fmt.Sprintf("file %s, line %d: %v", e.File, e.Line, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// damaged reports whether the file is damaged. The text of a damaged file is not reliable.
func (e *FileError) damaged() bool { return errors.As(e.Err, new(*damagedError)) }

// damagedError is an error in a file that another download of the file may fix.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// block is a sequence of whole lines of a file.
type block struct {
	text []byte
	line int64 // number of the first line
	rows []change.Row
	// lines are the line numbers of the rows, relative to the first line of the block.
	lines []int
	bad   []badLine
	last  bool       // whether this is the last block of the file
	err   *FileError // the error after these rows that ends the file, or nil
}

// badLine is a line that is not a row of the table.
type badLine struct {
	line int64 // line number in the file
	text []byte
	err  error
}

// fileDecoder decodes one export file, which is gzipped NDJSON with one row object per line.
type fileDecoder struct {
	name  string
	table *schema.Table
	clock cdc.Timestamp // time of the rows
	limit int           // maximum length of a line, in bytes
	// If alone is set, no other file is loaded at the same time, and only one block is in flight.
	// Otherwise, beside is set, and a line over the limit is an errLongLine.
	alone, beside bool
	// unknown(name) is called for each member that the table lacks.
	unknown func(name []byte)
	// passed(rows) is called after each block, with the number of rows in the block.
	passed func(rows int)
	// After each block, refused(line, text, reason) is called for every line that is not a row. If
	// the callback returns an error, Rows ends with that error. The text is valid only during the
	// call. If there is no callback, Rows ends at the first such line.
	refused func(line int64, text []byte, reason error) error

	row   int64 // number of the last yielded row, from 1
	line  int64 // line of the last yielded row
	gaps  []gap // rows that do not directly follow the previous row, ascending
	err   error // the error that was yielded
	ended bool  // whether every row was yielded
}

// gap identifies a row that is not in the line directly after the previous row.
type gap struct{ row, line int64 }

// lineOf returns the line number of a yielded row, given the row's number.
func (d *fileDecoder) lineOf(row int64) int64 {
	i, found := slices.BinarySearchFunc(d.gaps, row, func(g gap, row int64) int { return cmp.Compare(g.row, row) })
	switch {
	case found:
		return d.gaps[i].line
	case i == 0:
		return row
	}
	return d.gaps[i-1].line + row - d.gaps[i-1].row
}

// Rows yields the file's rows. It unpacks and splits later blocks while the caller handles a row. A
// row is valid until the next iteration. Rows ends after it has yielded an error. That error is a
// *FileError, an error from the callback in d.refused, or the cause of ctx.
func (d *fileDecoder) Rows(ctx context.Context, r io.Reader) iter.Seq2[*change.Row, error] {
	return func(yield func(*change.Row, error) bool) {
		parent := ctx
		ctx, cancel := context.WithCancel(parent)
		var stages sync.WaitGroup
		defer stages.Wait()
		defer cancel()

		fail := func(err error) {
			d.err = err
			yield(nil, err)
		}
		free, unpacked, split := make(chan *block, blocks), make(chan *block, blocks), make(chan *block, blocks)
		n := blocks
		if d.alone {
			n = 1
		}
		for range n {
			free <- new(block)
		}
		stages.Go(func() { d.unpack(ctx, r, free, unpacked) })
		stages.Go(func() { d.split(ctx, unpacked, free, split) })
		for {
			b, ok := receive(ctx, split)
			if !ok {
				fail(context.Cause(parent))
				return
			}
			for i := range b.rows {
				line := b.line + int64(b.lines[i])
				d.row++
				if line != d.line+1 {
					d.gaps = append(d.gaps, gap{d.row, line})
				}
				d.line = line
				if !yield(&b.rows[i], nil) {
					return
				}
			}
			d.passed(len(b.rows))
			for _, bad := range b.bad {
				if err := d.refused(bad.line, bad.text, bad.err); err != nil {
					fail(err)
					return
				}
			}
			if b.err != nil {
				fail(b.err)
				return
			}
			if b.last {
				d.ended = true
				return
			}
			free <- b // never blocks: the channel's capacity is the number of blocks
		}
	}
}

// receive returns the next value from c, or false if ctx ends first.
func receive[T any](ctx context.Context, c <-chan T) (v T, ok bool) {
	select {
	case v = <-c:
		return v, true
	case <-ctx.Done():
		return v, false
	}
}

// unpack cuts the text of the file into blocks of whole lines.
func (d *fileDecoder) unpack(ctx context.Context, r io.Reader, free <-chan *block, out chan<- *block) {
	unzipped, err := gzip.NewReader(bufio.NewReaderSize(r, readSize))
	if err != nil {
		out <- &block{line: 1, last: true, err: d.damaged(1, err)}
		return
	}
	defer unzipped.Close()
	var rest []byte // the start of a line that continues in the next block
	line := int64(1)
	for {
		b, ok := receive(ctx, free)
		if !ok {
			return
		}
		b.line = line
		rest = d.fill(b, unzipped, rest)
		line += int64(bytes.Count(b.text, []byte{'\n'}))
		last := b.last
		out <- b // never blocks: the channel's capacity is the number of blocks
		if last {
			return
		}
	}
}

// fill fills b with whole lines: first with the text in the parameter rest, then with text from r.
// It returns the text after the last whole line, which is the start of the next block.
func (d *fileDecoder) fill(b *block, r io.Reader, rest []byte) []byte {
	if cap(b.text) > keptBlock || cap(b.text) < blockSize {
		b.text = make([]byte, 0, max(blockSize, 2*len(rest)))
	}
	b.text = append(b.text[:0], rest...)
	searched := 0 // there is no line break before this index
	for {
		if len(b.text) == cap(b.text) {
			if end := searched + bytes.LastIndexByte(b.text[searched:], '\n'); end >= searched {
				next := bytes.Clone(b.text[end+1:])
				b.text = b.text[:end+1]
				return next
			}
			searched = len(b.text)
			if len(b.text) > d.limit {
				b.text, b.last = b.text[:0], true
				b.err = &FileError{File: d.name, Line: b.line, Err: d.tooLong()}
				return nil
			}
			grown := make([]byte, len(b.text), min(2*cap(b.text), d.limit+blockSize))
			copy(grown, b.text)
			b.text = grown
		}
		n, err := r.Read(b.text[len(b.text):cap(b.text)])
		b.text = b.text[:len(b.text)+n]
		if err == io.EOF {
			b.last = true
			return nil
		}
		if err != nil {
			// Keep the whole lines before the damage. They are valid, and their number shows the
			// line of the damage.
			b.text = b.text[:bytes.LastIndexByte(b.text, '\n')+1]
			b.last = true
			b.err = d.damaged(b.line+int64(bytes.Count(b.text, []byte{'\n'})), err)
			return nil
		}
	}
}

func (d *fileDecoder) tooLong() error {
	if d.beside {
		return errLongLine
	}
	return fmt.Errorf("it is longer than %d MiB", d.limit>>20)
}

func (d *fileDecoder) damaged(line int64, err error) *FileError {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		err = errors.New("the file is truncated")
	case errors.Is(err, gzip.ErrHeader):
		err = errors.New("the file is not gzip")
	default:
		err = fmt.Errorf("the file is damaged: %w", err)
	}
	return &FileError{File: d.name, Line: line, Err: &damagedError{err}}
}

// split parses the lines of each block into rows by column slot.
func (d *fileDecoder) split(ctx context.Context, in <-chan *block, free chan<- *block, out chan<- *block) {
	splitter := change.NewSplitter(d.table)
	splitter.Unknown = d.unknown
	for {
		b, ok := receive(ctx, in)
		if !ok {
			return
		}
		if bad := d.splitBlock(splitter, b); bad != nil {
			damage := b.err
			if !b.last {
				damage = d.drain(ctx, in, free)
			}
			if damage != nil && damage.damaged() {
				bad.Err = damage.Err
			}
			b.err, b.last = bad, true
		}
		last := b.last
		out <- b // never blocks: the channel's capacity is the number of blocks
		if last {
			return
		}
	}
}

// drain reads the rest of the file without splitting it, and returns the error that ends the file,
// or nil. A bad line may be the result of damage that only the checksum at the end of the file
// shows.
func (d *fileDecoder) drain(ctx context.Context, in <-chan *block, free chan<- *block) *FileError {
	for {
		b, ok := receive(ctx, in)
		if !ok {
			return nil
		}
		if b.last {
			return b.err
		}
		free <- b // never blocks: the channel's capacity is the number of blocks
	}
}

func (d *fileDecoder) splitBlock(s *change.Splitter, b *block) *FileError {
	b.rows, b.lines, b.bad = b.rows[:0], b.lines[:0], b.bad[:0]
	text := b.text
	for n := 0; len(text) > 0; n++ {
		line := text
		if end := bytes.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = nil
		}
		if rawjson.SkipSpace(line, 0) == len(line) {
			continue
		}
		row, err := d.splitLine(s, line)
		if err != nil && d.refused != nil && err != errLongLine {
			b.bad = append(b.bad, badLine{b.line + int64(n), line, err})
			continue
		}
		if err != nil {
			return &FileError{File: d.name, Line: b.line + int64(n), Err: err}
		}
		b.rows, b.lines = append(b.rows, row), append(b.lines, n)
	}
	return nil
}

func (d *fileDecoder) splitLine(s *change.Splitter, line []byte) (change.Row, error) {
	row := change.Row{Image: line, Op: cdc.Insert, Clock: d.clock}
	if len(line) > d.limit {
		return row, d.tooLong()
	}
	var err error
	if row.Spans, err = s.Split(line); err != nil {
		return row, err
	}
	for slot, c := range d.table.Key() {
		if row.IsNull(slot) {
			return row, fmt.Errorf("the row has no value for %q of its primary key", c.Name)
		}
	}
	return row, change.CheckKey(d.table, &row)
}
