package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	msk "github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/shopmonkeyus/eds/internal/drivers/awscredentials"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// dialTimeout is the maximum time to open a connection or to request a token.
const dialTimeout = 10 * time.Second

// security returns the client options for encryption and authentication. Each new connection uses
// the current certificates, keys and passwords.
func (c *config) security() (opts []kgo.Opt) {
	if c.tls != nil {
		opts = append(opts, kgo.Dialer(c.dialTLS))
	}
	switch c.auth.(type) {
	case nil:
	case chained:
		opts = append(opts, kgo.SASL(c.auth))
	default:
		opts = append(opts, kgo.SASL(renewed{c.auth, c.renew}))
	}
	return opts
}

func (c *config) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	now, err := c.renew()
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: now.tls}
	return dialer.DialContext(ctx, network, address)
}

// The type renewed is a SASL mechanism that reads the current credentials of the URL for each
// connection.
type renewed struct {
	sasl.Mechanism
	renew func() (config, error)
}

// Authenticate starts a SASL session with the current credentials.
func (r renewed) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	now, err := r.renew()
	if err != nil {
		return nil, nil, err
	}
	return now.auth.Authenticate(ctx, host)
}

// parseTLS returns the TLS configuration, or nil if connections are not to be encrypted.
func parseTLS(v sink.Values) (*tls.Config, error) {
	mode := v.Text("tls")
	if mode == "false" {
		if v.Given("tls-ca") || v.Given("tls-cert") || v.Given("tls-key") {
			return nil, errors.New("options tls-ca, tls-cert and tls-key need tls=true")
		}
		return nil, nil
	}
	encryption := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: mode == "skip-verify"}
	return encryption, sink.Certificates(v, encryption)
}

// parseAuth returns the SASL mechanism, or nil if no credentials are to be sent. The parameter
// given is the URL's user and password.
func parseAuth(v sink.Values, given *url.Userinfo, brokers []string, encrypted bool) (sasl.Mechanism, error) {
	user := given.Username()
	password, _ := given.Password()
	name := v.Text("auth")
	if name == "" && given == nil {
		for _, option := range []string{"token", "token-file", "token-url", "token-scope"} {
			if v.Given(option) {
				return nil, fmt.Errorf("option %s needs auth=oauthbearer", option)
			}
		}
		return nil, nil
	}
	switch name = cmp.Or(name, "plain"); name {
	case "oauthbearer":
		return parseOAuth(v, user, password)
	case "aws-msk-iam":
		if !encrypted {
			return nil, errors.New("auth=aws-msk-iam needs tls=true, as MSK does; its port is 9098")
		}
		return parseMSK(v.Text("token"), brokers, user, password)
	}
	if user == "" || password == "" {
		return nil, fmt.Errorf("auth=%s needs a user and a password; "+
			"the url should read kafka://user:${KAFKA_PASSWORD}@broker:9092/topic", name)
	}
	switch name {
	case "scram-sha-256":
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: user, Pass: password}.AsSha512Mechanism(), nil
	default:
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	}
}

// parseMSK returns the mechanism of Amazon MSK. It signs with the region that is part of the
// brokers' host names. Without an access key, the AWS SDK finds the credentials.
func parseMSK(token string, brokers []string, user, password string) (sasl.Mechanism, error) {
	for _, broker := range brokers {
		host, _, _ := net.SplitHostPort(broker)
		if !strings.HasSuffix(host, ".amazonaws.com") && !strings.HasSuffix(host, ".amazonaws.com.cn") {
			return nil, fmt.Errorf("auth=aws-msk-iam needs brokers of MSK, "+
				"named like b-1.shop.abc123.c2.kafka.eu-west-1.amazonaws.com, and %q is none", host)
		}
	}
	if user != "" && password != "" {
		return msk.Auth{AccessKey: user, SecretKey: password, SessionToken: token}.AsManagedStreamingIAMMechanism(), nil
	}
	if user+password+token != "" {
		return nil, errors.New("auth=aws-msk-iam needs an access key as the url's user and a secret key as its password, " +
			"or neither, for the AWS SDK to find them")
	}
	chain := &awsChain{}
	return chained{msk.ManagedStreamingIAM(chain.credentials)}, nil
}

// The type chained is a SASL mechanism whose credentials the AWS SDK finds and renews.
type chained struct{ sasl.Mechanism }

// awsChain finds credentials as the AWS SDK does: in the environment, in profiles, through web
// identities, and through the roles of containers and instances. It renews credentials that expire.
// It is safe for concurrent use.
type awsChain struct {
	mu    sync.Mutex
	found aws.CredentialsProvider // nil until the first request for credentials
}

func (c *awsChain) credentials(ctx context.Context) (msk.Auth, error) {
	const remedy = "put them in the kafka url, as user and password"
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil {
		cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithLogger(logging.Nop{})) // not to standard error
		if err != nil {
			return msk.Auth{}, awscredentials.ConfigError(err)
		}
		if cfg.Credentials == nil {
			return msk.Auth{}, awscredentials.NotFound(remedy)
		}
		c.found = cfg.Credentials
	}
	keys, err := c.found.Retrieve(ctx)
	if err != nil {
		return msk.Auth{}, awscredentials.ChainError(err, remedy)
	}
	return msk.Auth{AccessKey: keys.AccessKeyID, SecretKey: keys.SecretAccessKey, SessionToken: keys.SessionToken}, nil
}

// parseOAuth returns the mechanism that sends a bearer token. The token is the value of the option
// token, or the content of the file that the option token-file names, or comes from the endpoint
// that the option token-url names, which issues tokens for client credentials.
func parseOAuth(v sink.Values, user, password string) (sasl.Mechanism, error) {
	token, file, endpoint := v.Text("token"), v.Text("token-file"), v.Text("token-url")
	var get func(ctx context.Context) (string, error)
	switch {
	case token != "" && file == "" && endpoint == "":
		get = func(context.Context) (string, error) { return token, nil }
	case token == "" && file != "" && endpoint == "":
		get = func(context.Context) (string, error) {
			text, err := v.File("token-file")
			return strings.TrimSpace(string(text)), fault.Mark(fault.Refused, err)
		}
		if _, err := get(context.Background()); err != nil {
			return nil, err
		}
	case token == "" && file == "" && endpoint != "":
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !sink.Loopback(u.Hostname())) {
			return nil, errors.New("option token-url should be an https:// url")
		}
		if user == "" || password == "" {
			return nil, errors.New("option token-url needs a client id and secret, as the url's user and password")
		}
		grant := &tokenGrant{endpoint: endpoint, user: user, password: password, scope: v.Text("token-scope")}
		get = grant.token
	default:
		return nil, errors.New("auth=oauthbearer needs one of the options token, token-file and token-url")
	}
	return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
		token, err := get(ctx)
		return oauth.Auth{Token: token}, err
	}), nil
}

// tokenGrant requests tokens for client credentials (RFC 6749, section 4.4).
type tokenGrant struct{ endpoint, user, password, scope string }

// token requests a token. Its errors contain neither the client secret nor the body of the
// response.
func (g *tokenGrant) token(ctx context.Context) (string, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if g.scope != "" {
		form.Set("scope", g.scope)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", errors.New("ask token-url for a token: the url is not well formed")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(url.QueryEscape(g.user), url.QueryEscape(g.password))
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: dialTimeout}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		cause := err
		if e := new(url.Error); errors.As(err, &e) {
			cause = e.Err
		}
		return "", fmt.Errorf("ask token-url for a token: %w", cause)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		err := fmt.Errorf("ask token-url for a token: it answers %s", response.Status)
		switch response.StatusCode {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
			err = fault.Mark(fault.Refused, fmt.Errorf("%w; check the client id and secret in the url", err))
		}
		return "", err
	}
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&body); err != nil || body.Token == "" {
		return "", errors.New("ask token-url for a token: the answer has no access_token")
	}
	return body.Token, nil
}
