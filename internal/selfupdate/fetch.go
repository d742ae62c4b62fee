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
	// stallTimeout is how long a download may bring nothing.
	stallTimeout = time.Minute
	// fetchAttempts is how often a download is begun.
	fetchAttempts = 4
	maxRedirects  = 5
	// tellEvery is how many bytes a download brings until the observer hears of it.
	tellEvery = 1 << 20
)

// fetcher downloads files.
type fetcher struct {
	http    *http.Client
	agent   string
	log     *slog.Logger
	observe func(Progress)
	stall   time.Duration
	backoff retry.Backoff
}

func newFetcher(o Options) fetcher {
	client := &http.Client{Transport: newTransport()}
	if o.HTTP != nil {
		same := *o.HTTP
		client = &same
	}
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("it is redirected again and again")
		}
		// From another machine, loopback is somebody's attempt to reach what is on this one.
		if !private(r.URL) || loopback(r.URL.Hostname()) && !loopback(via[0].URL.Hostname()) {
			return errors.New("it is redirected to a place that is not https")
		}
		return nil
	}
	return fetcher{
		http: client, agent: "Shopmonkey EDS Server/" + o.Version, log: o.Logger, observe: o.Observe, stall: stallTimeout,
		backoff: retry.Backoff{Min: 500 * time.Millisecond, Max: 10 * time.Second},
	}
}

// newTransport returns a transport of our own, so that nobody else's settings
// change what a request does.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second,
		ForceAttemptHTTP2:   true,
		IdleConnTimeout:     time.Minute,
	}
}

// get downloads what is at address, at most limit bytes, into file.
func (f *fetcher) get(ctx context.Context, name, address string, limit int64, file *os.File) error {
	return f.persist(ctx, "download "+name, func() error { return f.attempt(ctx, name, address, limit, file) })
}

// persist does something until it succeeds, a few times at most: the network or
// the server may have a bad moment. A fatal error is the last.
func (f *fetcher) persist(ctx context.Context, doing string, once func() error) error {
	backoff := f.backoff
	for attempt := 1; ; attempt++ {
		err := once()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
		}
		if fault.Of(err) == fault.Fatal || attempt == fetchAttempts {
			return fmt.Errorf("%s: %w", doing, err)
		}
		wait := backoff.Next(err)
		f.log.WarnContext(ctx, doing+" failed; trying again", "wait", wait, "error", err)
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
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

// attempt makes the request once. Errors that another attempt can't mend are fatal.
func (f *fetcher) attempt(ctx context.Context, name, address string, limit int64, file *os.File) error {
	if err := errors.Join(file.Truncate(0), rewind(file)); err != nil {
		return fault.Mark(fault.Fatal, err)
	}
	ctx, stalled, cancel := f.watched(ctx)
	defer cancel()
	answer, err := f.ask(ctx, f.http, http.MethodGet, address)
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
	body := &meter{r: io.LimitReader(answer.Body, limit+1), total: max(answer.ContentLength, 0), tell: func(done, total int64) {
		f.observe(Progress{Doing: "download " + name, Done: done, Total: total})
	}, alive: func() { stalled.Reset(f.stall) }}
	n, err := io.Copy(file, body)
	switch {
	case err != nil && errors.As(err, new(*os.PathError)):
		return fault.Mark(fault.Fatal, err) // of the disk
	case err != nil:
		return withoutURL(ctx, err)
	case n > limit:
		return tooLarge(limit)
	}
	body.tell(n, body.total)
	return nil
}

// location returns where the server sends those who ask for address, "" where it
// sends them nowhere.
func (f *fetcher) location(ctx context.Context, address string) (to string, err error) {
	there := *f.http
	there.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	err = f.persist(ctx, "ask which release is the newest", func() error {
		ctx, _, cancel := f.watched(ctx)
		defer cancel()
		answer, err := f.ask(ctx, &there, http.MethodHead, address)
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

// watched returns a context that ends where nothing comes for a while. Whoever
// receives something resets the timer.
func (f *fetcher) watched(ctx context.Context) (context.Context, *time.Timer, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(f.stall, func() { cancel(fmt.Errorf("nothing came for %v", f.stall)) })
	return ctx, stalled, func() { stalled.Stop(); cancel(nil) }
}

// ask makes a request.
func (f *fetcher) ask(ctx context.Context, client *http.Client, method, address string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, fault.Mark(fault.Fatal, errors.New("its address is not a url"))
	}
	request.Header.Set("User-Agent", f.agent)
	request.Header.Set("Accept-Encoding", "identity") // the file as it was signed
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
	return fault.Mark(fault.Fatal, fmt.Errorf("it is larger than %d bytes, which no release is", limit))
}

// refusal returns the error that an answer is, or nil.
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

// withoutURL returns err, or what ended ctx, without the URL: after a redirect it
// may hold what gives access.
func withoutURL(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if u := new(url.Error); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// meter counts what is read.
type meter struct {
	r                 io.Reader
	done, total, told int64
	tell              func(done, total int64)
	alive             func()
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.alive()
	}
	if m.done += int64(n); m.done-m.told >= tellEvery {
		m.told = m.done
		m.tell(m.done, m.total)
	}
	return n, err
}
