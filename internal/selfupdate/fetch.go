package selfupdate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/retry"
)

const (
	// stallTimeout is the time without received data after which a download is aborted.
	stallTimeout = time.Minute
	// fetchAttempts is the maximum number of attempts for a download.
	fetchAttempts = 4
	maxRedirects  = 5
	// reportEvery is the number of received bytes after which a download reports its progress
	// again.
	reportEvery = 1 << 20
)

// releaseDownloader downloads the files of releases over HTTP.
type releaseDownloader struct {
	http    *http.Client
	agent   string
	log     *slog.Logger
	observe func(Progress)
	stall   time.Duration
	backoff retry.Backoff
}

func newReleaseDownloader(o Options) releaseDownloader {
	client := &http.Client{Transport: newTransport()}
	if o.HTTP != nil {
		same := *o.HTTP
		client = &same
	}
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("it is redirected too often")
		}
		// A redirect from another machine to loopback would reach services of this machine.
		if !private(r.URL) || loopback(r.URL.Hostname()) && !loopback(via[0].URL.Hostname()) {
			return errors.New("it is redirected to an address that is not https")
		}
		return nil
	}
	return releaseDownloader{
		http: client, agent: "Shopmonkey EDS Server/" + o.Version,
		log: o.Logger, observe: o.Observe, stall: stallTimeout,
		backoff: retry.Backoff{Min: 500 * time.Millisecond, Max: 10 * time.Second},
	}
}

// newTransport returns a transport with fixed settings. It shares no state with
// http.DefaultTransport.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     time.Minute,
	}
}

// get downloads the file at the given URL, and writes it to an open file. A download of more
// than limit bytes is an error. The name appears in errors and progress reports.
func (f *releaseDownloader) get(ctx context.Context, name, address string, limit int64, file *os.File) error {
	return f.retry(ctx, "download "+name, func() error { return f.attempt(ctx, name, address, limit, file) })
}

// retry calls fn until it succeeds, returns a fatal error, or has been called fetchAttempts
// times.
func (f *releaseDownloader) retry(ctx context.Context, operation string, fn func() error) error {
	err := retry.Do(ctx, retry.Policy{
		Backoff: f.backoff, Attempts: fetchAttempts, Retryable: func(err error) bool { return fault.Of(err) != fault.Fatal },
		Failed: func(err error, wait time.Duration) {
			f.log.WarnContext(ctx, operation+" failed; trying again", "wait", wait, "error", err)
		},
	}, fn)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// attempt makes a single request, and overwrites the given file with the response body. It marks an
// error as fatal if another attempt would fail in the same way.
func (f *releaseDownloader) attempt(ctx context.Context, name, address string, limit int64, file *os.File) error {
	if err := errors.Join(file.Truncate(0), rewind(file)); err != nil {
		return fault.Mark(fault.Fatal, err)
	}
	ctx, stalled, cancel := f.watched(ctx)
	defer cancel()
	answer, err := f.send(ctx, f.http, http.MethodGet, address)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if err := refusal(answer); err != nil {
		return err
	}
	if answer.ContentLength > limit {
		return tooLarge(limit)
	}
	body := &meter{
		r: io.LimitReader(answer.Body, limit+1), total: max(answer.ContentLength, 0),
		report: func(done, total int64) { f.observe(Progress{Doing: "download " + name, Done: done, Total: total}) },
		alive:  func() { stalled.Reset(f.stall) },
	}
	n, err := io.Copy(file, body)
	switch {
	case err != nil && errors.As(err, new(*os.PathError)):
		return fault.Mark(fault.Fatal, err) // writing to the file failed
	case err != nil:
		return withoutURL(ctx, err)
	case n > limit:
		return tooLarge(limit)
	}
	body.report(n, body.total)
	return nil
}

// location returns the target of the redirect at the given URL, or "" if the server does not
// redirect.
func (f *releaseDownloader) location(ctx context.Context, address string) (to string, err error) {
	client := *f.http
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	err = f.retry(ctx, "find the newest release", func() error {
		ctx, _, cancel := f.watched(ctx)
		defer cancel()
		answer, err := f.send(ctx, &client, http.MethodHead, address)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode/100 == 3 {
			to = answer.Header.Get("Location")
			return nil
		}
		return refusal(answer)
	})
	return to, err
}

// watched returns a context, a timer, and a function that releases both. The context is canceled if
// the timer is not reset for as long as f.stall. The caller resets the timer whenever it receives
// data.
func (f *releaseDownloader) watched(ctx context.Context) (context.Context, *time.Timer, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(f.stall, func() { cancel(fmt.Errorf("no data came for %v", f.stall)) })
	return ctx, stalled, func() { stalled.Stop(); cancel(nil) }
}

// send sends a request and returns the response. Its errors contain no URL.
func (f *releaseDownloader) send(ctx context.Context, client *http.Client, method, address string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, errors.New("its address is not a url"))
	}
	request.Header.Set("User-Agent", f.agent)
	request.Header.Set("Accept-Encoding", "identity") // so that the body is the file that was signed
	answer, err := client.Do(request)
	if err != nil {
		return nil, withoutURL(ctx, err)
	}
	return answer, nil
}

func rewind(file *os.File) error {
	_, err := file.Seek(0, io.SeekStart)
	return err
}

func tooLarge(limit int64) error {
	return fault.Mark(fault.Fatal, fmt.Errorf("it is larger than %d bytes, the bound for releases", limit))
}

// refusal returns an error if the response has a status other than 200, and nil otherwise.
func refusal(answer *http.Response) error {
	switch code := answer.StatusCode; {
	case code == http.StatusOK:
		return nil
	case code == http.StatusNotFound:
		return fault.Mark(fault.Fatal, ErrNoRelease)
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		return fmt.Errorf("the server answers %s", answer.Status)
	default:
		return fault.Mark(fault.Fatal, fmt.Errorf("the server answers %s", answer.Status))
	}
}

// withoutURL returns err without the request's URL, which may contain credentials after a
// redirect. If ctx is done, withoutURL returns the cause of ctx instead.
func withoutURL(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if u := new(url.Error); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// meter is a reader that counts the bytes read from r and reports its progress.
type meter struct {
	r                     io.Reader
	done, total, reported int64
	report                func(done, total int64)
	alive                 func()
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.alive()
	}
	if m.done += int64(n); m.done-m.reported >= reportEvery {
		m.reported = m.done
		m.report(m.done, m.total)
	}
	return n, err
}
