package s3

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// location is the place in which a destination stores its objects.
type location struct {
	bucket string
	prefix string // without leading or trailing slashes
	// endpoint is the URL of the store. It is "" for AWS, where the endpoint depends on the region.
	endpoint string
	region   string // "" if the URL names none
	// The field aws reports whether the store is Amazon S3 itself.
	aws bool
}

// maxPrefix is the maximum length of the prefix, in bytes. The prefix and the default name of an
// object together fit into the 1024 bytes that S3 allows.
const maxPrefix = 600

// providers are domains in which every host is the address of a store, not the name of a bucket.
var providers = []string{
	"amazonaws.com", "amazonaws.com.cn", "googleapis.com", "r2.cloudflarestorage.com", "digitaloceanspaces.com", "backblazeb2.com",
	"wasabisys.com",
}

var (
	// awsHost matches the host names of Amazon S3, with or without a bucket's name as the first
	// part. Its groups are the bucket and the region.
	awsHost    = regexp.MustCompile(`^(?:(.+)\.)?s3(?:[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-[0-9]))?\.amazonaws\.com(?:\.cn)?$`)
	bucketName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{1,220}[a-zA-Z0-9]$`)
	regionName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$`)
)

func validBucket(name string) bool { return bucketName.MatchString(name) }

// isStore reports whether the host of a URL is the address of a store, rather than the name of a
// bucket.
func isStore(host string) bool {
	name := strings.ToLower(host)
	if strings.Contains(name, ":") || local(name) {
		return true
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	for _, domain := range providers {
		if name == domain || strings.HasSuffix(name, "."+domain) {
			return true
		}
	}
	return false
}

// local reports whether host, which has no port, is this machine.
func local(host string) bool {
	return sink.Loopback(host) || strings.HasSuffix(host, ".localhost")
}

// parseLocation reads the location from a destination URL. An error contains no secret.
func parseLocation(target *url.URL) (location, error) {
	query := target.Query()
	p := location{region: query.Get("region"), aws: true}
	switch {
	case target.User != nil:
		return p, errors.New("the s3 url has a user; put keys into access-key-id= and secret-access-key=, " +
			"or leave them to the AWS SDK's own chain")
	case target.Opaque != "" || target.Fragment != "" || target.Host == "":
		return p, errors.New("the s3 url should read s3://bucket/prefix or s3://host:port/bucket/prefix; write # as %23")
	case p.region != "" && !regionName.MatchString(p.region):
		return p, errors.New("option region should read like us-east-1")
	}
	path := strings.Trim(target.Path, "/")
	p.bucket = target.Host
	endpoint := query.Get("endpoint")
	if isStore(target.Host) && endpoint != "" {
		return p, errors.New("the s3 url's host is the address of a store, and option endpoint names one too; leave one out")
	}
	if isStore(target.Host) {
		endpoint = target.Host
		p.bucket = ""
		if m := awsHost.FindStringSubmatch(strings.ToLower(target.Host)); m != nil {
			endpoint, p.bucket = "", m[1]
			if p.region == "" {
				p.region = m[2]
			}
		}
		if p.bucket == "" {
			p.bucket, path, _ = strings.Cut(path, "/")
		}
	}
	if !validBucket(p.bucket) {
		return p, errors.New("the s3 url names no bucket, whose name has 3 to 222 letters, digits, dots, dashes and underscores; " +
			"it should read s3://bucket/prefix or s3://host:port/bucket/prefix")
	}
	var err error
	if p.prefix, err = cleanPrefix(path); err != nil {
		return p, fmt.Errorf("the s3 url's prefix: %w", err)
	}
	if endpoint == "" {
		if query.Get("tls") != "" {
			return p, errors.New("option tls is for stores that are not AWS; leave it out")
		}
		return p, nil
	}
	p.endpoint, err = endpointURL(endpoint, query)
	p.aws = strings.HasSuffix(p.endpoint, ".amazonaws.com") || strings.HasSuffix(p.endpoint, ".amazonaws.com.cn")
	regionless := strings.HasSuffix(p.endpoint, ".googleapis.com") || strings.HasSuffix(p.endpoint, ".r2.cloudflarestorage.com")
	if p.region == "" && regionless {
		p.region = "auto"
	}
	return p, err
}

// identity returns the identity of the destination: the bucket, the prefix, and the store if it is
// not AWS. For AWS it leaves the region out, because the names of buckets are unique among all
// regions of a partition. The partitions of China and of the US government are part of the
// identity.
func identity(target *url.URL) string {
	p, err := parseLocation(target)
	if err != nil {
		return sink.JoinIdentity("s3", strings.ToLower(target.Host), target.Path, nil)
	}
	named := make(url.Values)
	if !p.aws {
		u, _ := url.Parse(p.endpoint) // no error: parseLocation has built the URL
		named.Set("endpoint", sink.HostIdentity(u.Hostname(), u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme]))
		return sink.JoinIdentity("s3", p.bucket, p.prefix, named)
	}
	switch {
	case strings.HasPrefix(p.region, "cn-"), strings.HasSuffix(p.endpoint, ".cn"),
		strings.HasSuffix(strings.ToLower(target.Hostname()), ".amazonaws.com.cn"):
		named.Set("partition", "aws-cn")
	case strings.HasPrefix(p.region, "us-gov-"):
		named.Set("partition", "aws-us-gov")
	}
	return sink.JoinIdentity("s3", strings.ToLower(p.bucket), p.prefix, named)
}

// cleanPrefix returns the prefix without leading and trailing slashes. It rejects a prefix that is
// too long or that stores might refuse.
func cleanPrefix(prefix string) (string, error) {
	prefix = strings.Trim(prefix, "/")
	if len(prefix) > maxPrefix {
		return "", fmt.Errorf("it has %d bytes; at most %d fit beside names of objects", len(prefix), maxPrefix)
	}
	if strings.ContainsFunc(prefix, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return "", errors.New("it holds a control character, or bytes that are not text")
	}
	for element := range strings.SplitSeq(prefix, "/") {
		if element == "." || element == ".." || element == "" && prefix != "" {
			return "", errors.New("it has an element . or .., or one that is empty")
		}
	}
	return prefix, nil
}

// endpointURL returns the URL of the store at address, which is a host with an optional port and
// scheme. If address has no scheme, the option tls in query selects http or https. Without that
// option, endpointURL selects http only for this machine and for port 80.
func endpointURL(address string, query url.Values) (string, error) {
	malformed := errors.New("option endpoint should be a host like storage.googleapis.com, or a URL like https://minio.example.com:9000")
	plain := ""
	if text := query.Get("tls"); text != "" {
		plain = "http"
		if encrypted, err := strconv.ParseBool(text); err == nil && encrypted {
			plain = "https"
		}
	}
	scheme := plain
	if before, after, ok := strings.Cut(address, "://"); ok {
		if plain != "" && plain != before {
			return "", errors.New("option endpoint names another scheme than option tls asks for; leave tls out")
		}
		scheme, address = before, after
	}
	u, err := url.Parse("//" + strings.TrimRight(address, "/"))
	if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" ||
		strings.ContainsAny(u.Hostname(), " \t\x00,;'\"") {
		return "", malformed
	}
	switch {
	case scheme == "http", scheme == "https":
	case scheme != "":
		return "", malformed
	case local(u.Hostname()) || u.Port() == "80":
		scheme = "http"
	default:
		scheme = "https"
	}
	return scheme + "://" + strings.ToLower(u.Host), nil
}
