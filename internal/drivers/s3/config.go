package s3

import (
	"cmp"
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

// config is a parsed destination URL.
type config struct {
	location
	keys accessKeys

	pathStyle bool
	checksums bool // send checksums even if the protocol does not require them

	encryption   types.ServerSideEncryption
	kmsKey       string
	storageClass types.StorageClass
	acl          types.ObjectCannedACL

	path    *encode.Path // nil for the default names
	files   lake.Settings
	tasks   int
	limits  sink.Limits
	retries int
	timeout time.Duration

	renew func() (config, error) // parses the URL again; nil if the config never changes
}

// now returns the config with the current secrets, which may have been rotated.
func (c *config) now() (config, error) {
	if c.renew == nil {
		return *c, nil
	}
	return c.renew()
}

// accessKeys identify eds to the store. If id is empty, the AWS SDK's credential chain finds the
// credentials.
type accessKeys struct {
	id, secret, token string
	profile           string
	role, externalID  string
}

// parse reads a destination URL. An error contains no secret of the URL.
func parse(target *url.URL) (config, error) {
	c := config{limits: limits}
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return c, err
	}
	if c.location, err = parseLocation(target); err != nil {
		return c, err
	}
	if c.keys, err = parseAccessKeys(v); err != nil {
		return c, err
	}
	c.parseRequests(v)
	if err := c.parseObjects(v); err != nil {
		return c, err
	}
	if c.files, err = lake.Read(v, batching, batching); err != nil {
		return c, err
	}
	if c.files.Format != "" {
		if v.Given("maxBatchSize") {
			return c, errors.New("option maxBatchSize needs format=json; with format=ndjson or parquet it is roll-rows")
		}
		c.limits = sink.Limits{
			Rows: int(min(c.files.RollRows, 10_000_000)), Bytes: int(min(c.files.RollBytes, 1<<30)), Age: c.files.RollAge, Stable: true,
		}
	}
	if v.Given("path") {
		c.path, err = encode.ParsePath(v.Text("path"))
	}
	return c, err
}

func parseAccessKeys(v sink.Values) (accessKeys, error) {
	k := accessKeys{
		id: v.Text("access-key-id"), secret: v.Text("secret-access-key"), token: v.Text("session-token"),
		profile: v.Text("profile"), role: v.Text("role-arn"), externalID: v.Text("external-id"),
	}
	switch {
	case k.id == "" && (k.secret != "" || k.token != ""), k.id != "" && k.secret == "":
		return k, errors.New("options access-key-id and secret-access-key go together, and session-token only with them; " +
			"without any of them the AWS SDK's own chain finds credentials")
	case k.id != "" && k.profile != "":
		return k, errors.New("options profile and access-key-id both say who eds is; leave one out")
	case k.externalID != "" && k.role == "":
		return k, errors.New("option external-id needs role-arn")
	case k.role != "" && !strings.HasPrefix(k.role, "arn:"):
		return k, errors.New("option role-arn should read like arn:aws:iam::123456789012:role/eds")
	}
	return k, nil
}

// parseRequests reads the options that say how requests are made, with defaults that depend on the
// store.
func (c *config) parseRequests(v sink.Values) {
	c.pathStyle = c.endpoint != ""
	if v.Given("path-style") {
		c.pathStyle = v.Bool("path-style")
	}
	c.checksums = c.aws
	if v.Given("checksums") {
		c.checksums = v.Text("checksums") == "when-supported"
	}
	c.timeout, c.retries, c.tasks = v.Duration("timeout"), v.Int("max-retries"), v.Int("uploadTasks")
	c.limits.Rows = v.Int("maxBatchSize")
}

// parseObjects reads the options that set properties of objects: encryption, ACL and storage class.
func (c *config) parseObjects(v sink.Values) error {
	c.kmsKey = v.Text("kms-key")
	encryption := types.ServerSideEncryption("")
	if c.kmsKey != "" {
		encryption = types.ServerSideEncryptionAwsKms
	}
	c.encryption = cmp.Or(types.ServerSideEncryption(v.Text("sse")), encryption)
	if c.kmsKey != "" && c.encryption == types.ServerSideEncryptionAes256 {
		return errors.New("option kms-key needs sse=aws:kms")
	}
	c.acl = types.ObjectCannedACL(v.Text("acl"))
	c.storageClass = types.StorageClass(v.Text("storage-class"))
	known := c.storageClass.Values()
	// Stores other than AWS have storage classes that the SDK does not list.
	odd := func(r rune) bool { return r <= ' ' || r >= 0x7f }
	if c.storageClass == "" || slices.Contains(known, c.storageClass) || !c.aws && !strings.ContainsFunc(string(c.storageClass), odd) {
		return nil
	}
	return fmt.Errorf("option storage-class should be one of %s", strings.Join(texts(known), ", "))
}

func texts[T ~string](values []T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}
