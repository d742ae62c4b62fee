package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// request makes the request that carries events, and signs it.
func (s *Sink) request(ctx context.Context, events []*cdc.Event) (*http.Request, *body, error) {
	content := s.body(events)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.endpoint.String(), content.reader())
	if err != nil {
		return nil, nil, errURL
	}
	r.ContentLength = int64(len(content.text))
	r.GetBody = func() (io.ReadCloser, error) { return content.reader(), nil }
	r.Header = s.headers.Clone()
	r.Header.Set("Content-Type", "application/x-ndjson")
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "eds")
	}
	if s.gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	id, stamp := batchID(events), strconv.FormatInt(s.now().Unix(), 10)
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", stamp)
	if s.secret != nil {
		r.Header.Set("Webhook-Signature", sign(s.secret, id, stamp, content.text))
	}
	return r, content, nil
}

// batchID names a request by its places in the stream and the changes that it
// carries: the same each time that the same changes are sent.
func batchID(events []*cdc.Event) string {
	hash := sha256.New()
	var text []byte
	for _, e := range events {
		text = binary.BigEndian.AppendUint64(text[:0], e.Position.Sequence)
		text = binary.BigEndian.AppendUint64(text, uint64(e.Clock.Wall))
		text = binary.BigEndian.AppendUint32(text, e.Clock.Logical)
		text = binary.BigEndian.AppendUint64(text, uint64(len(e.Payload)))
		text = binary.BigEndian.AppendUint64(text, uint64(len(e.ID)))
		hash.Write(append(text, e.ID...))
	}
	first, last := events[0].Position, events[len(events)-1].Position
	return fmt.Sprintf("eds_%d-%d_%s", first.Sequence, last.Sequence, hex.EncodeToString(hash.Sum(nil)[:12]))
}

// sign returns the signature that standardwebhooks.com asks for.
func sign(secret []byte, id, stamp string, content []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(content)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// body is what a request carries.
type body struct {
	text    []byte
	readers atomic.Int32 // that are open: the client may read on when a request has been answered
}

func (b *body) reader() io.ReadCloser {
	b.readers.Add(1)
	return &reader{Reader: bytes.NewReader(b.text), of: b}
}

type reader struct {
	*bytes.Reader
	of     *body
	closed atomic.Bool
}

func (r *reader) Close() error {
	if !r.closed.Swap(true) {
		r.of.readers.Add(-1)
	}
	return nil
}

// body returns the events, a line each, compressed where that is asked for.
func (s *Sink) body(events []*cdc.Event) *body {
	lines := s.lines(events)
	if !s.gzip {
		return &body{text: lines}
	}
	defer s.keep(lines)
	return &body{text: s.compress(lines)}
}

func (s *Sink) lines(events []*cdc.Event) []byte {
	size := 0
	for _, e := range events {
		size += len(e.Payload) + 1
	}
	lines := slices.Grow(s.spare, size)
	s.spare = nil
	for _, e := range events {
		text, replaced := encode.Text(e)
		if replaced {
			s.env.Adjusted(e.Table, "", "invalid-utf8")
		}
		lines = append(append(lines, text...), '\n')
	}
	return lines
}

func (s *Sink) compress(lines []byte) []byte {
	var out bytes.Buffer
	if s.zip == nil {
		s.zip, _ = gzip.NewWriterLevel(&out, gzip.BestSpeed) // the level is a valid one
	}
	s.zip.Reset(&out)
	_, _ = s.zip.Write(lines) // a buffer takes everything
	_ = s.zip.Close()
	return out.Bytes()
}

// reuse takes back the memory of a body that nobody reads any more.
func (s *Sink) reuse(b *body) {
	if b.readers.Load() == 0 {
		s.keep(b.text)
	}
}

// keep keeps memory for the next request, unless there is more of it already, or
// it was one huge change's.
func (s *Sink) keep(text []byte) {
	if cap(text) > cap(s.spare) && cap(text) <= 2*s.limits.Bytes {
		s.spare = text[:0]
	}
}
