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

// bucketStore accesses the bucket that the URL names. Requests may run concurrently. Calls of
// prepareCall and finishCall must not overlap.
type bucketStore struct {
	config
	client    *s3.Client
	transport *http.Transport
	access    *sink.Access
	refused   bool // the last call was refused because of its credentials or the certificate
}

// finishCall ends a call that uploads, and records whether the store refused the call. It returns
// the error of s.access.Outcome.
func (s *bucketStore) finishCall(err error) error {
	s.refused = fault.Of(err) == fault.Refused
	return s.access.Outcome(err)
}

// prepareCall begins a call that uploads, with the current keys of the URL. If the last call was
// refused, it creates a new client, because the profile, the role or the trusted authorities may
// have changed. Calls that upload never overlap.
func (s *bucketStore) prepareCall(ctx context.Context) error {
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

// newBucketStore finds credentials and creates a client. It sends no request to the store.
func newBucketStore(ctx context.Context, c config, access *sink.Access) (*bucketStore, error) {
	s := &bucketStore{config: c, access: access}
	return s, s.connect(ctx)
}

// connect finds credentials and creates the client.
func (s *bucketStore) connect(ctx context.Context) error {
	c := &s.config
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cfg, err := configuration(ctx, c)
	if err != nil {
		return err
	}
	// The SDK's transport trusts the authorities that the environment names. GetTransport returns a
	// copy of it, whose connections can be closed.
	if built, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		s.transport = built.GetTransport()
	} else {
		s.transport = awshttp.NewBuildableClient().GetTransport()
	}
	s.transport.MaxIdleConns, s.transport.MaxIdleConnsPerHost = 0, c.tasks
	s.transport.ResponseHeaderTimeout = c.timeout
	client := &http.Client{
		Transport:     s.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = client
		o.UsePathStyle = c.pathStyle
		if c.endpoint != "" {
			o.BaseEndpoint = aws.String(c.endpoint)
		}
		o.RequestChecksumCalculation, o.ResponseChecksumValidation = aws.RequestChecksumCalculationWhenRequired,
			aws.ResponseChecksumValidationWhenRequired
		if c.checksums {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
		}
	})
	return nil
}

// remedy tells the operator how to put credentials into the URL.
const remedy = "add access-key-id= and secret-access-key= to the s3 url"

// configuration reads the SDK's configuration from the environment, the profiles and the URL. Each
// request is signed with the keys that c holds at the time of the request.
func configuration(ctx context.Context, c *config) (aws.Config, error) {
	from := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient()),
		awsconfig.WithLogger(logging.Nop{}), // the default logger writes to standard error
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
		return cfg, awscredentials.ConfigError(err)
	}
	if c.keys.id != "" {
		cfg.Credentials = given // the SDK would cache the keys, but c.keys may change
	}
	if c.region == "" && c.endpoint != "" && !c.aws {
		cfg.Region = "" // a region in the environment is a region of AWS
	}
	cfg.Region = cmp.Or(cfg.Region, "us-east-1")
	if c.keys.role != "" {
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), c.keys.role,
			func(o *stscreds.AssumeRoleOptions) {
				o.RoleSessionName = "eds"
				if c.keys.externalID != "" {
					o.ExternalID = aws.String(c.keys.externalID)
				}
			}))
	}
	if cfg.Credentials == nil {
		return cfg, awscredentials.NotFound(remedy)
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return cfg, awscredentials.ChainError(err, remedy)
	}
	return cfg, nil
}

// minRate is the lowest upload rate that does not lead to a timeout, in bytes per second.
const minRate = 64 << 10

// withTimeout returns a context for a request that sends size bytes. The context's deadline leaves
// time for the client's own retries.
func (s *bucketStore) withTimeout(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	once := s.timeout + time.Duration(size/minRate)*time.Second
	return context.WithTimeout(ctx, time.Duration(s.retries+1)*once)
}

// put uploads text as one object.
func (s *bucketStore) put(ctx context.Context, key, contentType string, text []byte) error {
	return s.putFrom(ctx, key, contentType, bytes.NewReader(text), int64(len(text)))
}

func (s *bucketStore) putFrom(ctx context.Context, key, contentType string, body io.ReadSeeker, size int64) error {
	ctx, cancel := s.withTimeout(ctx, size)
	defer cancel()
	input := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key, Body: body, ContentLength: &size, ContentType: &contentType,
		ServerSideEncryption: s.encryption, StorageClass: s.storageClass, ACL: s.acl,
	}
	if s.kmsKey != "" {
		input.SSEKMSKeyId = &s.kmsKey
	}
	_, err := s.client.PutObject(ctx, input)
	return s.classify(err)
}

// beginUpload begins a multipart upload of the object with the given key, and returns the upload's
// id.
func (s *bucketStore) beginUpload(ctx context.Context, key, contentType string) (id string, err error) {
	ctx, cancel := s.withTimeout(ctx, 0)
	defer cancel()
	input := &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, ContentType: &contentType,
		ServerSideEncryption: s.encryption, StorageClass: s.storageClass, ACL: s.acl,
	}
	if s.kmsKey != "" {
		input.SSEKMSKeyId = &s.kmsKey
	}
	if s.checksums { // of the parts; the SDK computes them
		input.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	begun, err := s.client.CreateMultipartUpload(ctx, input)
	if err != nil {
		return "", s.classify(err)
	}
	if begun.UploadId == nil {
		return "", errors.New("the store returned no upload id")
	}
	return *begun.UploadId, nil
}

// abortUpload discards a multipart upload. If that fails, the uploaded parts stay in the bucket,
// invisible, until a lifecycle rule removes them.
func (s *bucketStore) abortUpload(ctx context.Context, key, id string) error {
	ctx, cancel := s.withTimeout(ctx, 0)
	defer cancel()
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: &id})
	return s.classify(err)
}

func (s *bucketStore) close() { s.transport.CloseIdleConnections() }
