// Package kafka is the destination that writes every change as a message to Apache Kafka, or to a
// service that speaks Kafka's protocol: Redpanda, Amazon MSK, Confluent, WarpStream.
package kafka

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "kafka", Title: "Apache Kafka", Schemes: []string{"kafka"},
		Example:  "kafka://broker1:9092,broker2:9092/topic",
		Summary:  "Writes every change as a message to a topic of Kafka, in the order of its row.",
		Help:     help,
		Options:  options,
		Fields:   fields,
		Limits:   limits,
		URL:      buildURL,
		Identity: identity,
		Open:     open,
		Borrows:  borrows,
	}
}

// borrows names the option in target that makes a sink send a secret of this machine to the
// brokers, or returns "" if target has no such option. Brokers could misuse the secret: for
// example, they could pass on a signature for MSK.
func borrows(target *url.URL) string {
	if strings.EqualFold(target.Query().Get("auth"), "aws-msk-iam") { // as the option is parsed
		return "auth=aws-msk-iam"
	}
	return sink.FirstOption(target, "token-file")
}

var limits = sink.Limits{Rows: 10_000, Bytes: 16 << 20}

const help = `The URL names at least one broker, and a topic:

    kafka://broker1:9092,broker2:9092/topic
    kafka://user:password@broker:9092/topic?tls=true&auth=scram-sha-512

The topic may be a template over the change: eds.{{.table}} writes one topic per
table, and _ replaces characters that a topic's name cannot have. The topic must
exist, unless create-topics=true. eds needs DESCRIBE and WRITE on it, and CREATE to
create it; with DESCRIBE_CONFIGS eds learns how large a message may be. Brokers
older than 3.0 also want IDEMPOTENT_WRITE on the cluster.

The value is the change as JSON. The key is
dbchange.<table>.<operation>.<company|NONE>.<location|NONE>.<change id>. Messages
of one row have one partition, fnv32a(hex(xxhash64(p))) mod partitions; p is
<table>.<company|NONE>.<location|NONE>.<row id>, also in the header
eds-partitionkey. Other headers are eds-operation, eds-table, eds-version (the
schema's) and eds-clock: thirty characters whose order as text is the order of
the changes of a row.

With key=row the key is ["<table>",<primary key>...], which also chooses the
partition, and a DELETE is followed by a message without a value: a tombstone, so
that a compacted topic keeps the last state of each row and forgets deleted ones.

format=flat writes the row itself, as it is after the change or was before a
DELETE, with _eds_op, _eds_table, _eds_version, _eds_id and _eds_deleted beside
its columns; format=debezium writes an envelope of before, after, op (c, u, d, r),
source and ts_ms, as Debezium does without schemas.

A batch is acknowledged once all in-sync replicas of every partition have it.
The producer is idempotent: brokers do not store a message again that it retries.
After a crash eds sends the last batch again, in the same order: at least once.
With transactional=true a batch is one transaction, and consumers that read
committed messages never see a part of one. If a broker is down, eds waits and
retries. A message that is larger than its topic's max.message.bytes is
dead-lettered.

Secrets belong in the environment: password ${KAFKA_PASSWORD} in the URL. With
auth=aws-msk-iam the user is the access key and the password the secret key; left
out, the AWS SDK finds them: in the environment, profiles, web identities, and
the roles of containers and instances. With auth=oauthbearer, token= or token-file=
hold a token, or token-url= names an endpoint that issues one for the user and
password, as client id and secret.

Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". An import adds a
message for each row, an INSERT with "imported": true. Existing messages stay.`

var options = []sink.Option{
	{Name: "topic", Harmless: true, Help: "the topic, if it is not the URL's path; may be a template like `eds.{{.table}}`"},
	{
		Name: "key", Type: sink.OneOf("event", "row"), Default: "event",
		Help: "`event`: one key per change; `row`: the primary key, with tombstones after deletes",
	},
	{
		Name: "format", Type: sink.OneOf("eds", "flat", "debezium"), Default: "eds",
		Help: "`eds`: the change; `flat`: the row; `debezium`: Debezium's envelope without schemas",
	},
	{Name: "headers", Type: sink.Bool{}, Default: "true", Help: "`false` leaves only the header `eds-partitionkey`"},
	{
		Name: "compress", Type: sink.OneOf("zstd", "snappy", "lz4", "gzip", "none"), Default: "zstd",
		Help: "`zstd` (`snappy` if brokers are too old for it), `snappy`, `lz4`, `gzip` or `none`",
	},
	{
		Name: "linger", Type: sink.Duration{Max: time.Minute}, Default: "0s",
		Help: "how long a message waits for others to be sent with",
	},
	{Name: "transactional", Type: sink.Bool{}, Default: "false", Help: "`true` makes each batch one transaction"},
	{Name: "create-topics", Type: sink.Bool{}, Default: "false", Help: "`true` creates topics that do not exist"},
	{
		Name: "partitions", Type: sink.Int{Min: 1, Max: 100_000, None: -1}, Default: "-1",
		Help: "with `create-topics=true`, partitions of a topic; `-1` is the brokers' default",
	},
	{
		Name: "replication", Type: sink.Int{Min: 1, Max: 1000, None: -1}, Default: "-1",
		Help: "with `create-topics=true`, replicas of a topic; `-1` is the brokers' default",
	},
	{
		Name: "timeout", Type: sink.Duration{Min: 100 * time.Millisecond, Max: time.Hour}, Default: "10s",
		Help: "how long brokers may acknowledge nothing before eds reports them; eds keeps waiting",
	},
	{
		Name: "tls", Type: sink.OneOf("false", "true", "skip-verify"), Default: "false",
		Help: "`true`, or `skip-verify`, which takes any certificate",
	},
	{Name: "tls-ca", Type: sink.FilePath{}, Harmless: true, Help: "PEM file with the certificates of trusted authorities"},
	{Name: "tls-cert", Type: sink.FilePath{}, Harmless: true, Help: "PEM file with the client's certificate, for mutual TLS"},
	{Name: "tls-key", Type: sink.FilePath{}, Help: "PEM file with the client's key"},
	{
		Name: "auth", Type: sink.OneOf("plain", "scram-sha-256", "scram-sha-512", "oauthbearer", "aws-msk-iam"),
		DefaultNote: "`plain`, if there is a user", Help: "`plain`, `scram-sha-256`, `scram-sha-512`, `oauthbearer` or `aws-msk-iam`",
	},
	{Name: "token", Type: sink.SecretText{}, Help: "with `auth=oauthbearer`, the token; with `aws-msk-iam`, the session token"},
	{Name: "token-file", Type: sink.FilePath{}, Help: "with `auth=oauthbearer`, a file with the token, read whenever eds needs one"},
	{
		Name: "token-url",
		Help: "with `auth=oauthbearer`, an OAuth 2 endpoint that issues a token for the URL's user and password as client credentials",
	},
	{Name: "token-scope", Help: "the scope to request from `token-url`"},
}

var fields = []sink.Field{
	{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of a broker", Required: true},
	{Name: "Port", Type: "number", Default: "9092", Description: "port of the broker"},
	{Name: "Topic", Type: "string", Description: "topic to write to", Required: true},
}

// buildURL builds a destination URL from the values of the driver's fields.
func buildURL(values map[string]string) (string, []sink.FieldError) {
	f := sink.NewForm(fields, values)
	u := url.URL{Scheme: "kafka", Host: f.HostPort("9092"), Path: "/" + f.Get("Topic")}
	odd := func(r rune) bool { return r >= 0x7f || strings.ContainsRune(",!()*;=&+~", r) }
	if strings.ContainsFunc(f.Get("Hostname"), odd) {
		f.Refuse("Hostname", "it should be one broker's host name or address")
	}
	if topic := f.Get("Topic"); topic != "" {
		if _, err := parseTopic(topic); err != nil {
			f.Refuse("Topic", err.Error())
		}
	}
	if f.Wrong != nil {
		return "", f.Wrong
	}
	return u.String(), nil
}

// open connects to the brokers and checks that eds may write changes.
func open(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
	env = env.Complete()
	c, err := parse(target)
	if err != nil {
		return nil, env.Access.Reject(err)
	}
	c.renew = func() (config, error) { return sink.Renew(env.Access, target, parse) }
	s := newSink(c, env)
	if err := s.Probe(ctx); err != nil {
		_ = s.Close(ctx) // nothing to lose
		return nil, err
	}
	return s, nil
}
