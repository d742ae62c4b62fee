package drivers_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// target is a URL of a driver at which no server answers.
type target struct {
	url  string
	more []string // URLs in which a secret replaces {}
}

var targets = map[string]target{
	"postgres": {"postgres://u:p@127.0.0.1:1/db", nil},
	"mysql":    {"mysql://u:p@127.0.0.1:1/db", []string{"mysql://{}@/db?socket=/nonexistent", "mysql://u:{}@127.0.0.1:1/"}},
	"sqlserver": {
		"sqlserver://u:p@127.0.0.1:1/db",
		[]string{"sqlserver://u:p@127.0.0.1:1/{}?database=db", "sqlserver://{}:{}@127.0.0.1:1/db?fedauth=ActiveDirectoryPassword"},
	},
	"snowflake": {
		"snowflake://u:p@127.0.0.1:1/db/schema?protocol=http",
		[]string{"snowflake://u@127.0.0.1:1/db?protocol=http&authenticator=oauth&token={}"},
	},
	"snowflake-keypair": {
		"snowflake-keypair://u@127.0.0.1:1/db/schema?protocol=http&secret-key=KEY",
		[]string{"snowflake-keypair://{}@127.0.0.1:1/db?private-key-file={}"},
	},
	"sqlite": {"sqlite:///dev/null/db", nil},
	"file":   {"file:///dev/null/directory", nil},
	"s3": {
		"s3://127.0.0.1:1/bucket/prefix?access-key-id=id&secret-access-key=key",
		[]string{
			"s3://127.0.0.1:1/bucket?profile={}", "s3://bucket?endpoint={}",
			"s3://127.0.0.1:1/bucket?access-key-id={}&secret-access-key={}&session-token={}&kms-key={}",
		},
	},
	"kafka": {
		"kafka://127.0.0.1:1/topic",
		[]string{
			"kafka://{}:{}@127.0.0.1:1/topic?auth=plain", "kafka://127.0.0.1:1/?topic={}",
			"kafka://u:{}@127.0.0.1:1/t?auth=oauthbearer&token-url=http://127.0.0.1:1/{}&token-scope={}",
		},
	},
	"eventhub": {"eventhub://127.0.0.1:1/;SharedAccessKeyName=name;SharedAccessKey=key;EntityPath=hub", []string{
		"eventhub://127.0.0.1:1/;SharedAccessKeyName={};SharedAccessKey=key;EntityPath=hub",
		"eventhub://127.0.0.1:1/;SharedAccessKeyName=name;SharedAccessKey={};EntityPath=hub",
		"eventhub://127.0.0.1:1/;SharedAccessKeyName=name;SharedAccessKey=key;EntityPath={}",
		"eventhub://127.0.0.1:1/;SharedAccessKeyName=name;SharedAccessKey=key;EntityPath=hub;UseDevelopmentEmulator={}",
		"eventhub://127.0.0.1:1/hub;{}={}", "eventhub://127.0.0.1:1/{}",
	}},
	"webhook": {
		"https://127.0.0.1:1/path",
		[]string{
			"https://127.0.0.1:1/{}?eds-secret={}&{}={}", "https://127.0.0.1:1/x?header={}&header=a:{}", "https://{}:{}@127.0.0.1:1/x",
		},
	},
}

// needles are parts of all secret values. No error may contain them.
var needles = []string{"hunter2", "4815162"}

// secrets returns invalid values for options, users, passwords and paths. Each value, or the file
// that it names, contains a needle.
func secrets(t *testing.T) []string {
	file := filepath.Join(t.TempDir(), "secret")
	text := "hunter2\n-----BEGIN hunter2-----\naHVudGVyMg==\n-----END hunter2-----\n[hunter2]\nhost=hunter2\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{
		"hunter2", "HUNTER2", "4815162342", "-4815162342", "481516234248151623424815162342", "4815162h", "0x4815162342", "4815162.5",
		"true hunter2", "/nonexistent/hunter2", file, "{{.hunter2}}", "{{hunter2", "{hunter2}", "https://hunter2:hunter2@[",
		"whsec_hunter2!", "Name:hunter2\n",
		"hunter2=4815162342;hunter2", "sha:hunter2", "env:hunter2",
	}
}

// fails opens a destination and returns the text of all errors.
func fails(t *testing.T, raw string, lookup sink.Lookup) string {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, s, err := drivers.Open(ctx, raw, lookup, sink.Env{})
	if err != nil {
		return err.Error()
	}
	text := ""
	if err := s.Probe(ctx); err != nil {
		text = err.Error()
	}
	if err := s.Close(t.Context()); err != nil {
		text += err.Error()
	}
	return text
}

// holds reports whether text contains a part of a secret.
func holds(text string) bool {
	return slices.ContainsFunc(needles, func(needle string) bool { return strings.Contains(strings.ToLower(text), needle) })
}

func TestErrors_HoldNoValueOfTheURL(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) {
		return map[string]string{"KEY": base64.StdEncoding.EncodeToString(der), "hunter2": "4815162342", "HUNTER2": "hunter2"}[name], true
	}
	values := secrets(t)
	for _, d := range drivers.All() {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			target := targets[d.Name]
			base, err := url.Parse(target.url)
			if err != nil || target.url == "" {
				t.Fatalf("there is no url to test with: %v", err)
			}
			tried := map[string]bool{}
			var tries errgroup.Group
			tries.SetLimit(32)
			try := func(what, raw string) {
				if tried[raw] {
					return
				}
				tried[raw] = true
				tries.Go(func() error {
					if text := fails(t, raw, lookup); holds(text) {
						t.Errorf("%s: %s", what, text)
					}
					return nil
				})
			}
			for _, value := range values {
				names := []string{"unknown", "SharedAccessKey"}
				for _, o := range d.Options {
					if o.Name != "host" && o.Name != "failoverpartner" { // errors may name the host
						names = append(append(names, o.Name), o.Aliases...)
					}
				}
				for _, name := range names {
					u := *base
					query := u.Query()
					query.Set(name, value)
					for other, needed := range needs[name] {
						query.Set(other, needed)
					}
					u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
					try("option "+name+"="+value, u.String())
				}
				user, password, path, host := *base, *base, *base, *base
				user.User = url.UserPassword(value, "p")
				password.User = url.UserPassword("u", value)
				path.Path, path.RawPath = base.Path+"/"+value, ""
				host.Path, host.RawPath = "/"+value, ""
				try("user "+value, user.String())
				try("password "+value, password.String())
				if d.Name != "file" && d.Name != "sqlite" { // errors of these two may name the path
					try("path "+value, path.String())
					try("path "+value, host.String())
				}
				for _, template := range target.more {
					try("more "+value, strings.ReplaceAll(template, "{}", url.PathEscape(value)))
					try("more "+value, strings.ReplaceAll(template, "{}", url.QueryEscape(value)))
				}
				scheme, rest, _ := strings.Cut(target.url, "://")
				try("unescaped "+value, scheme+"://"+value+":"+value+"@"+rest)
				try("unescaped port "+value, strings.Replace(target.url, ":1/", ":"+value+"/", 1))
				try("unescaped query "+value, target.url+"?"+value+"&"+value+"=%zz")
				try("fragment "+value, target.url+"#"+value)
			}
			if err := tries.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// needs holds, by option, the other options without which the driver ignores the option.
var needs = map[string]map[string]string{
	"tls-ca": {"tls": "true"}, "tls-cert": {"tls": "true", "tls-key": "/nonexistent"},
	"tls-key": {"tls": "true", "tls-cert": "/nonexistent"},
	"token":   {"auth": "oauthbearer", "tls": "true"}, "token-file": {"auth": "oauthbearer"}, "token-url": {"auth": "oauthbearer"},
	"partitions": {"create-topics": "true"}, "replication": {"create-topics": "true"},
	"compress": {"format": "ndjson"}, "layout": {"format": "ndjson"}, "roll-rows": {"format": "ndjson"}, "roll-bytes": {"format": "ndjson"},
	"roll-age": {"format": "ndjson"},
	"proxy":    {"transport": "websockets"}, "sslkey": {"sslcert": "/nonexistent"}, "sslcert": {"sslkey": "/nonexistent"},
	"clientcertpath": {"fedauth": "ActiveDirectoryServicePrincipal"},
	"tokenfilepath":  {"fedauth": "ActiveDirectoryWorkloadIdentity"}, "certificate": {"encrypt": "true"},
	"serverCertificate": {"encrypt": "true"},
}

func TestFieldErrors_HoldNoValue(t *testing.T) {
	for _, d := range drivers.All() {
		for _, value := range secrets(t) {
			for _, field := range d.Fields {
				values := make(map[string]string)
				for _, f := range d.Fields {
					values[f.Name] = f.Default
				}
				values[field.Name] = value
				_, wrong := d.URL(values)
				for _, w := range wrong {
					if holds(w.Error) {
						t.Errorf("%s, %s=%s: %s", d.Name, field.Name, value, w.Error)
					}
				}
			}
		}
	}
}

// TestErrors_HoldNothingOfTheAWSConfiguration makes the AWS SDK read an environment and profiles
// that are invalid.
func TestErrors_HoldNothingOfTheAWSConfiguration(t *testing.T) {
	const profiles = `
[profile role]
role_arn = hunter2
source_profile = hunter2
[profile unsourced]
role_arn = arn:aws:iam::4815162:role/hunter2
[profile process]
credential_process = sh -c 'echo hunter2; exit 3'
[profile gibberish]
credential_process = sh -c 'echo hunter2'
[profile web]
role_arn = arn:aws:iam::4815162:role/hunter2
web_identity_token_file = /nonexistent/hunter2
[profile sso]
sso_session = hunter2
sso_account_id = 4815162
sso_role_name = hunter2
[profile login]
sso_start_url = https://hunter2.example.com/
sso_region = hunter2
sso_account_id = 4815162
sso_role_name = hunter2
[profile retries]
max_attempts = hunter2
[profile mode]
retry_mode = hunter2
hunter2
`
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(profiles), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "") // restores the variable at the end of the test
			os.Unsetenv(name)
		}
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1") // for all services
	const base = "s3://127.0.0.1:1/bucket/prefix?max-retries=0"
	try := func(what, raw string) {
		t.Helper()
		text := fails(t, raw, func(string) (string, bool) { return "", false })
		if text == "" || holds(text) {
			t.Errorf("%s: %s", what, text)
		}
	}
	for _, name := range []string{"hunter2", "role", "unsourced", "process", "gibberish", "web", "sso", "login", "retries", "mode"} {
		try("profile "+name, base+"&profile="+name)
	}
	for name, value := range map[string]string{
		"AWS_MAX_ATTEMPTS": "hunter2", "AWS_RETRY_MODE": "hunter2", "AWS_PROFILE": "hunter2", "AWS_CA_BUNDLE": "/nonexistent/hunter2",
		"AWS_CONFIG_FILE": "/nonexistent/hunter2", "AWS_USE_FIPS_ENDPOINT": "hunter2", "AWS_DEFAULTS_MODE": "hunter2",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://hunter2@127.0.0.1:1/hunter2", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent/hunter2",
		"AWS_ENDPOINT_URL": "://hunter2", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1/hunter2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::4815162:role/hunter2")
			t.Setenv(name, value)
			try("the chain", base)
			try("keys of the url", base+"&access-key-id=id&secret-access-key=key")
			try("a role", base+"&access-key-id=id&secret-access-key=key&role-arn=arn:hunter2&external-id=hunter2")
		})
	}
}
