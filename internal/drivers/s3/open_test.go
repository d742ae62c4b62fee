package s3

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestParse_ReadsBucketPrefixAndEndpoint(t *testing.T) {
	for raw, want := range map[string]location{
		"s3://bucket":  {bucket: "bucket", aws: true},
		"s3://bucket/": {bucket: "bucket", aws: true},
		"s3://bucket/prefix?region=eu-west-1": {
			bucket: "bucket", prefix: "prefix", region: "eu-west-1",
			aws: true,
		},
		"s3://my.bucket.name/a/b%20c/": {bucket: "my.bucket.name", prefix: "a/b c", aws: true},
		"s3://Old_Bucket/p":            {bucket: "Old_Bucket", prefix: "p", aws: true},
		"s3://storage.googleapis.com/bucket/p/q": {
			bucket: "bucket", prefix: "p/q",
			endpoint: "https://storage.googleapis.com", region: "auto",
		},
		"s3://storage.googleapis.com/bucket": {
			bucket: "bucket", endpoint: "https://storage.googleapis.com",
			region: "auto",
		},
		"s3://localhost:4566/bucket/prefix": {
			bucket: "bucket", prefix: "prefix",
			endpoint: "http://localhost:4566",
		},
		"s3://localhost/bucket":                    {bucket: "bucket", endpoint: "http://localhost"},
		"s3://127.0.0.1:9000/bucket?tls=true":      {bucket: "bucket", endpoint: "https://127.0.0.1:9000"},
		"s3://[::1]:9000/bucket":                   {bucket: "bucket", endpoint: "http://[::1]:9000"},
		"s3://10.0.0.7/bucket":                     {bucket: "bucket", endpoint: "https://10.0.0.7"},
		"s3://minio:9000/bucket/p":                 {bucket: "bucket", prefix: "p", endpoint: "https://minio:9000"},
		"s3://minio:9000/bucket/p?tls=false":       {bucket: "bucket", prefix: "p", endpoint: "http://minio:9000"},
		"s3://bucket/p?endpoint=http://minio:9000": {bucket: "bucket", prefix: "p", endpoint: "http://minio:9000"},
		"s3://bucket/p?endpoint=minio.example.com": {
			bucket: "bucket", prefix: "p",
			endpoint: "https://minio.example.com",
		},
		"s3://0123.r2.cloudflarestorage.com/bucket/p": {
			bucket: "bucket", prefix: "p",
			endpoint: "https://0123.r2.cloudflarestorage.com", region: "auto",
		},
		"s3://nyc3.digitaloceanspaces.com/bucket/p?region=nyc3": {
			bucket: "bucket", prefix: "p",
			endpoint: "https://nyc3.digitaloceanspaces.com", region: "nyc3",
		},
		"s3://s3.eu-west-1.amazonaws.com/bucket/p": {bucket: "bucket", prefix: "p", region: "eu-west-1", aws: true},
		"s3://s3.amazonaws.com/bucket/p":           {bucket: "bucket", prefix: "p", aws: true},
		"s3://my.bucket.s3.us-gov-west-1.amazonaws.com/p": {
			bucket: "my.bucket", prefix: "p", region: "us-gov-west-1",
			aws: true,
		},
		"s3://bucket.s3.cn-north-1.amazonaws.com.cn/p": {bucket: "bucket", prefix: "p", region: "cn-north-1", aws: true},
		"s3://bucket.vpce-1a-2b.s3.us-east-1.vpce.amazonaws.com/bucket/p": {
			bucket: "bucket", prefix: "p",
			endpoint: "https://bucket.vpce-1a-2b.s3.us-east-1.vpce.amazonaws.com", aws: true,
		},
	} {
		c, err := parse(parsed(t, raw))
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if diff := cmp.Diff(want, c.location, cmp.AllowUnexported(location{})); diff != "" {
			t.Errorf("%s: %s", raw, diff)
		}
	}
}

func TestParse_ReadsOptions(t *testing.T) {
	c, err := parse(parsed(t, "s3://bucket/prefix?region=us-west-2&access-key-id=AKIA1&secret-access-key=a%2Bb%2Fc&session-token=t&"+
		"max-retries=7&maxBatchSize=250&uploadTasks=9"))
	if err != nil {
		t.Fatal(err)
	}
	want := location{bucket: "bucket", prefix: "prefix", region: "us-west-2", aws: true}
	if c.location != want || c.keys != (accessKeys{id: "AKIA1", secret: "a+b/c", token: "t"}) || c.retries != 7 || c.limits.Rows != 250 ||
		c.tasks != 9 || c.pathStyle || !c.checksums {
		t.Errorf("they say %+v", c)
	}
	if c, err = parse(parsed(t, "s3://minio:9000/bucket")); err != nil || !c.pathStyle || c.checksums || c.tasks != 64 ||
		c.limits != limits || c.retries != 2 {
		t.Errorf("defaults of another store: %+v, %v", c, err)
	}
}

func TestOpen_RejectsBadURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"s3://": "s3://bucket/prefix", "s3:///p": "s3://bucket/prefix", "s3://a": "names no bucket",
		"s3://key:secret@bucket/p": "access-key-id=", "s3://bucket/p#x": "write # as %23",
		"s3://minio:9000": "names no bucket", "s3://minio:9000/": "names no bucket", "s3://bucket/a//b": "one that is empty",
		"s3://bucket/a/../b":                      "an element . or ..",
		"s3://bucket/" + strings.Repeat("p", 601): "at most 600 fit", "s3://bucket/a%00b": "control character",
		"s3://bucket/p?region=eu%20west": "option region",
		"s3://bucket?tls=false":          "option tls is for stores that are not AWS", "s3://minio:9000/b?tls=false": "names no bucket",
		"s3://minio:9000/bucket?tls=no": "option tls should be true or false",
		"s3://bucket?endpoint=ftp://x":  "option endpoint", "s3://bucket?endpoint=http://x/path": "option endpoint",
		"s3://minio:9000/bucket?endpoint=http://x": "leave one out",
		"s3://bucket?endpoint=http://x&tls=true":   "leave tls out", "s3://bucket?access-key-id=A": "go together",
		"s3://bucket?secret-access-key=SECRET": "go together", "s3://bucket?session-token=SECRET": "go together",
		"s3://bucket?access-key-id=A&secret-access-key=SECRET&profile=p": "leave one out", "s3://bucket?external-id=x": "needs role-arn",
		"s3://bucket?role-arn=eds":   "arn:aws:iam",
		"s3://bucket?path-style=yes": "true or false", "s3://bucket?checksums=never": "when-required or when-supported",
		"s3://bucket?timeout=5": "a duration like", "s3://bucket?max-retries=-1": "from 0 to 100",
		"s3://bucket?uploadTasks=0": "from 1 to 1000", "s3://bucket?maxBatchSize=many": "from 1 to 100000",
		"s3://bucket?sse=rot13": "AES256, aws:kms", "s3://bucket?sse=AES256&kms-key=k": "needs sse=aws:kms",
		"s3://bucket?storage-class=STANDARD-IA": "should be one of STANDARD, ", "s3://bucket?acl=everyone": "bucket-owner-full-control",
		"s3://bucket?path=%7B%7B.nope%7D%7D": "a field that no change has",
		"s3://bucket?compres=zstd":           "unknown option", "s3://bucket?reigon=x": `did you mean "region"?`,
	} {
		_, err := tryOpen(t, raw)
		if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%.60s: %v, want %q", raw, err, want)
		}
	}
}

func TestURLOf_BuildsTheURL(t *testing.T) {
	for want, values := range map[string]map[string]string{
		"s3://bucket":                      {"Bucket": "bucket"},
		"s3://bucket/a/b?region=eu-west-1": {"Bucket": " bucket ", "Prefix": "/a/b/", "Region": "eu-west-1"},
		"s3://bucket/p?access-key-id=A&endpoint=https%3A%2F%2Fstorage.googleapis.com&secret-access-key=x%2By%2F": {
			"Bucket": "bucket",
			"Prefix": "p", "Access Key ID": "A", "Secret Access Key": "x+y/", "Endpoint": "storage.googleapis.com",
		},
		"s3://bucket?endpoint=http%3A%2F%2Flocalhost%3A9000": {
			"Bucket":   "bucket",
			"Endpoint": "localhost:9000",
		},
	} {
		got, wrong := buildURL(values)
		if got != want || wrong != nil {
			t.Errorf("%v makes %s, %v, want %s", values, got, wrong, want)
			continue
		}
		if _, err := parse(parsed(t, got)); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
	for field, values := range map[string]map[string]string{
		"Bucket": {"Bucket": "a/b"}, "Prefix": {"Bucket": "bucket", "Prefix": "a//b"}, "Region": {"Bucket": "bucket", "Region": "not one"},
		"Endpoint":      {"Bucket": "bucket", "Endpoint": "http://x/y"},
		"Access Key ID": {"Bucket": "bucket", "Secret Access Key": "x"}, "Secret Access Key": {"Bucket": "bucket", "Access Key ID": "x"},
	} {
		if made, wrong := buildURL(values); len(wrong) != 1 || wrong[0].Field != field {
			t.Errorf("%v makes %q, %v", values, made, wrong)
		}
	}
	if _, wrong := buildURL(map[string]string{"Bucket": "storage.googleapis.com"}); len(wrong) != 1 || wrong[0].Field != "Bucket" {
		t.Errorf("a store as bucket: %v", wrong)
	}
}

func TestMaskURL_HidesSecrets(t *testing.T) {
	masked := sink.MaskURL("s3://bucket/p?access-key-id=AKIASECRET&secret-access-key=SECRET&session-token=SECRET&region=eu-west-1",
		Driver())
	if strings.Contains(masked, "SECRET") || !strings.Contains(masked, "region=eu-west-1") {
		t.Error(masked)
	}
}

// TestOpen_ReportsAMisconfiguredStore uses a real server.
func TestOpen_ReportsAMisconfiguredStore(t *testing.T) {
	server := peers.S3(t)
	bucket := server.Bucket(t)
	with := func(id, secret, path, query string) string {
		return "s3://" + server.Addr() + "/" + path + "?" + url.Values{"access-key-id": {id}, "secret-access-key": {secret}}.Encode() +
			query
	}
	for name, c := range map[string]struct{ raw, want string }{
		"a bucket that is missing": {at(server.Addr(), "nowhere/p", ""), "the bucket does not exist; create it, or correct the url (the " +
			"store returned 404 NoSuchBucket)"},
		"an unknown access key": {with("unknown", "secret", bucket, ""), "correct access-key-id="},
		"a wrong secret key":    {with(peers.S3Key, "WRONGSECRET", bucket, ""), "correct secret-access-key="},
		"no permission": {
			with(peers.S3PowerlessKey, peers.S3PowerlessSecret, bucket, ""),
			"allow s3:PutObject on the bucket's prefix",
		},
		"another region": {at(server.Addr(), bucket, "region=eu-west-1"), "write region=us-east-1 in the s3 url"},
		"no TLS":         {at(server.Addr(), bucket, "tls=true&max-retries=0"), "add tls=false"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := tryOpen(t, c.raw)
			if err == nil {
				closeSink(t, s)
			}
			if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error is %v: %v", fault.Of(err), err)
			}
		})
	}
	if left := server.Objects(t, bucket, ""); len(left) != 0 {
		t.Errorf("probes leave %v", left)
	}
	if left := server.Unfinished(t, bucket); len(left) != 0 {
		t.Errorf("probes leave uploads: %v", left)
	}
}

// TestOpen_UsesTheSDKsCredentialChain opens URLs that have no keys.
func TestOpen_UsesTheSDKsCredentialChain(t *testing.T) {
	server := peers.S3(t)
	raw := "s3://" + server.Addr() + "/" + server.Bucket(t) + "/p"
	if _, err := tryOpen(t, raw); err == nil || fault.Of(err) != fault.Fatal ||
		!strings.Contains(err.Error(), "there are no AWS credentials: add access-key-id=") {
		t.Errorf("without any: %v", err)
	}
	credentials := filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[shop]\naws_access_key_id = %s\naws_secret_access_key = %s\n", peers.S3Key, peers.S3Secret)
	if err := os.WriteFile(credentials, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("a profile", func(t *testing.T) {
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentials)
		mustApply(t, mustOpen(t, raw+"?profile=shop"), order(t, 1))
		_, err := tryOpen(t, raw+"?profile=unknown")
		if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "do not have the requested profile") {
			t.Errorf("a profile that is missing: %v", err)
		}
	})
	t.Run("the environment", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", peers.S3Key)
		t.Setenv("AWS_SECRET_ACCESS_KEY", peers.S3Secret)
		t.Setenv("AWS_REGION", "eu-central-1") // a region of AWS, which this store does not have
		mustApply(t, mustOpen(t, raw), order(t, 1))
	})
	t.Run("a role", func(t *testing.T) {
		var asked url.Values
		tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			asked = r.Form
			fmt.Fprintf(w,
				`<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>%s</AccessKeyId>`+
					`<SecretAccessKey>%s</SecretAccessKey><SessionToken></SessionToken>`+
					`<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`, peers.S3Key,
				peers.S3Secret)
		}))
		defer tokens.Close()
		t.Setenv("AWS_ENDPOINT_URL_STS", tokens.URL)
		mustApply(t, mustOpen(t, raw+"?access-key-id=a&secret-access-key=b&role-arn=arn:aws:iam::123456789012:role/eds&external-id=x"),
			order(t, 1))
		if asked.Get("RoleArn") != "arn:aws:iam::123456789012:role/eds" || asked.Get("ExternalId") != "x" ||
			asked.Get("RoleSessionName") != "eds" {
			t.Errorf("it asked for %v", asked)
		}
		tokens.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>User SECRET is not `+
				`authorized</Message></Error></ErrorResponse>`)
		})
		_, err := tryOpen(t, raw+"?access-key-id=a&secret-access-key=b&role-arn=arn:aws:iam::123456789012:role/eds")
		if err == nil || fault.Of(err) != fault.Fatal || !strings.Contains(err.Error(), "STS answers AccessDenied") ||
			strings.Contains(err.Error(), "SECRET") {
			t.Errorf("a role that may not be assumed: %v", err)
		}
		tokens.Close()
		if _, err := tryOpen(t, raw+"?max-retries=0&access-key-id=a&secret-access-key=b&"+
			"role-arn=arn:aws:iam::123456789012:role/eds"); err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("a token service that is away: %v", err)
		}
	})
}

func TestOpen_BeginsNoUpload(t *testing.T) {
	server, f := peers.S3(t), newInterceptor(t)
	var asked []string
	f.set(func(_ http.ResponseWriter, r *http.Request) bool {
		asked = append(asked, r.Method+" "+r.URL.Query().Get("uploadId"))
		return false
	})
	mustOpen(t, at(f.addr(), newPrefix(server.Bucket(t)), ""))
	if diff := cmp.Diff([]string{"POST none"}, asked); diff != "" {
		t.Error(diff)
	}
}

// TestOpen_FindsTheBucketsRegion opens a URL that names no region.
func TestOpen_FindsTheBucketsRegion(t *testing.T) {
	var regions []string
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := strings.Split(r.Header.Get("Authorization"), "/")
		regions = append(regions, scope[2])
		switch {
		case scope[2] != "eu-west-3":
			w.Header().Set("X-Amz-Bucket-Region", "eu-west-3")
			w.WriteHeader(http.StatusMovedPermanently)
			fmt.Fprint(w, `<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `<Error><Code>NoSuchUpload</Code><Message>there is none</Message></Error>`)
		}
	}))
	defer store.Close()
	addr := strings.TrimPrefix(store.URL, "http://")
	mustOpen(t, at(addr, "bucket", ""))
	if diff := cmp.Diff([]string{"us-east-1", "eu-west-3"}, regions); diff != "" {
		t.Error(diff)
	}
	_, err := tryOpen(t, at(addr, "bucket", "region=us-west-1"))
	if moved := new(regionError); fault.Of(err) != fault.Fatal || !errors.As(err, &moved) ||
		!strings.Contains(err.Error(), "write region=eu-west-3 in the s3 url") {
		t.Errorf("a region that is wrong: %v", err)
	}
}
