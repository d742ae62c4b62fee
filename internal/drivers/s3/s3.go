// Package s3 is the destination that writes changes as objects to Amazon S3 and
// what speaks its protocol: Google Cloud Storage, MinIO, Cloudflare R2, Ceph.
package s3

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "s3", Title: "Amazon S3 and compatible stores", Schemes: []string{"s3"},
		Example:  "s3://bucket/prefix?region=us-east-1",
		Summary:  "Every change as an object in a bucket of S3, Google Cloud Storage, MinIO or R2, or batches of them as NDJSON or Parquet.",
		Help:     help,
		Options:  options,
		Fields:   fields,
		Limits:   limits,
		URL:      urlOf,
		Identity: identity,
		Open:     open,
	}
}

var limits = sink.Limits{Rows: 5000, Bytes: 16 << 20}

const help = `The URL names a bucket and a prefix, or a store, a bucket and a prefix:

    s3://bucket/prefix?region=eu-west-1
    s3://storage.googleapis.com/bucket/prefix
    s3://minio.example.com:9000/bucket/prefix

A host is a store's where it has a port, is an address, or is one of a known
provider; else it is a bucket, at AWS or at endpoint=. Stores on this machine are
reached by http://, others by https:// unless tls=false.

Keys are access-key-id= and secret-access-key=, and session-token= where they are
temporary: best as ${AWS_SECRET_ACCESS_KEY} and the like. Without them the AWS
SDK's own chain finds them: the environment, profiles, SSO, web identities (IRSA),
containers' and instances' roles. profile= names a profile, role-arn= a role to
assume. Google Cloud Storage wants HMAC keys.

eds needs s3:PutObject on the prefix, and kms:GenerateDataKey on the key of
sse=aws:kms. It reads, lists and deletes nothing. At start it asks to complete an
upload that does not exist, which shows that it may write and changes nothing. An
import, eds doctor and a test that HQ asks for begin a multipart upload and abort
it, which leaves nothing behind (aborting is allowed to whoever began one, unless a
policy forbids it).

Each change is an object of its own,
<prefix>/<table>/<unix seconds>-<key>-<change id>.json. A change that is delivered
again has the same name and replaces itself. path= gives objects other names
below the prefix, by a Go template over the change, as
path={{.table}}/{{.mvccTimestamp}}_{{.id}}.json (write %7B and %7D for the braces
where a URL has to be clean). Of changes for which it makes one name the last one
stays.

A batch is acknowledged once the store has confirmed every object of it. Objects
are uploaded uploadTasks= at a time, in no order: each name tells its change. A
store that is away, slow or throttling is waited for.

With format=ndjson or format=parquet an object holds many changes: those of a
batch, of one table, in <prefix>/<table>/dt=YYYY-MM-DD/ (layout= changes that),
named <nanoseconds>-<first sequence>-<last sequence>-<consumer> by the places in
the stream that it holds. A batch is as large as roll-rows, roll-bytes and
roll-age let it become; it is spooled on the local disk, uploaded whole, and then
acknowledged. One that was interrupted is cut as it was when it comes again, so
that its objects replace themselves. Parquet has columns of the types of the table's schema (timestamps
in microseconds of UTC, 64-bit integers, JSON as annotated text) beside
_eds_operation, _eds_id, _eds_clock, _eds_sequence, _eds_time, _eds_key and others
that say what the change is. What a type can not hold without loss is kept as JSON
in _eds_rest, the rule "kept-as-json".

Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". An import adds
an object for each row, an INSERT with "imported": true. What is there stays.`

// batching is what becomes of batches where the URL says no more than format=.
var batching = lake.Default{Compression: lake.Zstd, Layout: "{table}/dt=YYYY-MM-DD/", RollRows: 100_000, RollBytes: 64 << 20, RollAge: time.Minute}

var options = append([]sink.Option{
	{Name: "region", Description: "the bucket's region; left out, that of the environment or profile, else it is found out"},
	{Name: "access-key-id", Description: "the access key; left out, the AWS SDK's own chain finds credentials"},
	{Name: "secret-access-key", Description: "the secret key, as ${AWS_SECRET_ACCESS_KEY}"},
	{Name: "session-token", Description: "the session token of temporary keys"},
	{Name: "profile", Description: "the profile of the AWS configuration files to use"},
	{Name: "role-arn", Description: "a role to assume with the credentials found"},
	{Name: "external-id", Description: "the external id that the role asks for"},
	{Name: "endpoint", Description: "URL of the store, where the URL's host is the bucket, as https://minio.example.com:9000"},
	{Name: "tls", Default: "true, but on this machine", Description: "false reaches the URL's host by http://"},
	{Name: "path-style", Default: "true, but at AWS", Description: "true puts the bucket into the path of requests, false into the host's name"},
	{Name: "checksums", Default: "when-supported at AWS, else when-required", Description: "whether objects are sent with a CRC32 beside their signed SHA-256"},
	{Name: "sse", Description: "server-side encryption: AES256, aws:kms or aws:kms:dsse"},
	{Name: "kms-key", Description: "id or ARN of the KMS key, with sse=aws:kms"},
	{Name: "storage-class", Description: "of objects, as STANDARD_IA or INTELLIGENT_TIERING"},
	{Name: "acl", Description: "a canned ACL of objects, as bucket-owner-full-control"},
	{Name: "path", Description: "a Go template of the object's name, as {{.table}}/{{.id}}.json"},
	{Name: "uploadTasks", Default: "64", Description: "uploads at a time"},
	{Name: "maxBatchSize", Default: "5000", Description: "changes a batch at most"},
	{Name: "max-retries", Default: "2", Description: "how often an upload is tried again before eds reports it; it goes on all the same"},
	{Name: "timeout", Default: "1m", Description: "how long the store may leave a request unanswered"},
}, lake.Options(batching, "upload what there is after")...)

var fields = []sink.Field{
	{Name: "Bucket", Type: "string", Description: "name of the bucket", Required: true},
	{Name: "Prefix", Type: "string", Description: "what names of objects begin with"},
	{Name: "Region", Type: "string", Description: "region of the bucket, as us-east-1"},
	{Name: "Access Key ID", Type: "string", Description: "access key; left out, the AWS SDK's own chain finds credentials"},
	{Name: "Secret Access Key", Type: "string", Format: "password", Description: "secret key"},
	{Name: "Endpoint", Type: "string", Description: "address of the store where it is not AWS, as storage.googleapis.com"},
}

// urlOf makes a URL of the values of the driver's fields.
func urlOf(values map[string]string) (string, []sink.FieldError) {
	var wrong []sink.FieldError
	refuse := func(field, why string) { wrong = append(wrong, sink.FieldError{Field: field, Error: why}) }
	value := func(name string) string { return strings.TrimSpace(values[name]) }
	u := url.URL{Scheme: "s3"}
	query := make(url.Values)
	switch bucket := value("Bucket"); {
	case bucket == "":
		refuse("Bucket", "name a bucket")
	case !validBucket(bucket):
		refuse("Bucket", "a bucket's name has 3 to 222 letters, digits, dots, dashes and underscores")
	default:
		u.Host = bucket
	}
	prefix, err := cleanPrefix(value("Prefix"))
	if err != nil {
		refuse("Prefix", err.Error())
	} else if prefix != "" {
		u.Path = "/" + prefix
	}
	if endpoint := value("Endpoint"); endpoint != "" {
		full, err := endpointURL(endpoint, nil)
		switch {
		case err != nil:
			refuse("Endpoint", "it should be a host like storage.googleapis.com, or a URL like https://minio.example.com:9000")
		default:
			query.Set("endpoint", full)
		}
	} else if u.Host != "" && isStore(u.Host) {
		refuse("Bucket", "that is the address of a store; name it in Endpoint")
	}
	if region := value("Region"); region != "" {
		if !regionName.MatchString(region) {
			refuse("Region", "it should read like us-east-1")
		}
		query.Set("region", region)
	}
	id, secret := value("Access Key ID"), value("Secret Access Key")
	switch {
	case id == "" && secret != "":
		refuse("Access Key ID", "name it too, or leave the secret access key out")
	case id != "" && secret == "":
		refuse("Secret Access Key", "name it too, or leave the access key id out")
	case id != "":
		query.Set("access-key-id", id)
		query.Set("secret-access-key", secret)
	}
	if wrong != nil {
		return "", wrong
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// open connects, and makes sure that the store takes the keys. It changes nothing.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	if err := sink.CheckOptions(target, options); err != nil {
		return nil, err
	}
	env = env.Complete()
	c, err := parse(target)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	c.renew = func() (choices, error) { return sink.Renew(env.Access, target, parse) }
	s, err := connect(ctx, c, env)
	if moved := new(regionError); errors.As(err, &moved) && c.region == "" && moved.region != "" {
		c.region = moved.region
		env.Logger.Info("the bucket is in another region than the one that was asked first", "region", c.region)
		s, err = connect(ctx, c, env)
	}
	return s, env.Access.Judge(err)
}

func connect(ctx context.Context, c choices, env sink.Env) (sink.Sink, error) {
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
