// Package s3 is the destination that writes changes as objects to Amazon S3, or to a store that
// speaks the S3 protocol: Google Cloud Storage, MinIO, Cloudflare R2, Ceph.
package s3

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "s3", Title: "Amazon S3 and compatible stores", Schemes: []string{"s3"},
		Example:  "s3://bucket/prefix?region=us-east-1",
		Summary:  "Writes every change as an object to S3, Google Cloud Storage, MinIO or R2, or batches of changes as NDJSON or Parquet.",
		Help:     help,
		Options:  options,
		Fields:   fields,
		Limits:   limits,
		URL:      buildURL,
		Identity: identity,
		Open:     open,
	}
}

var limits = sink.Limits{Rows: 5000, Bytes: 16 << 20}

const help = `The URL names a bucket and a prefix, or a store, a bucket and a prefix:

    s3://bucket/prefix?region=eu-west-1
    s3://storage.googleapis.com/bucket/prefix
    s3://minio.example.com:9000/bucket/prefix

A host is a store if it has a port, is an address, or belongs to a known provider;
else it is a bucket, at AWS or at endpoint=. eds reaches stores on this machine by
http://, others by https:// unless tls=false.

Keys are access-key-id= and secret-access-key=, and session-token= if they are
temporary: best as ${AWS_SECRET_ACCESS_KEY} and the like. Without them the AWS
SDK's own chain finds them: the environment, profiles, SSO, web identities (IRSA),
containers' and instances' roles. profile= names a profile, role-arn= a role to
assume. Google Cloud Storage wants HMAC keys.

eds needs s3:PutObject on the prefix, and kms:GenerateDataKey on the key of
sse=aws:kms. It reads, lists and deletes nothing. At start it asks to complete an
upload that does not exist, which shows that it may write and changes nothing. An
import, eds doctor and a test from HQ begin a multipart upload and abort it, which
leaves nothing behind. Every client may abort an upload that it began, unless a
policy forbids it.

Each change is an object of its own,
<prefix>/<table>/<unix seconds>-<key>-<change id>.json. A change that is delivered
again has the same name and replaces itself. path= gives objects other names
below the prefix, by a Go template over the change, such as
path={{.table}}/{{.mvccTimestamp}}_{{.id}}.json (write %7B and %7D for the braces
if a program checks the URL). If changes have the same name, the last one stays.

A batch is acknowledged once the store has confirmed every object of it. eds uploads
uploadTasks= objects at a time, in no order: the name identifies the change. If a
store is down, slow or throttling, eds waits and retries.

With format=ndjson or format=parquet an object holds the changes of one table in one
batch, in <prefix>/<table>/dt=YYYY-MM-DD/ (layout= changes that). Its name is
<nanoseconds>-<first sequence>-<last sequence>-<consumer>, the positions of its
changes in the stream. roll-rows, roll-bytes and roll-age bound a batch; eds spools
it on the local disk, uploads it whole, and then acknowledges it. A batch that was
interrupted has the same changes when it comes again, so its objects replace
themselves. Parquet has columns of the types of the table's schema (timestamps
in microseconds of UTC, 64-bit integers, JSON as annotated text) beside
_eds_operation, _eds_id, _eds_clock, _eds_sequence, _eds_time, _eds_key and others
that describe the change. A value that a type cannot hold without loss is kept as
JSON in _eds_rest, the rule "kept-as-json".

Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". An import adds
an object for each row, an INSERT with "imported": true. Existing objects stay.`

// batching holds the defaults of both batch formats, NDJSON and Parquet.
var batching = lake.Default{
	Compression: lake.Zstd, Layout: "{table}/dt=YYYY-MM-DD/", RollRows: 100_000, RollBytes: 64 << 20, RollAge: time.Minute,
}

var options = append([]sink.Option{
	{
		Name: "region", Harmless: true,
		Help: "the bucket's region; by default the one in the environment or profile, or else eds asks the store",
	},
	{Name: "access-key-id", Type: sink.SecretText{}, Help: "the access key; by default the AWS SDK's own chain finds credentials"},
	{Name: "secret-access-key", Type: sink.SecretText{}, Help: "the secret key, as `${AWS_SECRET_ACCESS_KEY}`"},
	{Name: "session-token", Type: sink.SecretText{}, Help: "the session token of temporary keys"},
	{Name: "profile", Harmless: true, Help: "the profile of the AWS configuration files"},
	{Name: "role-arn", Harmless: true, Help: "a role to assume with the credentials found"},
	{Name: "external-id", Help: "the external id that the role requires"},
	{
		Name: "endpoint", Harmless: true,
		Help: "URL of the store, if the URL's host is the bucket: `https://minio.example.com:9000`",
	},
	{
		Name: "tls", Type: sink.Bool{}, DefaultNote: "`true`, except on this machine",
		Help: "`false` reaches the URL's host by `http://`",
	},
	{
		Name: "path-style", Type: sink.Bool{}, DefaultNote: "`true`, except at AWS",
		Help: "`true` puts the bucket into the path of requests, `false` into the host's name",
	},
	{
		Name: "checksums", Type: sink.OneOf("when-required", "when-supported"),
		DefaultNote: "`when-supported` at AWS, else `when-required`",
		Help:        "whether objects are sent with a CRC32 beside their signed SHA-256, which some stores refuse",
	},
	{
		Name: "sse", Type: sink.OneOf("AES256", "aws:kms", "aws:kms:dsse"),
		Help: "server-side encryption: `AES256`, `aws:kms` or `aws:kms:dsse`",
	},
	{Name: "kms-key", Help: "id or ARN of the KMS key, with `sse=aws:kms`"},
	{Name: "storage-class", Harmless: true, Help: "storage class of objects, such as `STANDARD_IA` or `INTELLIGENT_TIERING`"},
	{
		Name: "acl", Type: sink.OneOf(texts(types.ObjectCannedACL("").Values())...),
		Help: "a canned ACL of objects, such as `bucket-owner-full-control`",
	},
	{
		Name: "path", Harmless: true,
		Help: "a Go template of the object's name below the prefix, over the change, such as `{{.table}}/{{.mvccTimestamp}}_{{.id}}.json`",
	},
	{Name: "uploadTasks", Type: sink.Int{Min: 1, Max: 1000}, Default: "64", Help: "uploads at a time"},
	{
		Name: "maxBatchSize", Type: sink.Int{Min: 1, Max: 100_000}, Default: "5000",
		Help: "with `format=json`, maximum number of changes in a batch",
	},
	{
		Name: "max-retries", Type: sink.Int{Max: 100}, Default: "2",
		Help: "how often the client retries a request before eds reports it; eds continues to retry",
	},
	{
		Name: "timeout", Type: sink.Duration{Min: 100 * time.Millisecond, Max: time.Hour}, Default: "1m",
		Help: "how long the store may leave a request unanswered; an upload has one second more for each 64 KiB",
	},
}, lake.Options(batching, batching, "upload after")...)

var fields = []sink.Field{
	{Name: "Bucket", Type: "string", Description: "name of the bucket", Required: true},
	{Name: "Prefix", Type: "string", Description: "prefix of the names of objects"},
	{Name: "Region", Type: "string", Description: "region of the bucket, such as us-east-1", Option: "region"},
	{
		Name: "Access Key ID", Type: "string", Option: "access-key-id",
		Description: "access key; left out, the AWS SDK's own chain finds credentials",
	},
	{Name: "Secret Access Key", Type: "string", Format: "password", Description: "secret key", Option: "secret-access-key"},
	{
		Name: "Endpoint", Type: "string", Option: "endpoint",
		Description: "address of the store if it is not AWS, such as storage.googleapis.com",
	},
}

// buildURL builds a destination URL from the values of the driver's fields.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	f := sink.NewForm(fields, values)
	u := url.URL{Scheme: "s3"}
	query := f.Query()
	if bucket := f.Get("Bucket"); validBucket(bucket) {
		u.Host = bucket
	} else if bucket != "" {
		f.Refuse("Bucket", "a bucket's name has 3 to 222 letters, digits, dots, dashes and underscores")
	}
	prefix, err := cleanPrefix(f.Get("Prefix"))
	if err != nil {
		f.Refuse("Prefix", err.Error())
	} else if prefix != "" {
		u.Path = "/" + prefix
	}
	if endpoint := f.Get("Endpoint"); endpoint != "" {
		full, err := endpointURL(endpoint, nil)
		if err != nil {
			f.Refuse("Endpoint", "it should be a host like storage.googleapis.com, or a URL like https://minio.example.com:9000")
		}
		query.Set("endpoint", full)
	} else if u.Host != "" && isStore(u.Host) {
		f.Refuse("Bucket", "that is the address of a store; name it in Endpoint")
	}
	if region := f.Get("Region"); region != "" && !regionName.MatchString(region) {
		f.Refuse("Region", "it should read like us-east-1")
	}
	switch id, secret := f.Get("Access Key ID"), f.Get("Secret Access Key"); {
	case id == "" && secret != "":
		f.Refuse("Access Key ID", "name it too, or leave the secret access key out")
	case id != "" && secret == "":
		f.Refuse("Secret Access Key", "name it too, or leave the access key id out")
	}
	if f.Wrong != nil {
		return "", f.Wrong
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// open connects to the store, and checks that the store accepts the credentials and lets eds write.
// It changes nothing in the bucket. If the URL names no region and the bucket is in a different
// region than assumed, open tries again in that region.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	c, err := parse(target)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	c.renew = func() (config, error) { return sink.Renew(env.Access, target, parse) }
	s, err := connect(ctx, c, env)
	if moved := new(regionError); errors.As(err, &moved) && c.region == "" && moved.region != "" {
		c.region = moved.region
		env.Logger.Info("the bucket is in another region than the first request assumed", "region", c.region)
		s, err = connect(ctx, c, env)
	}
	return s, env.Access.Outcome(err)
}

func connect(ctx context.Context, c config, env sink.Env) (sink.Sink, error) {
	store, err := newBucketStore(ctx, c, env.Access)
	if err != nil {
		return nil, err
	}
	if err := store.checkWritable(ctx); err != nil {
		store.close()
		return nil, err
	}
	if c.files.Format != "" {
		return newBatchSink(c, env, store), nil
	}
	return newObjectSink(c, env, store), nil
}
