package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/durable"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

const (
	partSuffix = ".part" // suffix of a file that is not complete yet
	tagSuffix  = ".tag"  // suffix of the file that identifies the version of a partial file
	// stallTimeout is how long a download may go without receiving data.
	stallTimeout = time.Minute
	// maxUnannounced is the maximum size of a file, in bytes, if the server does not announce the
	// size.
	maxUnannounced = 16 << 30
	// maxRefusals is the number of times that the server may refuse fresh URLs of a file.
	maxRefusals = 4
)

// locator returns the URL of a file. If the known URL equals stale, the locator requests a fresh
// URL from HQ.
type locator func(ctx context.Context, stale string) (string, error)

// downloader downloads export files into a directory. A file does not get its final name until it
// is complete.
type downloader struct {
	client   *http.Client
	log      *slog.Logger
	slots    chan struct{} // the capacity bounds the number of concurrent downloads
	patience time.Duration
	backoff  retry.Backoff
}

// transfer is the download of one file.
type transfer struct {
	path string
	// size(n) is called with the size of the file as soon as the size is known. got(n) is called
	// with the number of bytes downloaded so far.
	size, got func(n int64)

	have int64 // number of bytes in the partial file
}

// errRefused reports that a URL gives no access to the file, or has expired.
var errRefused = errors.New("the download url is refused")

// download downloads the file to t.path. It continues the partial file of an earlier attempt or
// run. It gives up after it has received no data for f.patience. Its errors contain no URL.
func (f *downloader) download(ctx context.Context, t *transfer, locate locator) error {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	stale, refusals, backoff, progress := "", 0, f.backoff, time.Now()
	for {
		had := t.have
		err := f.attempt(ctx, t, locate, &stale)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case t.have > had:
			progress, refusals = time.Now(), 0
			backoff.Reset()
		}
		if errors.Is(err, errRefused) {
			refusals++
		} else {
			stale = ""
		}
		wait := backoff.Next(err)
		if refusals > maxRefusals || fault.Of(err) != fault.Transient || time.Since(progress)+wait > f.patience {
			return fmt.Errorf("download: %w", err)
		}
		f.log.WarnContext(
			ctx, "a download was interrupted; continuing it", "file", filepath.Base(t.path), "bytes", t.have, "wait", wait, "error",
			err,
		)
		if err := retry.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// attempt makes one request for the file, or for the rest of a partial file. It calls locate with
// *stale, and then sets *stale to the URL of the request.
func (f *downloader) attempt(ctx context.Context, t *transfer, locate locator, stale *string) error {
	target, err := locate(ctx, *stale)
	if err != nil {
		return err
	}
	*stale = target
	part, err := openPartialFile(t.path)
	if err != nil {
		return err
	}
	defer part.close()
	t.have = part.have

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("no data came for %v", stallTimeout)) })
	defer stalled.Stop()
	response, err := f.request(ctx, target, part)
	if err != nil {
		return stripURL(ctx, err)
	}
	defer response.Body.Close()
	complete, err := part.accept(response)
	if complete {
		return part.finish()
	}
	if err != nil {
		return err
	}
	t.have = part.have
	if part.tag.Size >= 0 {
		t.size(part.tag.Size)
	}
	for buffer := make([]byte, 128<<10); ; {
		n, err := response.Body.Read(buffer)
		if n > 0 {
			stalled.Reset(stallTimeout)
			if err := part.write(buffer[:n]); err != nil {
				return err
			}
			t.have = part.have
			t.got(t.have)
		}
		if err == io.EOF {
			return part.finish()
		}
		if err != nil {
			return stripURL(ctx, err)
		}
	}
}

// stripURL removes the URL from an error of an HTTP client, because the URL is a secret.
func stripURL(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e := new(url.Error); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (f *downloader) request(ctx context.Context, target string, p *partialFile) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, errors.New("hq sent an invalid download url"))
	}
	// The explicit header prevents the transport and object stores from unpacking the file.
	r.Header.Set("Accept-Encoding", "gzip")
	if p.have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", p.have))
		if p.tag.Validator != "" {
			r.Header.Set("If-Range", p.tag.Validator)
		}
	}
	return f.client.Do(r)
}

// partialFile is an export file that is not completely downloaded yet.
type partialFile struct {
	path string // path of the complete file
	file *os.File
	have int64
	tag  partTag
}

// partTag identifies the version of the file that a partial file belongs to.
type partTag struct {
	Validator string `json:"validator,omitempty"` // a strong ETag or a date; "" if the server sent neither
	Size      int64  `json:"size"`                // size of the complete file, in bytes; -1 if unknown
}

func openPartialFile(path string) (*partialFile, error) {
	file, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	p := &partialFile{path: path, file: file, tag: partTag{Size: -1}}
	if p.have, err = file.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	text, err := os.ReadFile(path + tagSuffix)
	if p.have > 0 && (err != nil || json.Unmarshal(text, &p.tag) != nil) {
		// The version of the partial file is unknown.
		if err := p.restart(); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return p, nil
}

// restart discards the content of the partial file.
func (p *partialFile) restart() error {
	p.have, p.tag = 0, partTag{Size: -1}
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

// accept prepares the partial file for the body of the response r. It reports whether the file is
// already complete, in which case the body is not needed.
func (p *partialFile) accept(r *http.Response) (complete bool, err error) {
	switch r.StatusCode {
	case http.StatusOK:
		return false, p.begin(partTag{validator(r.Header), r.ContentLength})
	case http.StatusPartialContent:
		first, size, ok := contentRange(r.Header.Get("Content-Range"))
		if p.have == 0 && ok && first == 0 {
			return false, p.begin(partTag{validator(r.Header), size})
		}
		if !ok || first != p.have || p.tag.Size >= 0 && size >= 0 && size != p.tag.Size {
			return false, errors.Join(p.restart(), errors.New("the server sent another part of the file than requested"))
		}
		return false, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if _, size, ok := contentRange(r.Header.Get("Content-Range")); ok && size == p.have && size == p.tag.Size {
			return true, nil
		}
		return false, errors.Join(p.restart(), errors.New("the file has changed at the server"))
	}
	return false, statusError(r)
}

// begin empties the partial file, and records the version that will be downloaded.
func (p *partialFile) begin(of partTag) error {
	if err := p.restart(); err != nil {
		return err
	}
	p.tag = of
	text, err := json.Marshal(of)
	if err != nil {
		return err
	}
	return os.WriteFile(p.path+tagSuffix, text, 0o600)
}

// write appends b to the file. If the file would become larger than announced, write discards the
// content of the file and returns an error.
func (p *partialFile) write(b []byte) error {
	switch size := p.have + int64(len(b)); {
	case p.tag.Size >= 0 && size > p.tag.Size:
		return errors.Join(p.restart(), fmt.Errorf("the server sent more than the %d bytes it announced", p.tag.Size))
	case p.tag.Size < 0 && size > maxUnannounced:
		err := fmt.Errorf("the server sent more than %d GiB of a file whose size it did not announce", maxUnannounced>>30)
		return fault.Mark(fault.Fatal, errors.Join(p.restart(), err))
	}
	n, err := p.file.Write(b)
	p.have += int64(n)
	return err
}

// finish checks the length of the file, and durably gives the file its final name.
func (p *partialFile) finish() error {
	if p.tag.Size >= 0 && p.have != p.tag.Size {
		return fmt.Errorf("the download ended at %d of %d bytes", p.have, p.tag.Size)
	}
	// Close the file first: some systems cannot rename an open file.
	if err := errors.Join(p.file.Sync(), p.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(p.path+partSuffix, p.path); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(p.path)); err != nil {
		return err
	}
	return removeFile(p.path + tagSuffix)
}

// close closes the partial file, and keeps it on disk for another attempt. After finish, close does
// nothing.
func (p *partialFile) close() { _ = p.file.Close() }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// validator returns the value for an If-Range header: the strong ETag in h if there is one, else
// the Last-Modified date.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return h.Get("Last-Modified")
}

// contentRange parses a Content-Range header, such as "bytes 5-9/10" or "bytes */10". For "bytes
// 5-9/*", size is -1.
func contentRange(text string) (first, size int64, ok bool) {
	text, ok = strings.CutPrefix(text, "bytes ")
	span, total, slash := strings.Cut(text, "/")
	if !ok || !slash {
		return 0, 0, false
	}
	size = -1
	if total != "*" {
		n, err := strconv.ParseUint(total, 10, 63)
		if err != nil {
			return 0, 0, false
		}
		size = int64(n)
	}
	if span == "*" {
		return 0, size, size >= 0
	}
	from, _, _ := strings.Cut(span, "-")
	n, err := strconv.ParseUint(from, 10, 63)
	return int64(n), size, err == nil
}

// statusError returns the classified error for a response that does not contain the file. If the
// URL was refused, the downloader gets another URL. It retries after a transient error. A fatal
// error needs the operator.
func statusError(r *http.Response) error {
	err := fmt.Errorf("the server answers %d %s", r.StatusCode, http.StatusText(r.StatusCode))
	switch code := r.StatusCode; {
	case code == http.StatusBadRequest || code == http.StatusUnauthorized || code == http.StatusForbidden ||
		code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%w: %w", errRefused, err)
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		wait := fault.ParseRetryAfter(r.Header.Get("Retry-After"), time.Now())
		return &fault.Error{Class: fault.Transient, RetryAfter: wait, Err: err}
	}
	return fault.Mark(fault.Fatal, err)
}
