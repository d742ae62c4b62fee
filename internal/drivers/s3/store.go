package s3

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/shopmonkeyus/eds/internal/drivers/awscredentials"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// store is a bucket of the store that the URL names. It is safe for concurrent
// use.
type store struct {
	config
	client    *s3.Client
	transport *http.Transport
	access    *sink.Access
	refused   bool // the client's credentials or authorities, by the last call
}

// settle ends a call that uploads, with its outcome.
func (s *store) settle(err error) error {
	s.refused = fault.Of(err) == fault.Refused
	return s.access.Judge(err)
}

// ready begins a call that uploads, with the keys that the URL names now. It replaces a
// client that was refused: its profile, its role or the authorities that it trusts may have
// changed. Calls that upload are serial.
func (s *store) ready(ctx context.Context) error {
	now, err := s.now()
	if err != nil {
		return err
	}
	s.keys = now.keys
	if !s.refused {
		return nil
	}
	s.close()
	return s.connect(ctx)
}

// newStore finds credentials and makes a client. It asks the store for nothing.
func newStore(ctx context.Context, c config, access *sink.Access) (*store, error) {
	s := &store{config: c, access: access}
	return s, s.connect(ctx)
}

// connect makes the client.
func (s *store) connect(ctx context.Context) error {
	c := &s.config
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cfg, err := configuration(ctx, c)
	if err != nil {
		return err
	}
	// What the environment says of trusted authorities is in the SDK's transport;
	// a copy of it is one whose connections can be closed.
	if built, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		s.transport = built.GetTransport()
	} else {
		s.transport = awshttp.NewBuildableClient().GetTransport()
	}
	s.transport.MaxIdleConns, s.transport.MaxIdleConnsPerHost = 0, c.tasks
	s.transport.ResponseHeaderTimeout = c.timeout
	client := &http.Client{Transport: s.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = client
		o.UsePathStyle = c.pathStyle
		if c.endpoint != "" {
			o.BaseEndpoint = aws.String(c.endpoint)
		}
		o.RequestChecksumCalculation, o.ResponseChecksumValidation = aws.RequestChecksumCalculationWhenRequired, aws.ResponseChecksumValidationWhenRequired
		if c.checksums {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
		}
	})
	return nil
}

// remedy is how a URL can have credentials.
const remedy = "add access-key-id= and secret-access-key= to the s3 url"

// configuration is what the SDK reads from the environment, the profiles and the
// URL. Requests are signed with the keys that c has when they are made.
func configuration(ctx context.Context, c *config) (aws.Config, error) {
	from := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient()),
		awsconfig.WithLogger(logging.Nop{}), // it would write to standard error
		awsconfig.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = c.retries + 1 })
		}),
	}
	if c.region != "" {
		from = append(from, awsconfig.WithRegion(c.region))
	}
	if c.keys.profile != "" {
		from = append(from, awsconfig.WithSharedConfigProfile(c.keys.profile))
	}
	given := aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		return credentials.NewStaticCredentialsProvider(c.keys.id, c.keys.secret, c.keys.token).Retrieve(ctx)
	})
	if c.keys.id != "" {
		from = append(from, awsconfig.WithCredentialsProvider(given))
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, from...)
	if err != nil {
		return cfg, awscredentials.Misconfigured(err)
	}
	if c.keys.id != "" {
		cfg.Credentials = given // not cached, as the SDK would
	}
	if c.region == "" && c.endpoint != "" && !c.aws {
		cfg.Region = "" // the environment's is one of AWS
	}
	cfg.Region = cmp.Or(cfg.Region, "us-east-1")
	if c.keys.role != "" {
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), c.keys.role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "eds"
			if c.keys.externalID != "" {
				o.ExternalID = aws.String(c.keys.externalID)
			}
		}))
	}
	if cfg.Credentials == nil {
		return cfg, awscredentials.None(remedy)
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return cfg, awscredentials.Explain(err, remedy)
	}
	return cfg, nil
}

// slowest is the rate that a connection has to reach, in bytes a second.
const slowest = 64 << 10

// within bounds how long a request that sends size bytes may take, with what
// the client itself tries again.
func (s *store) within(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	once := s.timeout + time.Duration(size/slowest)*time.Second
	return context.WithTimeout(ctx, time.Duration(s.retries+1)*once)
}

// put uploads one object.
func (s *store) put(ctx context.Context, key, contentType string, text []byte) error {
	return s.putFrom(ctx, key, contentType, bytes.NewReader(text), int64(len(text)))
}

func (s *store) putFrom(ctx context.Context, key, contentType string, body io.ReadSeeker, size int64) error {
	ctx, cancel := s.within(ctx, size)
	defer cancel()
	input := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key, Body: body, ContentLength: &size, ContentType: &contentType,
		ServerSideEncryption: s.encryption, StorageClass: s.storageClass, ACL: s.acl,
	}
	if s.kmsKey != "" {
		input.SSEKMSKeyId = &s.kmsKey
	}
	_, err := s.client.PutObject(ctx, input)
	return s.explain(err)
}

// begin begins a multipart upload.
func (s *store) begin(ctx context.Context, key, contentType string) (id string, err error) {
	ctx, cancel := s.within(ctx, 0)
	defer cancel()
	input := &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, ContentType: &contentType,
		ServerSideEncryption: s.encryption, StorageClass: s.storageClass, ACL: s.acl,
	}
	if s.kmsKey != "" {
		input.SSEKMSKeyId = &s.kmsKey
	}
	if s.checksums { // of its parts, which the SDK computes
		input.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	begun, err := s.client.CreateMultipartUpload(ctx, input)
	if err != nil {
		return "", s.explain(err)
	}
	if begun.UploadId == nil {
		return "", errors.New("the store names no upload that it began")
	}
	return *begun.UploadId, nil
}

// abort forgets a multipart upload. Where that fails what was uploaded stays,
// seen by nobody, until a rule of the bucket removes it.
func (s *store) abort(ctx context.Context, key, id string) error {
	ctx, cancel := s.within(ctx, 0)
	defer cancel()
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: &id})
	return s.explain(err)
}

func (s *store) close() { s.transport.CloseIdleConnections() }
