package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/encode"
)

// config is a parsed destination URL.
type config struct {
	brokers       []string // host:port
	topic         *encode.Route
	byRow         bool // the key is the row's primary key, not one per change
	format        valueFormatter
	flat          bool // the format adds columns of eds to the columns of the row
	headers       bool
	compression   []kgo.CompressionCodec // in order of preference
	linger        time.Duration
	transactional bool
	create        bool
	partitions    int32
	replication   int16
	patience      time.Duration
	idle          time.Duration  // how long a connection without traffic stays open
	tls           *tls.Config    // nil if connections are not encrypted
	auth          sasl.Mechanism // nil if no credentials are sent
	// The function renew returns the config with the current certificates, keys and credentials.
	renew func() (config, error)
}

// parse reads a destination URL. An error contains no secret of the URL.
func parse(target *url.URL) (config, error) {
	c := config{idle: idleTimeout}
	v, err := sink.ParseOptions(target, options)
	if err != nil {
		return c, err
	}
	if target.Opaque != "" || target.Fragment != "" {
		return c, errors.New("the kafka url should read kafka://broker:9092,broker:9092/topic; write # as %23")
	}
	if c.brokers, err = parseBrokers(target.Host); err != nil {
		return c, err
	}
	topic := strings.Trim(target.Path, "/")
	if named := v.Text("topic"); named != "" {
		if topic != "" && topic != named {
			return c, errors.New("the kafka url names a topic in its path and another one in its option topic; leave one out")
		}
		topic = named
	}
	if c.topic, err = parseTopic(topic); err != nil {
		return c, err
	}
	c.byRow, c.headers = v.Text("key") == "row", v.Bool("headers")
	c.format, c.flat = formats[v.Text("format")], v.Text("format") == "flat"
	c.compression, c.linger, c.patience = codecs[v.Text("compress")], v.Duration("linger"), v.Duration("timeout")
	c.transactional, c.create = v.Bool("transactional"), v.Bool("create-topics")
	if err := c.parseTopicCounts(v); err != nil {
		return c, err
	}
	c.renew = func() (config, error) { return c, nil }
	if c.tls, err = parseTLS(v); err != nil {
		return c, err
	}
	c.auth, err = parseAuth(v, target.User, c.brokers, c.tls != nil)
	return c, err
}

// identity returns the identity of the destination: the brokers and the topic, without credentials.
func identity(target *url.URL) string {
	topic := strings.Trim(target.Path, "/")
	if topic == "" {
		topic = strings.Trim(target.Query().Get("topic"), "/")
	}
	return sink.JoinIdentity("kafka", sink.HostsIdentity(target.Host, "9092"), topic, nil)
}

// parseBrokers parses a comma-separated list of brokers. Each broker is a host with an optional
// port. The results have the form host:port, with 9092 as the default port.
func parseBrokers(list string) ([]string, error) {
	var brokers []string
	for broker := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(broker)
		if err != nil {
			host, port = strings.Trim(broker, "[]"), "9092"
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if host == "" || err != nil || n == 0 {
			return nil, errors.New("the kafka url should name brokers like broker1:9092,broker2:9092, " +
				"each a host and a port from 1 to 65535")
		}
		brokers = append(brokers, net.JoinHostPort(host, port))
	}
	return brokers, nil
}

var codecs = map[string][]kgo.CompressionCodec{
	"zstd":   {kgo.ZstdCompression().WithLevel(1), kgo.SnappyCompression()},
	"snappy": {kgo.SnappyCompression()},
	"lz4":    {kgo.Lz4Compression()},
	"gzip":   {kgo.GzipCompression()},
	"none":   {kgo.NoCompression()},
}

// parseTopicCounts reads the numbers of partitions and replicas for topics that eds creates. The
// value -1 selects the default of the brokers.
func (c *config) parseTopicCounts(v sink.Values) error {
	for _, name := range []string{"partitions", "replication"} {
		if v.Given(name) && !c.create {
			return fmt.Errorf("option %s needs create-topics=true", name)
		}
	}
	c.partitions, c.replication = int32(v.Int("partitions")), int16(v.Int("replication"))
	return nil
}
