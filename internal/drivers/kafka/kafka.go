// Package kafka is the destination that writes every change as a message to
// Apache Kafka and what speaks its protocol: Redpanda, Amazon MSK, Confluent,
// WarpStream.
package kafka

import (
	"context"
	"net/url"
	"strings"

	"github.com/shopmonkeyus/eds/internal/sink"
)

// Driver returns the description of the destination.
func Driver() sink.Driver {
	return sink.Driver{
		Name: "kafka", Title: "Apache Kafka", Schemes: []string{"kafka"},
		Example:  "kafka://broker1:9092,broker2:9092/topic",
		Summary:  "Every change as a message in a topic of Kafka, in the order of its row.",
		Help:     help,
		Options:  options,
		Fields:   fields,
		Limits:   limits,
		URL:      urlOf,
		Identity: identity,
		Open:     open,
		Borrows:  borrows,
	}
}

// borrows finds what brokers are sent of this machine: brokers can pass a signature for
// MSK on.
func borrows(target *url.URL) string {
	if target.Query().Get("auth") == "aws-msk-iam" {
		return "auth=aws-msk-iam"
	}
	return sink.FirstOption(target, "token-file")
}

var limits = sink.Limits{Rows: 10_000, Bytes: 16 << 20}

const help = `The URL names brokers, one at least, and a topic:

    kafka://broker1:9092,broker2:9092/topic
    kafka://user:password@broker:9092/topic?tls=true&auth=scram-sha-512

The topic may be a template over the change, as eds.{{.table}} for a topic a
table; what a topic's name can not hold becomes _. The topic has to be there,
unless create-topics=true. eds needs to be allowed to DESCRIBE and WRITE it; to
CREATE it where it is to be made; DESCRIBE_CONFIGS lets eds learn how large a
message may be. Brokers older than 3.0 want IDEMPOTENT_WRITE on the cluster too.

The value is the change as JSON. The key is
dbchange.<table>.<operation>.<company|NONE>.<location|NONE>.<change id>. Messages
of one row have one partition, fnv32a(hex(xxhash64(p))) mod partitions, where p is
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
The producer is idempotent: what it sends again is not stored again. After a
crash of eds the last batch comes again, in the same order: at least once. With
transactional=true a batch is one transaction, and consumers that read committed
messages never see a part of one. A broker that is away is waited for. A message
that is larger than its topic's max.message.bytes goes to the dead letters.

Secrets belong in the environment: password ${KAFKA_PASSWORD} in the URL. With
auth=aws-msk-iam the user is the access key and the password the secret key; left
out, the AWS SDK finds them: in the environment, profiles, web identities, and
the roles of containers and instances. With auth=oauthbearer, token= or token-file= hold a token, or token-url= names
where the user and password, as client id and secret, are changed for one.

Bytes that are not UTF-8 become U+FFFD, the rule "invalid-utf8". An import adds a
message for each row, an INSERT with "imported": true. What is there stays.`

var options = []sink.Option{
	{Name: "topic", Description: "the topic, where it is not the URL's path; may be a template like eds.{{.table}}"},
	{Name: "key", Default: "event", Description: "event: a key for each change; row: the primary key, with tombstones after deletes"},
	{Name: "format", Default: "eds", Description: "eds: the change; flat: the row; debezium: Debezium's envelope"},
	{Name: "headers", Default: "true", Description: "false leaves only the header eds-partitionkey"},
	{Name: "compress", Default: "zstd", Description: "zstd, snappy, lz4, gzip or none"},
	{Name: "linger", Default: "0s", Description: "how long a message waits for others to be sent with"},
	{Name: "transactional", Default: "false", Description: "true makes each batch one transaction"},
	{Name: "create-topics", Default: "false", Description: "true makes topics that do not exist"},
	{Name: "partitions", Default: "-1", Description: "of topics that are made; -1 is the brokers' own default"},
	{Name: "replication", Default: "-1", Description: "of topics that are made; -1 is the brokers' own default"},
	{Name: "timeout", Default: "10s", Description: "how long brokers may acknowledge nothing before eds reports them; it waits on all the same"},
	{Name: "tls", Default: "false", Description: "true; or skip-verify, which takes any certificate"},
	{Name: "tls-ca", Description: "file with the certificates of trusted authorities, PEM"},
	{Name: "tls-cert", Description: "file with the client's certificate, PEM, for mutual TLS"},
	{Name: "tls-key", Description: "file with the client's key, PEM"},
	{Name: "auth", Default: "plain, if there is a user", Description: "plain, scram-sha-256, scram-sha-512, oauthbearer or aws-msk-iam"},
	{Name: "token", Description: "with auth=oauthbearer, the token; with aws-msk-iam, the session token"},
	{Name: "token-file", Description: "with auth=oauthbearer, a file with the token, read whenever one is needed"},
	{Name: "token-url", Description: "with auth=oauthbearer, an OAuth 2 token endpoint, for client credentials"},
	{Name: "token-scope", Description: "the scope to ask token-url for"},
}

var fields = []sink.Field{
	{Name: "Hostname", Type: "string", Default: "localhost", Description: "host name or address of a broker", Required: true},
	{Name: "Port", Type: "number", Default: "9092", Description: "port of the broker"},
	{Name: "Topic", Type: "string", Description: "topic to write to", Required: true},
}

// urlOf makes a URL of the values of the driver's fields.
func urlOf(values map[string]string) (string, []sink.FieldError) {
	f := sink.NewForm(fields, values)
	u := url.URL{Scheme: "kafka", Host: f.HostPort("9092"), Path: "/" + f.Get("Topic")}
	if strings.ContainsFunc(f.Get("Hostname"), func(r rune) bool { return r >= 0x7f || strings.ContainsRune(",!()*;=&+~", r) }) {
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

// open connects, and makes sure that changes can be written.
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
	s := newSink(c, env)
	if err := s.Probe(ctx); err != nil {
		_ = s.Close(ctx) // it has nothing to say
		return nil, err
	}
	return s, nil
}
