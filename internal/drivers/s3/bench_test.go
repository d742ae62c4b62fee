package s3

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

// wideEvent makes an event of the given number of columns, about 70 bytes each.
func wideEvent(t testing.TB, n, columns int) *cdc.Event {
	t.Helper()
	var row strings.Builder
	for c := range columns {
		fmt.Fprintf(&row, `,"column%02d":"a value of this column, %08d %s"`, c, n*7919+c, "0123456789abcdef")
	}
	return event(t, n, fmt.Sprintf(`{"operation":"UPDATE","id":"%024d","table":"order","key":["%036d"],"companyId":"c","after":{"id":"%036d"%s},"timestamp":1700000000000,"mvccTimestamp":"%d"}`, n, n, n, row.String(), 1_700_000_000_000_000_000+n))
}

// BenchmarkApply uploads batches, and in turn with each the same with the SDK, and
// for NDJSON the compressor, alone. Nobody else's way to Parquet compares.
func BenchmarkApply(b *testing.B) {
	b.Run("an event an object", func(b *testing.B) {
		benchmark(b, "format=json", 1000, func(events []*cdc.Event) [][]byte {
			var objects [][]byte
			for _, e := range events {
				objects = append(objects, e.Payload)
			}
			return objects
		})
	})
	b.Run("ndjson", func(b *testing.B) {
		benchmark(b, "format=ndjson", 12_500, func(events []*cdc.Event) [][]byte {
			var object bytes.Buffer
			w, err := zstd.NewWriter(&object, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
			if err != nil {
				b.Fatal(err)
			}
			for _, e := range events {
				_, _ = w.Write(e.Payload)
				_, _ = w.Write([]byte{'\n'})
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
			return [][]byte{object.Bytes()}
		})
	})
	b.Run("parquet", func(b *testing.B) { benchmark(b, "format=parquet", 12_500, nil) })
}

// benchmark measures eds, and beside it uploads of what make makes.
func benchmark(b *testing.B, query string, rows int, objects func(events []*cdc.Event) [][]byte) {
	server := testpeers.S3(b)
	const tasks = 64
	var events []*cdc.Event
	for n := range rows {
		events = append(events, wideEvent(b, n+1, 20))
	}
	apply := batch(events...)
	raw := at(server.Addr(), newPrefix(server.Bucket(b)), fmt.Sprintf("uploadTasks=%d&%s", tasks, query))
	env := sink.Env{Adjusted: func(string, string, string) {}, Tables: func(_ context.Context, table, version string) (*schema.Table, error) {
		columns := []schema.Column{{Name: "id", Type: schema.String}}
		for c := range 20 {
			columns = append(columns, schema.Column{Name: fmt.Sprintf("column%02d", c), Type: schema.String})
		}
		return schema.New(table, version, []string{"id"}, columns)
	}}
	s := openAs(b, raw, env)
	client, transport := bare(server.Addr(), tasks)
	defer transport.CloseIdleConnections()
	bucket, prefix, _ := strings.Cut(newPrefix(server.Bucket(b)), "/")
	var ours, theirs time.Duration
	for b.Loop() {
		began := time.Now()
		if err := s.Apply(b.Context(), apply); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(began)
		if objects != nil {
			began = time.Now()
			putBare(b, client, bucket, prefix, objects(events), tasks)
			theirs += time.Since(began)
		}
	}
	all := float64(rows * b.N)
	b.ReportMetric(all/ours.Seconds(), "events/s")
	if objects == nil {
		return
	}
	b.ReportMetric(all/theirs.Seconds(), "bare-events/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
}

func putBare(b *testing.B, client *s3.Client, bucket, prefix string, objects [][]byte, tasks int) {
	var group errgroup.Group
	group.SetLimit(tasks)
	for i, text := range objects {
		group.Go(func() error {
			key := fmt.Sprintf("%s/order/%d", prefix, i)
			_, err := client.PutObject(b.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(text)})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// bare is a client of the SDK, which needs its transport widened to keep that many
// connections.
func bare(addr string, tasks int) (*s3.Client, *http.Transport) {
	transport := awshttp.NewBuildableClient().GetTransport()
	transport.MaxIdleConnsPerHost = tasks
	return s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + addr), Region: "us-east-1", UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials:                credentials.NewStaticCredentialsProvider(testpeers.S3Key, testpeers.S3Secret, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
	}), transport
}
