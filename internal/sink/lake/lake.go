// Package lake writes batches of changes as files for data lakes: NDJSON or Parquet, compressed,
// in directories by table and day. A destination only stores the files. Their content and names
// are the same in all destinations.
package lake

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/parquet-go/parquet-go/compress"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// Format is the format of files.
type Format string

const (
	NDJSON  Format = "ndjson"
	Parquet Format = "parquet"
)

// Encoder writes files. It is safe for concurrent use.
type Encoder struct {
	format   Format
	frames   compressor
	codec    compress.Codec
	adjusted func(table, column, rule string)
}

// NewEncoder returns an encoder. For each value that a documented rule changes, the encoder calls
// the function adjusted with the rule's name. These calls may be concurrent.
func NewEncoder(s Settings, adjusted func(table, column, rule string)) *Encoder {
	return &Encoder{format: s.Format, frames: compressor{Compression: s.Compression}, codec: s.Compression.codec(), adjusted: adjusted}
}

// Extension returns the file name extension, with its dot.
func (e *Encoder) Extension() string {
	if e.format == Parquet {
		return ".parquet"
	}
	return e.frames.extension()
}

// ContentType returns the media type of files.
func (e *Encoder) ContentType() string {
	switch {
	case e.format == Parquet:
		return "application/vnd.apache.parquet"
	case e.frames.Compression == Gzip:
		return "application/gzip"
	case e.frames.Compression == Zstd:
		return "application/zstd"
	default:
		return "application/x-ndjson"
	}
}

// Part is the part of a batch that is written to one file.
type Part struct {
	Dir    string // directory, relative to the destination
	Table  string
	Schema *schema.Table // defines the columns of a Parquet file; nil if there is no schema
	Events []*cdc.Event  // at least one
	Bytes  int           // total size of the events' payloads
}

// Write writes the part as one file to w. Writing the same part again gives the same bytes.
func (e *Encoder) Write(w io.Writer, p *Part) error {
	if e.format == Parquet {
		return e.writeParquet(w, p)
	}
	compressed, err := e.frames.begin(w)
	if err != nil {
		return err
	}
	err = ahead(p.Events, func() *lineBlock { return &lineBlock{encoder: e} }, (*lineBlock).fill, func(l *lineBlock) error {
		for _, text := range l.texts {
			if _, err := compressed.Write(text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return e.frames.end(compressed)
}

// lineBlock is a block of events, encoded as lines.
type lineBlock struct {
	encoder *Encoder
	texts   [][]byte // each event's text, followed by newline
}

var newline = []byte{'\n'}

func (l *lineBlock) fill(events []*cdc.Event) {
	l.texts = l.texts[:0]
	for _, event := range events {
		text, replaced := encode.Text(event)
		if replaced {
			l.encoder.adjusted(event.Table, "", "invalid-utf8")
		}
		l.texts = append(l.texts, text, newline)
	}
}

// AppendLine appends an event as one NDJSON line to dst.
func (e *Encoder) AppendLine(dst []byte, event *cdc.Event) []byte {
	dst, replaced := encode.AppendEvent(dst, event)
	if replaced {
		e.adjusted(event.Table, "", "invalid-utf8")
	}
	return append(dst, '\n')
}

// Frame compresses lines as one gzip member or zstd frame. An NDJSON file may have many
// consecutive frames.
func (e *Encoder) Frame(lines []byte) ([]byte, error) { return e.frames.frame(lines) }

// FrameWriter returns a writer that compresses data into w, as one frame. Its Close method ends the
// frame.
func (e *Encoder) FrameWriter(w io.Writer) (io.WriteCloser, error) {
	return e.frames.Compression.writer(w)
}

// Spool writes the part's file to a temporary file. It passes that file, positioned at the start,
// and the file's size to the callback use. Spool removes the temporary file.
func (e *Encoder) Spool(p *Part, use func(f *os.File, size int64) error) (err error) {
	f, err := os.CreateTemp("", "eds-spool-")
	if err != nil {
		return fmt.Errorf("spool changes on the local disk: %w", bare(err))
	}
	// On systems that can remove an open file, even a crash leaves no temporary file behind.
	removed := os.Remove(f.Name()) == nil
	defer func() {
		closed := f.Close()
		if !removed {
			closed = errors.Join(closed, os.Remove(f.Name()))
		}
		if err == nil {
			err = bare(closed)
		}
	}()
	buffer := bufio.NewWriterSize(f, 1<<18)
	if err := e.Write(buffer, p); err != nil {
		return fmt.Errorf("spool changes on the local disk: %w", bare(err))
	}
	if err := buffer.Flush(); err != nil {
		return fmt.Errorf("spool changes on the local disk: %w", bare(err))
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("spool changes on the local disk: %w", bare(err))
	}
	return use(f, size)
}

func bare(err error) error {
	if e := new(os.PathError); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// Planner splits batches into parts.
type Planner struct {
	Layout   *PathTemplate
	Schemas  bool // whether parts need the schemas of their tables
	Rows     int  // maximum number of events in a part
	Bytes    int  // maximum payload bytes of a part; a single event may have more
	Versions Versions
}

// Versions returns one version of a table. If that version does not exist, the error is poison,
// or has a method NotFound that returns true.
type Versions func(ctx context.Context, table, version string) (*schema.Table, error)

// Plan groups the events into parts, by directory and by version of their table. The events of a
// part keep their order.
func (p *Planner) Plan(ctx context.Context, events []*cdc.Event) ([]*Part, error) {
	type partKey struct{ dir, table, version string }
	var all []*Part
	open := make(map[partKey]*Part)
	dirs := make(map[dirKey]string) // a batch has few directories
	// The keys and the part of the previous event, which the next event often shares.
	var last dirKey
	var at partKey
	var part *Part
	for _, e := range events {
		version := ""
		if p.Schemas {
			version = e.ModelVersion
		}
		if from := p.Layout.dirKey(e); part == nil || from != last || version != at.version {
			dir, known := dirs[from]
			if !known {
				dir = p.Layout.Dir(e)
				dirs[from] = dir
			}
			last, at = from, partKey{dir: dir, table: e.Table, version: version}
			part = open[at]
		}
		if part == nil || len(part.Events) >= p.Rows || part.Bytes+len(e.Payload) > p.Bytes {
			part = &Part{Dir: at.dir, Table: e.Table}
			if p.Schemas {
				t, err := p.schema(ctx, e)
				if err != nil {
					return nil, err
				}
				part.Schema = t
			}
			open[at] = part
			all = append(all, part)
		}
		part.Events = append(part.Events, e)
		part.Bytes += len(e.Payload)
	}
	return all, nil
}

// schema returns the event's table. If the source has no such version of the table, schema returns
// nil, and the file has no columns for the values of the row.
func (p *Planner) schema(ctx context.Context, e *cdc.Event) (*schema.Table, error) {
	if p.Versions == nil {
		return nil, nil
	}
	t, err := p.Versions(ctx, e.Table, e.ModelVersion)
	var unknown interface{ NotFound() bool }
	if err != nil && (fault.Of(err) == fault.Poison || errors.As(err, &unknown) && unknown.NotFound()) {
		return nil, nil
	}
	return t, err
}

// ID returns a short hash of env's Stream, Consumer and Filter. File names contain this hash, so
// two consumers never write files with the same name.
func ID(env sink.Env) string {
	text, _ := json.Marshal([]string{env.Stream, env.Consumer, env.Filter}) // strings always encode
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:5])
}

// Name returns the name of the part's file, without its extension: <nanoseconds when the stream
// stored the first event>-<first sequence>-<last sequence>-<id>. The names sort in stream order.
// If the events have no position, the name contains a hash of their payloads instead.
func (p *Part) Name(id string) string {
	first, last := p.Events[0].Position, p.Events[len(p.Events)-1].Position
	if first == (cdc.Position{}) {
		sum := sha256.New()
		for _, e := range p.Events {
			sum.Write([]byte(e.Payload))
		}
		return "event-" + hex.EncodeToString(sum.Sum(nil)[:16])
	}
	return fmt.Sprintf("%019d-%020d-%020d-%s", max(first.Stored, 0), first.Sequence, last.Sequence, id)
}

// ImportName returns the name of the nth file, counted from 1, that is written for one batch of a
// snapshot's file.
func ImportName(from encode.SnapshotPart, n int) string {
	return fmt.Sprintf("import-%s~%s~%d-%d", encode.Segment(from.Job, 80), encode.Segment(from.File, 100), from.Batch, n)
}
