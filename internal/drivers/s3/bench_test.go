package s3

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/encode"
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

// BenchmarkApply uploads an object an event, and beside it the same objects, made
// beforehand, with the SDK alone.
func BenchmarkApply(b *testing.B) {
	server := testpeers.S3(b)
	const rows, tasks = 1000, 64
	var events []*cdc.Event
	for n := range rows {
		events = append(events, wideEvent(b, n+1, 20))
	}
	b.Run("eds", func(b *testing.B) {
		s := mustOpen(b, at(server.Addr(), newPrefix(server.Bucket(b)), fmt.Sprintf("uploadTasks=%d", tasks)))
		for b.Loop() {
			mustApply(b, s, events...)
		}
		b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "events/s")
	})
	b.Run("bare", func(b *testing.B) {
		client, transport := bare(server.Addr(), tasks)
		defer transport.CloseIdleConnections()
		bucket, prefix, _ := strings.Cut(newPrefix(server.Bucket(b)), "/")
		names, texts := make([]string, rows), make([][]byte, rows)
		for i, e := range events {
			names[i] = prefix + "/" + encode.ObjectName(e)
			texts[i], _ = encode.AppendEvent(nil, e)
		}
		for b.Loop() {
			var group errgroup.Group
			group.SetLimit(tasks)
			for i := range names {
				group.Go(func() error {
					_, err := client.PutObject(b.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &names[i], Body: bytes.NewReader(texts[i])})
					return err
				})
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "events/s")
	})
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
