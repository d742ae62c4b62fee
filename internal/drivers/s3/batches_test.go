package s3

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/laketest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// openAs opens a destination with the given environment.
func openAs(t testing.TB, raw string, env sink.Env) sink.Sink {
	t.Helper()
	s, err := sinktest.Open(t, Driver(), raw, env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var consumer = sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "*"}

func TestBatchSink_WritesAnObjectPerTableAndDay(t *testing.T) {
	raw := newTarget(t, "format=ndjson&compress=none")
	s := openAs(t, raw, consumer)
	later := event(t, 3, `{"operation":"DELETE","id":"ev3","table":"order","key":["k1"],"timestamp":1700086400000,"mvccTimestamp":"3"}`)
	other := event(t, 4, `{"operation":"DELETE","id":"ev4","table":"a/b","key":["k1"],"timestamp":1700086400000,"mvccTimestamp":"4"}`)
	mustApply(t, s, order(t, 1), order(t, 2), later, other)
	id := lake.ID(consumer)
	want := map[string]string{
		"order/dt=2023-11-14/1700000000000000001-00000000000000000001-00000000000000000002-" + id + ".ndjson": string(order(t, 1).Payload) +
			"\n" + string(order(t, 2).Payload) + "\n",
		"order/dt=2023-11-15/1700000000000000003-00000000000000000003-00000000000000000003-" + id + ".ndjson": string(later.Payload) + "\n",
		"a%2Fb/dt=2023-11-15/1700000000000000004-00000000000000000004-00000000000000000004-" + id + ".ndjson": string(other.Payload) + "\n",
	}
	if diff := cmp.Diff(want, stored(t, raw)); diff != "" {
		t.Error(diff)
	}
	mustApply(t, s, order(t, 1), order(t, 2), later, other)
	if diff := cmp.Diff(want, stored(t, raw)); diff != "" {
		t.Errorf("after a replay: %s", diff)
	}
}

func TestBatchSink_ParquetHasTheTablesTypes(t *testing.T) {
	raw := newTarget(t, "format=parquet&layout="+url.QueryEscape("{table}"))
	env := consumer
	env.Tables = func(_ context.Context, table, version string) (*schema.Table, error) {
		return schema.New(table, version, []string{"id"}, []schema.Column{
			{Name: "id", Type: schema.String},
			{Name: "total", Type: schema.Integer},
		})
	}
	mustApply(t, openAs(t, raw, env), order(t, 1), order(t, 2))
	bucket, prefix := bucketOf(t, raw)
	for name, content := range peers.S3(t).Objects(t, bucket, prefix) {
		table, rows := laketest.Rows(t, content)
		if table != "order" || len(rows) != 2 || rows[1]["total"] != "2" || rows[1]["_eds_sequence"] != "2" || rows[1]["_eds_rest"] != "" {
			t.Errorf("%s holds %s %v", name, table, rows)
		}
	}
}

func TestBatchSink_LimitsComeFromTheURL(t *testing.T) {
	s := mustOpen(t, newTarget(t, "format=parquet&roll-rows=7&roll-bytes=1m&roll-age=5m"))
	if got, want := s.(sink.Pacer).Limits(), (sink.Limits{Rows: 7, Bytes: 1 << 20, Age: 5 * time.Minute, Stable: true}); got != want {
		t.Errorf("they are %+v, want %+v", got, want)
	}
	if _, err := tryOpen(t, newTarget(t, "format=ndjson&maxBatchSize=5")); fault.Of(err) != fault.Fatal ||
		!strings.Contains(fmt.Sprint(err), "roll-rows") {
		t.Errorf("maxBatchSize: %v", err)
	}
}

func TestBatchSink_RejectsALongName(t *testing.T) {
	s := mustOpen(t, newTarget(t, "format=ndjson&layout="+url.QueryEscape("{table}/"+strings.Repeat(strings.Repeat("p", 200)+"/", 5))))
	if err := s.Apply(t.Context(), sinktest.Batch(order(t, 1))); fault.Of(err) != fault.Poison {
		t.Errorf("the error is %v: %v", fault.Of(err), err)
	}
}

// noise returns n incompressible bytes.
func noise(n int) []byte {
	text := make([]byte, n)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(text) // never fails
	return text
}

// TestUpload_SendsLargeObjectsInParts uploads with and without checksums. An object must not exist
// before it is complete.
func TestUpload_SendsLargeObjectsInParts(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	content := noise(2*partSize + 1<<20)
	for _, query := range []string{"checksums=when-required", "checksums=when-supported"} {
		bucket := server.Bucket(t)
		open := func(addr string) *bucketStore {
			c, err := parse(parsed(t, at(addr, bucket, "max-retries=0&"+query)))
			if err != nil {
				t.Fatal(err)
			}
			s, err := newBucketStore(t.Context(), c, sink.Env{}.Complete().Access)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.close)
			return s
		}
		s := open(f.addr())
		var parts atomic.Int64
		f.set(func(_ http.ResponseWriter, r *http.Request) bool { // cut the connection of the second part
			if r.Method == http.MethodPut && parts.Add(1) == 2 {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}
			return false
		})
		err := s.upload(t.Context(), "large", "application/json", bytes.NewReader(content), int64(len(content)))
		if err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("%s: cut: %v", query, err)
		}
		// The server may still be processing the interrupted part.
		for deadline := time.After(20 * time.Second); len(server.Unfinished(t, bucket)) > 0; {
			select {
			case <-deadline:
				t.Fatalf("%s: cut, it leaves %v", query, server.Unfinished(t, bucket))
			case <-time.After(50 * time.Millisecond):
			}
		}
		if got := server.Objects(t, bucket, ""); len(got) != 0 {
			t.Errorf("%s: cut, there are %v", query, slices.Collect(maps.Keys(got)))
		}
		f.passAll()
		if err := s.upload(t.Context(), "large", "application/json", bytes.NewReader(content), int64(len(content))); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if got := server.Objects(t, bucket, "")["large"]; !bytes.Equal(got, content) {
			t.Errorf("%s: there are %d bytes, want %d", query, len(got), len(content))
		}
		if parts.Load() < 2 {
			t.Errorf("%s: it was uploaded in %d parts", query, parts.Load())
		}
	}
}

func TestLoad_RepeatedImportReplacesItsObjects(t *testing.T) {
	raw := newTarget(t, "format=ndjson&compress=gzip&roll-rows=2")
	s := openAs(t, raw, sink.Env{})
	table, err := schema.New("order", "1", []string{"id"}, []schema.Column{{Name: "id", Type: schema.String}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		load, err := s.BeginLoad(t.Context(), "job", table, sink.Replace, sink.Scope{})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := load.LoadFile(t.Context(), "file.gz", rowsOf(t, table, "a", "b", "c")); n != 3 || err != nil {
			t.Fatalf("%d rows, %v", n, err)
		}
		if _, err := load.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"order/dt=2023-11-14/import-job~file.gz~1-1.ndjson.gz", "order/dt=2023-11-14/import-job~file.gz~2-1.ndjson.gz"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(stored(t, raw)))); diff != "" {
		t.Error(diff)
	}
}
