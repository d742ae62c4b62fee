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

// choices are what the URL says.
type choices struct {
	brokers       []string // host:port
	topic         *encode.Route
	byRow         bool // key=row
	format        format
	flat          bool // the format has eds's columns beside the row's
	headers       bool
	compression   []kgo.CompressionCodec // by preference
	linger        time.Duration
	transactional bool
	create        bool
	partitions    int32
	replication   int16
	patience      time.Duration
	idle          time.Duration  // after which a connection is closed
	tls           *tls.Config    // nil: connections are not encrypted
	auth          sasl.Mechanism // nil: no credentials are sent
	renew         func() (choices, error)
}

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL) (choices, error) {
	c := choices{headers: true, compression: codecs["zstd"], partitions: -1, replication: -1, patience: 10 * time.Second, idle: idleTimeout}
	if target.Opaque != "" || target.Fragment != "" {
		return c, errors.New("the kafka url should read kafka://broker:9092,broker:9092/topic; write # as %23")
	}
	var err error
	if c.brokers, err = parseBrokers(target.Host); err != nil {
		return c, err
	}
	query := target.Query()
	topic := strings.Trim(target.Path, "/")
	if named := query.Get("topic"); named != "" {
		if topic != "" && topic != named {
			return c, errors.New("the kafka url names a topic in its path and another one in its option topic; leave one out")
		}
		topic = named
	}
	if c.topic, err = parseTopic(topic); err != nil {
		return c, err
	}
	if err := c.parseMessages(query); err != nil {
		return c, err
	}
	if err := c.parseDelivery(query); err != nil {
		return c, err
	}
	c.renew = func() (choices, error) { return c, nil }
	if c.tls, err = parseTLS(query); err != nil {
		return c, err
	}
	c.auth, err = parseAuth(target, c.brokers, c.tls != nil)
	return c, err
}

// identity returns the brokers and the topic.
func identity(target *url.URL) string {
	topic := strings.Trim(target.Path, "/")
	if topic == "" {
		topic = strings.Trim(target.Query().Get("topic"), "/")
	}
	return sink.JoinIdentity("kafka", sink.HostsIdentity(target.Host, "9092"), topic, nil)
}

// parseBrokers cuts the list of brokers, each a host with or without a port.
func parseBrokers(list string) ([]string, error) {
	var brokers []string
	for broker := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(broker)
		if err != nil {
			host, port = strings.Trim(broker, "[]"), "9092"
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if host == "" || err != nil || n == 0 {
			return nil, errors.New("the kafka url should name brokers like broker1:9092,broker2:9092, each a host and a port from 1 to 65535")
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

// parseMessages reads what messages look like.
func (c *choices) parseMessages(query url.Values) error {
	key, err := sink.ChoiceOf(query, "key", "event", "row")
	if err != nil {
		return err
	}
	c.byRow = key == "row"
	name, err := sink.ChoiceOf(query, "format", "eds", "flat", "debezium")
	if err != nil {
		return err
	}
	c.format, c.flat = formats[name], name == "flat"
	c.headers, err = sink.BoolOf(query, "headers", true)
	return err
}

// parseDelivery reads how messages are sent.
func (c *choices) parseDelivery(query url.Values) error {
	codec, err := sink.ChoiceOf(query, "compress", "zstd", "snappy", "lz4", "gzip", "none")
	if err != nil {
		return err
	}
	c.compression = codecs[codec]
	if c.linger, err = sink.DurationOf(query, "linger", 0, 0, time.Minute); err != nil {
		return err
	}
	if c.patience, err = sink.DurationOf(query, "timeout", c.patience, 100*time.Millisecond, time.Hour); err != nil {
		return err
	}
	if c.transactional, err = sink.BoolOf(query, "transactional", false); err != nil {
		return err
	}
	if c.create, err = sink.BoolOf(query, "create-topics", false); err != nil {
		return err
	}
	partitions, err := c.count(query, "partitions", 100_000)
	if err != nil {
		return err
	}
	replication, err := c.count(query, "replication", 1000)
	c.partitions, c.replication = int32(partitions), int16(replication)
	return err
}

// count reads a number that matters to topics that are made; -1 leaves it to
// the brokers.
func (c *choices) count(query url.Values, name string, most int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return -1, nil
	}
	if !c.create {
		return 0, fmt.Errorf("option %s needs create-topics=true", name)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < -1 || n == 0 || n > most {
		return 0, fmt.Errorf("option %s should be a number from 1 to %d, or -1 for the brokers' default", name, most)
	}
	return n, nil
}
