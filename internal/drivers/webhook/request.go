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

// request returns a signed request that posts the events, and the request's body.
func (s *Sink) request(ctx context.Context, events []*cdc.Event) (*http.Request, *requestBody, error) {
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

// batchID returns the id of a request. The id depends only on the events' positions in the stream,
// clocks, ids and payload lengths, so the same changes always have the same id.
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

// sign returns the signature of a request as standardwebhooks.com defines it. The parameter stamp
// is the time in Unix seconds.
func sign(secret []byte, id, stamp string, content []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + stamp + "."))
	mac.Write(content)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// requestBody is the body of a request.
type requestBody struct {
	text    []byte
	readers atomic.Int32 // number of open readers; the client may still read after the response
}

func (b *requestBody) reader() io.ReadCloser {
	b.readers.Add(1)
	return &bodyReader{Reader: bytes.NewReader(b.text), of: b}
}

type bodyReader struct {
	*bytes.Reader
	of     *requestBody
	closed atomic.Bool
}

func (r *bodyReader) Close() error {
	if !r.closed.Swap(true) {
		r.of.readers.Add(-1)
	}
	return nil
}

// body returns the events as lines of a request body, compressed if the URL asks for compression.
func (s *Sink) body(events []*cdc.Event) *requestBody {
	lines := s.lines(events)
	if !s.gzip {
		return &requestBody{text: lines}
	}
	defer s.keep(lines)
	return &requestBody{text: s.compress(lines)}
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
		s.zip, _ = gzip.NewWriterLevel(&out, gzip.BestSpeed) // no error: the level is valid
	}
	s.zip.Reset(&out)
	_, _ = s.zip.Write(lines) // a buffer never fails
	_ = s.zip.Close()
	return out.Bytes()
}

// reuse keeps the memory of a body for the next request, unless a reader of the body is still open.
func (s *Sink) reuse(b *requestBody) {
	if b.readers.Load() == 0 {
		s.keep(b.text)
	}
}

// keep saves the memory of text for the next request. It discards the memory if larger memory is
// already saved, or if text is larger than twice the limit of a batch.
func (s *Sink) keep(text []byte) {
	if cap(text) > cap(s.spare) && cap(text) <= 2*s.limits.Bytes {
		s.spare = text[:0]
	}
}
