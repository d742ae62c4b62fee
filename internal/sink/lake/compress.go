package lake

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression is the compression format of files.
type Compression string

const (
	None Compression = "none"
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
)

// extension returns the file name extension of NDJSON files with this compression.
func (c Compression) extension() string {
	switch c {
	case Gzip:
		return ".ndjson.gz"
	case Zstd:
		return ".ndjson.zst"
	default:
		return ".ndjson"
	}
}

// writer returns a writer that compresses data into w, as one gzip member or zstd frame. Its Close
// method ends the frame. Readers decompress consecutive frames as one stream.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	default:
		return plain{w}, nil
	}
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// resettable is a writer that can start another frame after Close.
type resettable interface {
	io.WriteCloser
	Reset(w io.Writer)
}

// compressor compresses frames, and reuses their writers. It is safe for concurrent use.
type compressor struct {
	Compression
	pool sync.Pool // of writers that can be reset
}

// begin returns a writer that compresses one frame into w. The caller must later pass the writer to
// the method end.
func (c *compressor) begin(w io.Writer) (io.WriteCloser, error) {
	if used, ok := c.pool.Get().(resettable); ok {
		used.Reset(w)
		return used, nil
	}
	return c.writer(w)
}

// end ends the frame of w, and keeps w for reuse.
func (c *compressor) end(w io.WriteCloser) error {
	err := w.Close()
	if used, ok := w.(resettable); ok && err == nil {
		c.pool.Put(used)
	}
	return err
}

// frame returns text, compressed as one gzip member or zstd frame.
func (c *compressor) frame(text []byte) ([]byte, error) {
	if c.Compression == None {
		return text, nil
	}
	var out bytes.Buffer
	w, err := c.begin(&out)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := c.end(w); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
