package file

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// compression is how NDJSON files are compressed.
type compression string

const (
	uncompressed compression = "none"
	gzipped      compression = "gzip"
	zstandard    compression = "zstd"
)

func parseCompression(text string) (compression, error) {
	switch c := compression(text); c {
	case "":
		return uncompressed, nil
	case uncompressed, gzipped, zstandard:
		return c, nil
	}
	return "", fmt.Errorf("option compress is %q; it should be none, gzip or zstd", text)
}

// extension is what names of files end in.
func (c compression) extension() string {
	switch c {
	case gzipped:
		return ".ndjson.gz"
	case zstandard:
		return ".ndjson.zst"
	default:
		return ".ndjson"
	}
}

// writer returns a writer of one gzip member or zstd frame into w, which Close
// ends. Frames one after another read as one stream.
func (c compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case gzipped:
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case zstandard:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	default:
		return plain{w}, nil
	}
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// resettable is a writer of frames that can begin another one.
type resettable interface {
	io.WriteCloser
	Reset(w io.Writer)
}

// compressor makes frames. It is safe for concurrent use.
type compressor struct {
	compression
	pool sync.Pool // of writers that can be reset
}

// frame returns text as one gzip member or zstd frame.
func (c *compressor) frame(text []byte) ([]byte, error) {
	if c.compression == uncompressed {
		return text, nil
	}
	var out bytes.Buffer
	w, ok := c.pool.Get().(resettable)
	if ok {
		w.Reset(&out)
	} else {
		fresh, err := c.writer(&out)
		if err != nil {
			return nil, err
		}
		w = fresh.(resettable)
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	c.pool.Put(w)
	return out.Bytes(), nil
}
