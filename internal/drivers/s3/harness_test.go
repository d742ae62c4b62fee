package s3

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/laketest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// TestMain hides the machine's AWS SDK settings from the tests.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			os.Unsetenv(name)
		}
	}
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "",
	} {
		os.Setenv(name, value)
	}
	sinktest.Main(m)
}

// at returns the URL of a bucket and prefix on the server at addr, with the keys of the privileged
// account.
func at(addr, path, query string) string {
	keys := url.Values{"access-key-id": {peers.S3Key}, "secret-access-key": {peers.S3Secret}}
	raw := "s3://" + addr + "/" + path + "?" + keys.Encode()
	if query != "" {
		raw += "&" + query
	}
	return raw
}

func parsed(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func tryOpen(t testing.TB, raw string) (sink.Sink, error) {
	t.Helper()
	return Driver().Open(t.Context(), parsed(t, raw), sink.Env{})
}

func mustOpen(t testing.TB, raw string) sink.Sink {
	t.Helper()
	return openAs(t, raw, sink.Env{})
}

func closeSink(t testing.TB, s sink.Sink) {
	t.Helper()
	if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// event returns the nth event of the stream.
func event(t testing.TB, n int, payload string) *cdc.Event {
	t.Helper()
	e := &cdc.Event{Position: cdc.Position{Sequence: uint64(n), Stored: 1_700_000_000_000_000_000 + int64(n)}}
	if err := cdc.NewDecoder().Decode(e, []byte(payload), ""); err != nil {
		t.Fatal(err)
	}
	return e
}

// order returns the nth event of the stream, an UPDATE of one of three orders.
func order(t testing.TB, n int) *cdc.Event {
	t.Helper()
	return event(t, n, fmt.Sprintf(`{"operation":"UPDATE","id":"ev%d","table":"order","key":["k%d"],"companyId":"c",`+
		`"after":{"id":"k%[2]d","total":%[1]d},"timestamp":1700000000000,"mvccTimestamp":"%[3]d"}`, n, n%3, 1_700_000_000_000_000_000+n))
}

func mustApply(t testing.TB, s sink.Sink, events ...*cdc.Event) {
	t.Helper()
	if err := s.Apply(t.Context(), sinktest.Batch(events...)); err != nil {
		t.Fatal(err)
	}
}

// bucketOf returns the bucket and prefix of a URL.
func bucketOf(t testing.TB, raw string) (bucket, prefix string) {
	t.Helper()
	c, err := parse(parsed(t, raw))
	if err != nil {
		t.Fatal(err)
	}
	return c.bucket, c.prefix
}

// history reads the events of a destination from the server's disk, in the order of their clocks.
func history(t testing.TB, raw string) []sinktest.Stored {
	t.Helper()
	bucket, prefix := bucketOf(t, raw)
	var all []sinktest.Stored
	objects := peers.S3(t).Objects(t, bucket, prefix)
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		if strings.HasSuffix(name, ".json") {
			all = append(all, sinktest.Stored{Place: name, Event: objects[name]})
			continue
		}
		for i, event := range laketest.Events(t, name, objects[name]) {
			all = append(all, sinktest.Stored{Place: fmt.Sprintf("%s:%d", name, i), Event: event})
		}
	}
	slices.SortStableFunc(all, func(a, b sinktest.Stored) int { return clockOf(t, a).Compare(clockOf(t, b)) })
	return all
}

func clockOf(t testing.TB, s sinktest.Stored) cdc.Timestamp {
	t.Helper()
	var e cdc.Event
	if err := cdc.NewDecoder().Decode(&e, s.Event, ""); err != nil {
		t.Fatalf("%s: %v", s.Place, err)
	}
	return e.Clock
}

var prefixes atomic.Int64

// newPrefix returns the bucket's name and a prefix that is not in use yet.
func newPrefix(bucket string) string { return fmt.Sprintf("%s/in/%d", bucket, prefixes.Add(1)) }

// rowsOf yields rows of a snapshot with the given ids.
func rowsOf(t testing.TB, table *schema.Table, ids ...string) iter.Seq2[*change.Row, error] {
	splitter := change.NewSplitter(table)
	return func(yield func(*change.Row, error) bool) {
		for _, id := range ids {
			image := fmt.Appendf(nil, `{"id":%q}`, id)
			spans, err := splitter.Split(image)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(&change.Row{Image: image, Spans: spans, Op: cdc.Insert, Clock: cdc.Timestamp{Wall: 1_700_000_000_000_000_000}}, nil) {
				return
			}
		}
	}
}
