package s3

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
	"github.com/shopmonkeyus/eds/internal/sink/lake"
)

// choices are what the URL says.
type choices struct {
	place
	keys keys

	pathStyle bool
	checksums bool // also where the protocol does not require them

	encryption   types.ServerSideEncryption
	kmsKey       string
	storageClass types.StorageClass
	acl          types.ObjectCannedACL

	path    *encode.Path // nil: the default names
	files   lake.Settings
	tasks   int
	limits  sink.Limits
	retries int
	timeout time.Duration

	renew func() (choices, error) // nil: they stay as they are
}

// now returns the choices with the secrets that there are now.
func (c *choices) now() (choices, error) {
	if c.renew == nil {
		return *c, nil
	}
	return c.renew()
}

// keys say who eds is. Without id, the SDK's own chain finds out.
type keys struct {
	id, secret, token string
	profile           string
	role, externalID  string
}

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL) (choices, error) {
	c := choices{tasks: 64, limits: limits, retries: 2, timeout: time.Minute}
	var err error
	if c.place, err = parsePlace(target); err != nil {
		return c, err
	}
	query := target.Query()
	if c.keys, err = parseKeys(query); err != nil {
		return c, err
	}
	if err := c.parseRequests(query); err != nil {
		return c, err
	}
	if err := c.parseObjects(query); err != nil {
		return c, err
	}
	if c.files, err = lake.Parse(query, batching); err != nil {
		return c, err
	}
	if c.files.Format != "" {
		if query.Has("maxBatchSize") {
			return c, errors.New("option maxBatchSize needs format=json; with format=ndjson or parquet it is roll-rows")
		}
		c.limits = sink.Limits{Rows: int(min(c.files.RollRows, 10_000_000)), Bytes: int(min(c.files.RollBytes, 1<<30)), Age: c.files.RollAge, Stable: true}
	}
	if text := query.Get("path"); text != "" {
		if c.path, err = encode.ParsePath(text); err != nil {
			return c, err
		}
	}
	return c, nil
}

func parseKeys(query url.Values) (keys, error) {
	k := keys{
		id: query.Get("access-key-id"), secret: query.Get("secret-access-key"), token: query.Get("session-token"),
		profile: query.Get("profile"), role: query.Get("role-arn"), externalID: query.Get("external-id"),
	}
	switch {
	case k.id == "" && (k.secret != "" || k.token != ""), k.id != "" && k.secret == "":
		return k, errors.New("options access-key-id and secret-access-key go together, and session-token only with them; without any of them the AWS SDK's own chain finds credentials")
	case k.id != "" && k.profile != "":
		return k, errors.New("option profile and option access-key-id say both who eds is; leave one out")
	case k.externalID != "" && k.role == "":
		return k, errors.New("option external-id needs role-arn")
	case k.role != "" && !strings.HasPrefix(k.role, "arn:"):
		return k, errors.New("option role-arn should read like arn:aws:iam::123456789012:role/eds")
	}
	return k, nil
}

// parseRequests reads how requests are made.
func (c *choices) parseRequests(query url.Values) error {
	var err error
	if c.pathStyle, err = sink.BoolOf(query, "path-style", c.endpoint != ""); err != nil {
		return err
	}
	checksums := []string{"when-required", "when-supported"}
	if c.aws {
		slices.Reverse(checksums)
	}
	chosen, err := sink.ChoiceOf(query, "checksums", checksums...)
	if err != nil {
		return err
	}
	c.checksums = chosen == "when-supported"
	if c.timeout, err = sink.DurationOf(query, "timeout", c.timeout, 100*time.Millisecond, time.Hour); err != nil {
		return err
	}
	if c.retries, err = sink.IntOf(query, "max-retries", c.retries, 0, 100); err != nil {
		return err
	}
	if c.tasks, err = sink.IntOf(query, "uploadTasks", c.tasks, 1, 1000); err != nil {
		return err
	}
	c.limits.Rows, err = sink.IntOf(query, "maxBatchSize", c.limits.Rows, 1, 100_000)
	return err
}

// parseObjects reads what is asked of the store for each object.
func (c *choices) parseObjects(query url.Values) error {
	c.kmsKey = query.Get("kms-key")
	encryption := query.Get("sse")
	if encryption == "" && c.kmsKey != "" {
		encryption = string(types.ServerSideEncryptionAwsKms)
	}
	known := []types.ServerSideEncryption{types.ServerSideEncryptionAes256, types.ServerSideEncryptionAwsKms, types.ServerSideEncryptionAwsKmsDsse}
	c.encryption = types.ServerSideEncryption(encryption)
	if encryption != "" && !slices.Contains(known, c.encryption) {
		return errors.New("option sse should be AES256, aws:kms or aws:kms:dsse")
	}
	if c.kmsKey != "" && c.encryption == types.ServerSideEncryptionAes256 {
		return errors.New("option kms-key needs sse=aws:kms")
	}
	c.storageClass = types.StorageClass(query.Get("storage-class"))
	if err := oneOf("storage-class", c.storageClass, c.storageClass.Values(), c.aws); err != nil {
		return err
	}
	c.acl = types.ObjectCannedACL(query.Get("acl"))
	return oneOf("acl", c.acl, c.acl.Values(), true)
}

// oneOf checks a value that AWS knows a list of. Another store may know others:
// it is the judge of them, unless strict.
func oneOf[T ~string](option string, value T, known []T, strict bool) error {
	if value == "" || slices.Contains(known, value) {
		return nil
	}
	if !strict && !strings.ContainsFunc(string(value), func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return fmt.Errorf("option %s should be one of %s", option, strings.Join(names, ", "))
}
