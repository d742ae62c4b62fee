package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// stored returns the content of the objects below a URL's prefix, by name.
func stored(t testing.TB, raw string) map[string]string {
	t.Helper()
	bucket, prefix := bucketOf(t, raw)
	all := make(map[string]string)
	for name, text := range peers.S3(t).Objects(t, bucket, prefix) {
		all[name] = string(text)
	}
	return all
}

func newTarget(t testing.TB, query string) string {
	t.Helper()
	server := peers.S3(t)
	return at(server.Addr(), newPrefix(server.Bucket(t)), query)
}

func TestObjectSink_WritesAnObjectPerEvent(t *testing.T) {
	raw := newTarget(t, "")
	s := mustOpen(t, raw)
	ruled := order(t, 4)
	ruled.Object = "../by rule/./x.json"
	events := []*cdc.Event{order(t, 1), order(t, 2), order(t, 3), ruled}
	mustApply(t, s, events...)
	want := map[string]string{
		"order/1700000000-k1-ev1.json": string(events[0].Payload) + "\n",
		"order/1700000000-k2-ev2.json": string(events[1].Payload) + "\n",
		"order/1700000000-k0-ev3.json": string(events[2].Payload) + "\n",
		"%2E%2E/by rule/%2E/x.json":    string(events[3].Payload) + "\n",
	}
	if diff := cmp.Diff(want, stored(t, raw)); diff != "" {
		t.Error(diff)
	}
	mustApply(t, s, events...)
	if diff := cmp.Diff(want, stored(t, raw)); diff != "" {
		t.Errorf("after a replay: %s", diff)
	}
}

func TestObjectSink_KeepsTheLastEventOfAName(t *testing.T) {
	raw := newTarget(t, "path="+url.QueryEscape("latest/{{.table}}-{{.key}}.json"))
	s := mustOpen(t, raw)
	var events []*cdc.Event
	for n := range 40 {
		events = append(events, order(t, n+1))
	}
	mustApply(t, s, events...)
	mustApply(t, s, order(t, 41))
	want := map[string]string{
		"latest/order-k0.json": string(order(t, 39).Payload) + "\n", "latest/order-k1.json": string(order(t, 40).Payload) + "\n",
		"latest/order-k2.json": string(order(t, 41).Payload) + "\n",
	}
	if diff := cmp.Diff(want, stored(t, raw)); diff != "" {
		t.Error(diff)
	}
}

func TestObjectSink_RejectsALongName(t *testing.T) {
	raw := newTarget(t, "path="+url.QueryEscape(strings.Repeat(strings.Repeat("p", 200)+"/", 5)+strings.Repeat("q", 15)+"{{.id}}"))
	err := mustOpen(t, raw).Apply(t.Context(), sinktest.Batch(order(t, 1)))
	if fault.Of(err) != fault.Poison || !strings.Contains(err.Error(), "more than 1024") {
		t.Errorf("the error is %v: %v", fault.Of(err), err)
	}
	template := mustOpen(t, newTarget(t, "path="+url.QueryEscape("{{index .key 5}}")))
	if err := template.Apply(t.Context(), sinktest.Batch(order(t, 1))); fault.Of(err) != fault.Poison ||
		strings.Contains(err.Error(), "k1") {
		t.Errorf("a template that fails: %v: %v", fault.Of(err), err)
	}
}

// TestObjectSink_CorrectsAWrongClock runs in a synctest bubble, in which it is the year 2000. The
// server rejects signatures whose time differs from its own.
func TestObjectSink_CorrectsAWrongClock(t *testing.T) {
	raw := newTarget(t, "")
	synctest.Test(t, func(t *testing.T) {
		if year := time.Now().Year(); year != 2000 {
			t.Fatalf("it is %d", year)
		}
		c, err := parse(parsed(t, raw))
		if err != nil {
			t.Fatal(err)
		}
		st, err := newBucketStore(t.Context(), c, sink.Env{}.Complete().Access)
		if err != nil {
			t.Fatal(err)
		}
		st.transport.DisableKeepAlives = true // the time of a bubble stops while a goroutine reads from a connection
		s := newObjectSink(c, sink.Env{}, st)
		if err := s.Probe(t.Context()); err != nil {
			t.Error(err)
		}
		mustApply(t, s, order(t, 1))
		closeSink(t, s)
	})
	if got := stored(t, raw); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
}

// TestObjectSink_RetriesWhileThrottled makes a batch fail for a while with many 503 responses.
// Afterwards every object must be stored.
func TestObjectSink_RetriesWhileThrottled(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	path := newPrefix(server.Bucket(t))
	s := mustOpen(t, at(f.addr(), path, "max-retries=0&uploadTasks=8"))
	var events []*cdc.Event
	for n := range 100 {
		events = append(events, order(t, n+1))
	}
	f.set(func(w http.ResponseWriter, r *http.Request) bool { return refuse(w, r, 503, "SlowDown") })
	err := s.Apply(t.Context(), sinktest.Batch(events...))
	if fault.Of(err) != fault.Transient || !strings.Contains(fmt.Sprint(err), "503 SlowDown, request REQUEST1") ||
		strings.Contains(fmt.Sprint(err), "SECRET") || strings.Contains(fmt.Sprint(err), "k1") {
		t.Errorf("in the storm the error is %v: %v", fault.Of(err), err)
	}
	if err := s.Probe(t.Context()); fault.Of(err) != fault.Transient {
		t.Errorf("in the storm the probe says %v", err)
	}
	var passed atomic.Int64 // number of requests; every second one is rejected
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		return passed.Add(1)%2 == 0 && refuse(w, r, 503, "SlowDown")
	})
	if err := s.Apply(t.Context(), sinktest.Batch(events...)); fault.Of(err) != fault.Transient || err == nil {
		t.Errorf("in half a storm: %v", err)
	}
	f.passAll()
	mustApply(t, s, events...)
	if got := stored(t, at(server.Addr(), path, "")); len(got) != len(events) {
		t.Errorf("there are %d objects, want %d", len(got), len(events))
	}
}

// TestObjectSink_ClientRetries checks that the client retries as many times as max-retries allows.
func TestObjectSink_ClientRetries(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	s := mustOpen(t, at(f.addr(), newPrefix(server.Bucket(t)), "max-retries=1"))
	var refused atomic.Int64
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		return refused.Add(1) == 1 && refuse(w, r, 500, "InternalError")
	})
	before := f.asked.Load()
	mustApply(t, s, order(t, 1))
	if n := f.asked.Load() - before; n != 2 {
		t.Errorf("it took %d requests, want 2", n)
	}
}

func TestClassify_StoreResponses(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	s := mustOpen(t, at(f.addr(), newPrefix(server.Bucket(t)), "max-retries=0"))
	expiring := mustOpen(t, at(f.addr(), newPrefix(server.Bucket(t)), "max-retries=0"))
	renew := expiring.(*objectSink).renew
	expiring.(*objectSink).renew = func() (config, error) {
		c, err := renew()
		c.keys.token = "t"
		return c, err
	}
	for _, c := range []struct {
		status int
		code   string
		class  fault.Class
		want   string
	}{
		{404, "NoSuchBucket", fault.Transient, "create it, or correct the url"},
		{403, "AccessDenied", fault.Transient, "allow s3:PutObject"},
		{403, "SomethingNew", fault.Transient, "allow s3:PutObject"},
		{403, "ExpiredToken", fault.Transient, "renew session-token="},
		{403, "RequestTimeTooSkewed", fault.Transient, "the clock of this machine"},
		{400, "KMS.NotFoundException", fault.Transient, "kms-key="},
		{400, "KeyTooLongError", fault.Poison, "too long"},
		{400, "RequestTimeout", fault.Transient, "400 RequestTimeout"},
		{409, "OperationAborted", fault.Transient, "409 OperationAborted"},
		{429, "TooManyRequests", fault.Transient, "429"},
		{500, "InternalError", fault.Transient, "500 InternalError"},
		{503, "ServiceUnavailable", fault.Transient, "503"},
		{307, "TemporaryRedirect", fault.Transient, "307"},
		{507, "", fault.Transient, "507"},
	} {
		f.set(func(w http.ResponseWriter, r *http.Request) bool { return refuse(w, r, c.status, c.code) })
		into := s
		if c.code == "ExpiredToken" {
			into = expiring
		}
		err := into.Apply(t.Context(), sinktest.Batch(order(t, 1)))
		if err == nil || fault.Of(err) != c.class || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET") ||
			strings.Contains(err.Error(), "k1") {
			t.Errorf("%d %s is %v: %v", c.status, c.code, fault.Of(err), err)
		}
	}
}

// TestObjectSink_RetriesAnInterruptedUpload interrupts the upload of a large object.
func TestObjectSink_RetriesAnInterruptedUpload(t *testing.T) {
	server := peers.S3(t)
	f := newInterceptor(t)
	path := newPrefix(server.Bucket(t))
	s := mustOpen(t, at(f.addr(), path, "max-retries=0"))
	large := event(t, 1, fmt.Sprintf(`{"operation":"INSERT","id":"ev1","table":"order","key":["k1"],"after":{"id":"k1","text":"%s"},`+
		`"timestamp":1700000000000,"mvccTimestamp":"1"}`, strings.Repeat("0123456789", 500_000)))
	f.set(func(_ http.ResponseWriter, r *http.Request) bool {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		panic(http.ErrAbortHandler)
	})
	err := s.Apply(t.Context(), sinktest.Batch(large))
	if err == nil || fault.Of(err) != fault.Transient || strings.Contains(err.Error(), "k1") {
		t.Errorf("the error is %v: %.300v", fault.Of(err), err)
	}
	if got := stored(t, at(server.Addr(), path, "")); len(got) != 0 {
		t.Error("there is an object although the upload failed")
	}
	f.passAll()
	mustApply(t, s, large)
	if got := stored(t, at(server.Addr(), path, "")); got["order/1700000000-k1-ev1.json"] != string(large.Payload)+"\n" {
		t.Errorf("the object differs from the upload; there are %d", len(got))
	}
}

// TestObjectSink_TimesOutOnASilentStore checks that a request ends after the time in option
// timeout.
func TestObjectSink_TimesOutOnASilentStore(t *testing.T) {
	server := peers.S3(t)
	proxy := sinktest.NewProxy(t, server.Addr())
	path := newPrefix(server.Bucket(t))
	s := mustOpen(t, at(proxy.Addr(), path, "timeout=500ms&max-retries=0"))
	proxy.Stall()
	if err := s.Apply(t.Context(), sinktest.Batch(order(t, 1))); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("the error is %v", err)
	}
	proxy.Repair()
	var err error
	for range 5 {
		if err = s.Apply(t.Context(), sinktest.Batch(order(t, 1))); err == nil {
			return
		}
	}
	t.Errorf("it does not recover: %v", err)
}

func TestObjectSink_BoundsConcurrentUploads(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	s := mustOpen(t, at(f.addr(), newPrefix(server.Bucket(t)), "uploadTasks=3"))
	var mu sync.Mutex
	running, most := 0, 0
	full := make(chan struct{})
	f.set(func(http.ResponseWriter, *http.Request) bool {
		mu.Lock()
		running++
		if most = max(most, running); running == 3 && most == 3 {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		<-full // wait until three requests have arrived
		mu.Lock()
		running--
		mu.Unlock()
		return false
	})
	var events []*cdc.Event
	for n := range 30 {
		events = append(events, order(t, n+1))
	}
	mustApply(t, s, events...)
	if most != 3 {
		t.Errorf("%d uploads ran at once, want 3", most)
	}
	if got := s.(sink.Pacer).Limits(); got != limits {
		t.Errorf("limits are %+v", got)
	}
}

func TestClose_InterruptsABatch(t *testing.T) {
	server := peers.S3(t)
	proxy := sinktest.NewProxy(t, server.Addr())
	s := mustOpen(t, at(proxy.Addr(), newPrefix(server.Bucket(t)), ""))
	proxy.Stall()
	failed := make(chan error, 1)
	go func() { failed <- s.Apply(t.Context(), sinktest.Batch(order(t, 1))) }()
	// Close may run before or after the batch has started.
	closeSink(t, s)
	if err := <-failed; err == nil || fault.Of(err) != fault.Transient || !errors.Is(err, context.Canceled) && !errors.Is(err, errClosed) {
		t.Errorf("the batch ends with %v", err)
	}
	proxy.Repair()
}

// TestPut_SendsTheObjectOptions checks the headers of a request that puts an object.
func TestPut_SendsTheObjectOptions(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	options := "sse=aws:kms&kms-key=arn:aws:kms:x&storage-class=STANDARD_IA&acl=bucket-owner-full-control"
	var mu sync.Mutex
	seen := make(map[string]string)
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{
			"X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", "X-Amz-Storage-Class",
			"X-Amz-Acl", "Content-Type",
		} {
			seen[r.Method+" "+name] = r.Header.Get(name)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.Method {
		case http.MethodPost:
			fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>`)
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		}
		return true
	})
	s := mustOpen(t, at(f.addr(), newPrefix(server.Bucket(t)), options))
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	mustApply(t, s, order(t, 1))
	for _, method := range []string{http.MethodPost, http.MethodPut} {
		for name, want := range map[string]string{
			"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "arn:aws:kms:x",
			"X-Amz-Storage-Class": "STANDARD_IA",
			"X-Amz-Acl":           "bucket-owner-full-control", "Content-Type": "application/json",
		} {
			if got := seen[method+" "+name]; got != want {
				t.Errorf("%s %s is %q, want %q", method, name, got, want)
			}
		}
	}
}

// TestPut_SendsChecksums sends checksums in a trailer, which the server verifies.
func TestPut_SendsChecksums(t *testing.T) {
	raw := newTarget(t, "checksums=when-supported")
	mustApply(t, mustOpen(t, raw), order(t, 1))
	if got := stored(t, raw); len(got) != 1 || got["order/1700000000-k1-ev1.json"] != string(order(t, 1).Payload)+"\n" {
		t.Errorf("there are %v", got)
	}
}
