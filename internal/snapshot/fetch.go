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
	partSuffix = ".part" // of a file that is not whole yet
	tagSuffix  = ".tag"  // of what tells whether the rest of it is still to be had
	// stallTimeout is how long a download may bring nothing.
	stallTimeout = time.Minute
	// maxUnannounced bounds a file whose size the server does not announce, in bytes.
	maxUnannounced = 16 << 30
	// maxRefusals is how often fresh URLs of a file may be refused.
	maxRefusals = 4
)

// location returns the URL of a file. Where stale is that URL it asks HQ for a
// fresh one first.
type location func(ctx context.Context, stale string) (string, error)

// fetcher downloads export files into a directory. A file that stands there
// under its own name is whole.
type fetcher struct {
	client   *http.Client
	log      *slog.Logger
	slots    chan struct{} // one for each download at a time
	patience time.Duration
	backoff  retry.Backoff
}

// transfer is the download of one file.
type transfer struct {
	path string
	// size is called when the size of the file is known, got with the number
	// of bytes that it has so far.
	size, got func(n int64)

	have int64 // bytes of the part
}

// errRefused says that a URL does not give access, or no longer.
var errRefused = errors.New("the download url is refused")

// fetch makes the file be at t.path. It goes on with what an earlier attempt or
// run left, and gives up when nothing has come for the fetcher's patience. Its
// errors hold no URL.
func (f *fetcher) fetch(ctx context.Context, t *transfer, where location) error {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	stale, refusals, backoff, progress := "", 0, f.backoff, time.Now()
	for {
		had := t.have
		err := f.attempt(ctx, t, where, &stale)
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
		f.log.WarnContext(ctx, "a download was interrupted; it goes on", "file", filepath.Base(t.path), "bytes", t.have, "wait", wait, "error", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// attempt makes one request for the file, or for the rest of it. It leaves in
// stale the URL that it used.
func (f *fetcher) attempt(ctx context.Context, t *transfer, where location, stale *string) error {
	target, err := where(ctx, *stale)
	if err != nil {
		return err
	}
	*stale = target
	part, err := openPart(t.path)
	if err != nil {
		return err
	}
	defer part.close()
	t.have = part.have

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("nothing came for %v", stallTimeout)) })
	defer stalled.Stop()
	response, err := f.request(ctx, target, part)
	if err != nil {
		return explain(ctx, err)
	}
	defer response.Body.Close()
	whole, err := part.accept(response)
	if err != nil || whole {
		return errors.Join(err, finishIf(whole, part))
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
			return explain(ctx, err)
		}
	}
}

func finishIf(whole bool, part *part) error {
	if !whole {
		return nil
	}
	return part.finish()
}

// explain strips an HTTP client's error of the URL, which is a secret.
func explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e := new(url.Error); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (f *fetcher) request(ctx context.Context, target string, p *part) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, errors.New("hq gave a download url that is not one"))
	}
	// Said by hand, it keeps the transport and object stores from unpacking.
	r.Header.Set("Accept-Encoding", "gzip")
	if p.have > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", p.have))
		if p.tag.Validator != "" {
			r.Header.Set("If-Range", p.tag.Validator)
		}
	}
	return f.client.Do(r)
}

// part is a file that is not whole yet.
type part struct {
	path string // of the whole file
	file *os.File
	have int64
	tag  tag
}

// tag tells which version of the file a part is of.
type tag struct {
	Validator string `json:"validator,omitempty"` // an ETag or a date; "" where the server gave none
	Size      int64  `json:"size"`                // of the whole file; -1 where it is not known
}

func openPart(path string) (*part, error) {
	file, err := os.OpenFile(path+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	p := &part{path: path, file: file, tag: tag{Size: -1}}
	if p.have, err = file.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	text, err := os.ReadFile(path + tagSuffix)
	if p.have > 0 && (err != nil || json.Unmarshal(text, &p.tag) != nil) {
		// Nobody knows what it is a part of.
		if err := p.restart(); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	return p, nil
}

// restart forgets what there is of the file.
func (p *part) restart() error {
	p.have, p.tag = 0, tag{Size: -1}
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return err
}

// accept prepares the part for the body of the response, or reports that it is
// whole already.
func (p *part) accept(r *http.Response) (whole bool, err error) {
	switch r.StatusCode {
	case http.StatusOK:
		return false, p.begin(tag{validator(r.Header), r.ContentLength})
	case http.StatusPartialContent:
		first, size, ok := contentRange(r.Header.Get("Content-Range"))
		if p.have == 0 && ok && first == 0 {
			return false, p.begin(tag{validator(r.Header), size})
		}
		if !ok || first != p.have || p.tag.Size >= 0 && size >= 0 && size != p.tag.Size {
			return false, errors.Join(p.restart(), errors.New("the server sent another part of the file than was asked for"))
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

// begin begins the file anew.
func (p *part) begin(of tag) error {
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

// write appends b, unless the file gets larger than it was said to be: then nothing of it
// is kept.
func (p *part) write(b []byte) error {
	switch size := p.have + int64(len(b)); {
	case p.tag.Size >= 0 && size > p.tag.Size:
		return errors.Join(p.restart(), fmt.Errorf("the server sent more than the %d bytes it announced", p.tag.Size))
	case p.tag.Size < 0 && size > maxUnannounced:
		return fault.Mark(fault.Fatal, errors.Join(p.restart(), fmt.Errorf("the server sent more than %d GiB of a file whose size it did not announce", maxUnannounced>>30)))
	}
	n, err := p.file.Write(b)
	p.have += int64(n)
	return err
}

// finish checks the length of the file and gives it its name, durably.
func (p *part) finish() error {
	if p.tag.Size >= 0 && p.have != p.tag.Size {
		return fmt.Errorf("the download ended at %d of %d bytes", p.have, p.tag.Size)
	}
	// Closed first: a file that is open can't be renamed everywhere.
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

// close keeps what there is for another attempt. After finish it does nothing.
func (p *part) close() { _ = p.file.Close() }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// validator returns what If-Range takes: a strong ETag, else a date.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return h.Get("Last-Modified")
}

// contentRange reads "bytes 5-9/10" and "bytes */10"; the size of "bytes 5-9/*"
// is -1.
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

// statusError says what an answer without the file means: refused URLs are made
// anew, what may pass is tried again, the rest is for people.
func statusError(r *http.Response) error {
	err := fmt.Errorf("the server answers %d %s", r.StatusCode, http.StatusText(r.StatusCode))
	switch code := r.StatusCode; {
	case code == http.StatusBadRequest || code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%w: %w", errRefused, err)
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		return &fault.Error{Class: fault.Transient, RetryAfter: fault.ParseRetryAfter(r.Header.Get("Retry-After"), time.Now()), Err: err}
	}
	return fault.Mark(fault.Fatal, err)
}
