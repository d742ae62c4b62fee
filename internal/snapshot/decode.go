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
	// MaxLine bounds a row, in bytes of JSON, as messages of the stream are bounded:
	// what imports also streams.
	MaxLine = cdc.MaxPayload
	// blockSize is how much text is decoded at once, in bytes; a longer line
	// makes a larger block.
	blockSize = 256 << 10
	// readSize is how much of a file is read at once, in bytes.
	readSize = 64 << 10
	// keptBlock is the largest block whose memory is used again.
	keptBlock = 4 << 20
	// blocks is how many of a file are in flight: one being unpacked, one being
	// split, one being loaded. A file with long lines has one.
	blocks = 3
	// shortLines is how much the lines in flight of all files may have, in bytes, while
	// each is as long as files that are loaded side by side may have them.
	shortLines = 16 << 20
)

// shortLine returns how long lines may be, in bytes, of as many files as are loaded side by
// side.
func shortLine(files int) int { return max(blockSize, shortLines/(blocks*files)) }

// errLongLine says that a file has to be loaded alone, because one of its lines is longer
// than those of files that are loaded side by side.
var errLongLine = errors.New("a line is too long to load the file beside others")

// FileError says where in an export file what went wrong. It holds no value of
// a row.
type FileError struct {
	File string
	Line int64 // from 1; 0 where it is not about a line
	// Before is true where all that is known is that it is in Line or before.
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

// damaged reports whether the file is, so that its text means nothing.
func (e *FileError) damaged() bool { return errors.As(e.Err, new(*damagedError)) }

// damagedError marks what a file that was downloaded again might not have.
type damagedError struct{ err error }

func (e *damagedError) Error() string { return e.err.Error() }
func (e *damagedError) Unwrap() error { return e.err }

// block is a run of whole lines.
type block struct {
	text []byte
	line int64 // number of the first line
	rows []change.Row
	// lines are the rows' lines, counted from the block's first.
	lines []int
	bad   []badLine
	last  bool       // nothing follows
	err   *FileError // what ends the file after these rows; nil at its proper end
}

// badLine is a line that is no row of the table.
type badLine struct {
	line int64 // of the file
	text []byte
	err  error
}

// fileDecoder decodes one export file: gzipped NDJSON, a row object a line.
type fileDecoder struct {
	name  string
	table *schema.Table
	clock cdc.Timestamp // of the rows
	limit int           // of a line, in bytes
	// alone says that no other file is loaded meanwhile: one block is in flight. Beside
	// others, a line over the limit is an errLongLine.
	alone, beside bool
	// unknown is called with each name of a member that the table lacks.
	unknown func(name []byte)
	// passed is called after each block of rows, with the number of rows.
	passed func(rows int)
	// refused, where set, is called after each block of rows with the lines in it that are
	// no rows, and why; its error ends the rows. The text is valid during the call. Nil:
	// such a line ends the rows.
	refused func(line int64, text []byte, reason error) error

	row   int64 // number of the last row yielded, from 1
	line  int64 // its line
	gaps  []gap // what lies between rows, ascending
	err   error // the error yielded
	ended bool  // every row was yielded
}

// gap is a row that does not follow in the line after the row before.
type gap struct{ row, line int64 }

// lineOf returns the line of a row that was yielded.
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

// Rows yields the file's rows. Unpacking, splitting, and what the caller does
// with a row overlap. A row is valid until the next one is asked for. An error,
// a *FileError or that of ctx, ends the rows.
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
			free <- b // never full: it has room for every block
		}
	}
}

// receive takes from c, unless ctx ends first.
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
	var rest []byte // the beginning of a line that the last block did not end
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
		out <- b // never full: it has room for every block
		if last {
			return
		}
	}
}

// fill reads whole lines into b, after rest, and returns what follows the last
// of them.
func (d *fileDecoder) fill(b *block, r io.Reader, rest []byte) []byte {
	if cap(b.text) > keptBlock || cap(b.text) < blockSize {
		b.text = make([]byte, 0, max(blockSize, 2*len(rest)))
	}
	b.text = append(b.text[:0], rest...)
	searched := 0 // no line break before it
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
			// Whole lines before the damage are good, and tell its line.
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

// split cuts the rows of blocks into column slots.
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
		out <- b // never full: it has room for every block
		if last {
			return
		}
	}
}

// drain unpacks the rest of the file and returns what ends it: a bad line may
// come of damage that only the checksum at the end shows.
func (d *fileDecoder) drain(ctx context.Context, in <-chan *block, free chan<- *block) *FileError {
	for {
		b, ok := receive(ctx, in)
		if !ok {
			return nil
		}
		if b.last {
			return b.err
		}
		free <- b // never full: it has room for every block
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
