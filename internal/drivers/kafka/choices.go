package kafka

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/shopmonkeyus/eds/internal/encode"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// choices are what the URL says.
type choices struct {
	brokers       []string // host:port
	topic         *encode.Route
	byRow         bool // key=row
	format        format
	headers       bool
	compression   []kgo.CompressionCodec // by preference
	linger        time.Duration
	transactional bool
	create        bool
	partitions    int32
	replication   int16
	patience      time.Duration
	security      []kgo.Opt
}

// parse reads the URL. Errors hold none of its secrets.
func parse(target *url.URL) (choices, error) {
	c := choices{headers: true, compression: codecs["zstd"], partitions: -1, replication: -1, patience: 10 * time.Second}
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
	c.security, err = parseSecurity(target, c.brokers)
	return c, err
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
	key, err := oneOf(query, "key", "event", "row")
	if err != nil {
		return err
	}
	c.byRow = key == "row"
	name, err := oneOf(query, "format", "eds", "flat", "debezium")
	if err != nil {
		return err
	}
	c.format = formats[name]
	c.headers, err = boolean(query, "headers", true)
	return err
}

// parseDelivery reads how messages are sent.
func (c *choices) parseDelivery(query url.Values) error {
	codec, err := oneOf(query, "compress", "zstd", "snappy", "lz4", "gzip", "none")
	if err != nil {
		return err
	}
	c.compression = codecs[codec]
	if c.linger, err = duration(query, "linger", 0, 0, time.Minute); err != nil {
		return err
	}
	if c.patience, err = duration(query, "timeout", c.patience, 100*time.Millisecond, time.Hour); err != nil {
		return err
	}
	if c.transactional, err = boolean(query, "transactional", false); err != nil {
		return err
	}
	if c.create, err = boolean(query, "create-topics", false); err != nil {
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
		return 0, fmt.Errorf("option %s is %q; it should be a number from 1 to %d, or -1 for the brokers' default", name, text, most)
	}
	return n, nil
}

// oneOf reads an option that has one of a few values; the first is its default.
func oneOf(query url.Values, name string, values ...string) (string, error) {
	text := query.Get(name)
	if text == "" {
		return values[0], nil
	}
	for _, v := range values {
		if text == v {
			return v, nil
		}
	}
	hint := ""
	if best := sink.Nearest(text, values); best != "" {
		hint = fmt.Sprintf("; did you mean %q?", best)
	}
	return "", fmt.Errorf("option %s is %q; it should be %s%s", name, text, alternatives(values), hint)
}

func alternatives(values []string) string {
	last := len(values) - 1
	return strings.Join(values[:last], ", ") + " or " + values[last]
}

func boolean(query url.Values, name string, otherwise bool) (bool, error) {
	switch text := query.Get(name); text {
	case "":
		return otherwise, nil
	case "true", "false":
		return text == "true", nil
	default:
		return false, fmt.Errorf("option %s is %q; it should be true or false", name, text)
	}
}

func duration(query url.Values, name string, otherwise, least, most time.Duration) (time.Duration, error) {
	text := query.Get(name)
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("option %s is %q; it should be a duration like 5ms or 10s, from %v to %v", name, text, least, most)
	}
	return d, nil
}
