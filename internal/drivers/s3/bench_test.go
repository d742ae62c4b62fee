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
	"github.com/parquet-go/parquet-go"
	parquetzstd "github.com/parquet-go/parquet-go/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/cdc"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// BenchmarkApply measures the sink and the SDK alone, in alternation. The SDK uploads the same
// content. For NDJSON its time includes compression, and for Parquet the time of parquet-go's
// writer, with rows that are built in advance.
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
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		var object bytes.Buffer
		benchmark(b, "format=ndjson", 12_500, func(events []*cdc.Event) [][]byte {
			object.Reset()
			w.Reset(&object)
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
	b.Run("parquet", func(b *testing.B) {
		var file *parquet.Schema
		var rows []parquet.Row
		var object bytes.Buffer
		benchmark(b, "format=parquet", 12_500, func(events []*cdc.Event) [][]byte {
			if rows == nil {
				file, rows = parquetRows(b, events)
			}
			object.Reset()
			w := parquet.NewGenericWriter[any](&object, file, parquet.Compression(fastest), parquet.DataPageStatistics(true))
			if _, err := w.WriteRows(rows); err != nil {
				b.Fatal(err)
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
			return [][]byte{object.Bytes()}
		})
	})
}

// benchmark measures the sink and, in alternation, uploads of the objects that the function objects
// returns.
func benchmark(b *testing.B, query string, rows int, objects func(events []*cdc.Event) [][]byte) {
	server := peers.S3(b)
	const tasks = 64
	events := sinktest.WideEvents(b, rows, rows, 20)
	apply := sinktest.Batch(events...)
	raw := at(server.Addr(), newPrefix(server.Bucket(b)), fmt.Sprintf("uploadTasks=%d&%s", tasks, query))
	s := openAs(b, raw, sink.Env{Adjusted: func(string, string, string) {}, Tables: wideTable})
	client, transport := bare(server.Addr(), tasks)
	defer transport.CloseIdleConnections()
	bucket, prefix, _ := strings.Cut(newPrefix(server.Bucket(b)), "/")
	_ = objects(events) // warms up, and builds everything that is not measured
	var ours, theirs time.Duration
	for b.Loop() {
		began := time.Now()
		if err := s.Apply(b.Context(), apply); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(began)
		began = time.Now()
		putBare(b, client, bucket, prefix, objects(events), tasks)
		theirs += time.Since(began)
	}
	all := float64(rows * b.N)
	b.ReportMetric(all/ours.Seconds(), "events/s")
	b.ReportMetric(all/theirs.Seconds(), "bare-events/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
}

func wideTable(_ context.Context, table, version string) (*schema.Table, error) {
	columns := []schema.Column{{Name: "id", Type: schema.String}}
	for c := range 20 {
		columns = append(columns, schema.Column{Name: fmt.Sprintf("column%02d", c), Type: schema.String})
	}
	return schema.New(table, version, []string{"id"}, columns)
}

// parquetRows returns the rows and the schema of a Parquet file with the events.
func parquetRows(b *testing.B, events []*cdc.Event) (*parquet.Schema, []parquet.Row) {
	table, err := wideTable(b.Context(), events[0].Table, events[0].ModelVersion)
	if err != nil {
		b.Fatal(err)
	}
	var content bytes.Buffer
	encoder := lake.NewEncoder(lake.Settings{Format: lake.Parquet, Compression: lake.Zstd}, func(string, string, string) {})
	if err := encoder.Write(&content, &lake.Part{Table: table.Name, Schema: table, Events: events}); err != nil {
		b.Fatal(err)
	}
	f, err := parquet.OpenFile(bytes.NewReader(content.Bytes()), int64(content.Len()))
	if err != nil {
		b.Fatal(err)
	}
	rows := make([]parquet.Row, len(events))
	reader := parquet.NewReader(f)
	for n := 0; n < len(rows); {
		read, err := reader.ReadRows(rows[n:])
		for i := range rows[n:][:read] { // the reader reuses the memory of rows
			rows[n+i] = rows[n+i].Clone()
		}
		if n += read; err != nil && n < len(rows) {
			b.Fatal(err)
		}
	}
	// The columns of the file's own schema have the compressor's default level.
	group := make(parquet.Group)
	for _, column := range f.Schema().Fields() {
		group[column.Name()] = parquet.Compressed(column, fastest)
	}
	return parquet.NewSchema(table.Name, group), rows
}

var fastest = &parquetzstd.Codec{Level: parquetzstd.SpeedFastest}

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

// bare returns a client of the SDK whose transport keeps as many connections as there are tasks.
func bare(addr string, tasks int) (*s3.Client, *http.Transport) {
	transport := awshttp.NewBuildableClient().GetTransport()
	transport.MaxIdleConnsPerHost = tasks
	return s3.New(s3.Options{
		BaseEndpoint: aws.String("http://" + addr), Region: "us-east-1", UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials:                credentials.NewStaticCredentialsProvider(peers.S3Key, peers.S3Secret, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
	}), transport
}
