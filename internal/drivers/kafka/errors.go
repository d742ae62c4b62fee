package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/shopmonkeyus/eds/internal/fault"
)

var (
	errNoKey  = errors.New("the change has no primary key, which key=row needs")
	errClosed = errors.New("the sink is closed")
)

// brokerError is an error code that a broker returned. It also has a hint for the operator, which
// may be "".
type brokerError struct {
	code *kerr.Error
	hint string
}

func (e *brokerError) Error() string {
	if e.hint != "" {
		return fmt.Sprintf("%s (%s)", e.hint, e.code.Message)
	}
	return e.code.Message + ": " + e.code.Description
}

func (e *brokerError) Unwrap() error { return e.code }

// The map fatal has a hint for each code that only the operator can fix.
var fatal = map[*kerr.Error]string{
	kerr.SaslAuthenticationFailed: "the brokers refuse the user or the password; check them, and that option auth names the " +
		"mechanism that the user was created for",
	kerr.UnsupportedSaslMechanism: "the brokers do not know the mechanism of option auth; ask for the one that they are set to",
	kerr.IllegalSaslState:         "the brokers expect no credentials here; leave the user out, or name another port",
	kerr.SecurityDisabled:         "the brokers have no security features enabled",
	kerr.TopicAuthorizationFailed: "the user may not write to the topic; allow it the operations DESCRIBE and WRITE on it, and " +
		"CREATE with create-topics=true",
	kerr.ClusterAuthorizationFailed: "the user may not do that in the cluster; allow it IDEMPOTENT_WRITE on the cluster, and " +
		"CREATE with create-topics=true",
	kerr.TransactionalIDAuthorizationFailed: "the user may not use transactions; allow it WRITE and DESCRIBE on transactional ids that " +
		"begin with eds-, or leave transactional=true out",
	kerr.UnknownTopicOrPartition: "the topic does not exist; create it, or add create-topics=true",
	kerr.UnknownTopicID:          "the topic was deleted; create it, or add create-topics=true",
	kerr.InvalidTopicException:   "the brokers refuse the topic's name",
	kerr.PolicyViolation: "a policy of the brokers forbids that; create the topic by hand, or change " +
		"partitions= and replication=",
	kerr.InvalidReplicationFactor: "the brokers cannot create a topic with that replication; set replication= to " +
		"their number at most",
	kerr.InvalidPartitions:           "the brokers cannot create a topic with that many partitions; set partitions=",
	kerr.InvalidConfig:               "the brokers refuse the configuration of the topic",
	kerr.UnsupportedVersion:          "the brokers are too old for that",
	kerr.UnsupportedForMessageFormat: "the topic keeps messages in a format that is too old; upgrade its log.message.format.version",
	kerr.UnsupportedCompressionType:  "the brokers do not know the compression; set compress= to snappy, lz4, gzip or none",
	kerr.InvalidTransactionTimeout:   "the brokers allow no transactions of a minute; raise their transaction.max.timeout.ms",
	kerr.InvalidRequiredAcks:         "the brokers do not accept acks=all",
}

// refusals are those fatal codes that depend on credentials, permissions and topics. Credentials,
// permissions and topics may change while eds runs.
var refusals = map[*kerr.Error]bool{
	kerr.SaslAuthenticationFailed: true, kerr.UnsupportedSaslMechanism: true, kerr.IllegalSaslState: true, kerr.SecurityDisabled: true,
	kerr.TopicAuthorizationFailed: true, kerr.ClusterAuthorizationFailed: true, kerr.TransactionalIDAuthorizationFailed: true,
	kerr.UnknownTopicOrPartition: true, kerr.UnknownTopicID: true,
}

// The map poison has a hint for each code that concerns the content of a message.
var poison = map[*kerr.Error]string{
	kerr.MessageTooLarge:    "the message is larger than the topic's max.message.bytes",
	kerr.RecordListTooLarge: "the message is larger than a segment of the topic",
	kerr.InvalidRecord:      "the brokers refuse the message",
}

// classify converts an error of the client to an error that has a fault class and a text that says
// what to do. The text quotes nothing that a broker wrote, because that could contain anything.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if e := new(fault.Error); errors.As(err, &e) {
		return err
	}
	if code := new(kerr.Error); errors.As(err, &code) {
		if hint, ok := fatal[code]; ok {
			class := fault.Fatal
			if refusals[code] {
				class = fault.Refused
			}
			return fault.Mark(class, &brokerError{code, hint})
		}
		if hint, ok := poison[code]; ok {
			return fault.Mark(fault.Poison, &brokerError{code, hint})
		}
		return &brokerError{code: code}
	}
	if hint := tlsHint(err); hint != "" {
		return fault.Mark(fault.Refused, fmt.Errorf("%s: %w", hint, err))
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the broker closed the connection, as some do on wrong credentials or encryption; check the user, the password, "+
			"auth= and tls=, and the port: %w", err)
	}
	return err
}

// tlsHint returns the remedy for a TLS error, or "" for any other error.
func tlsHint(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		network *net.OpError
	)
	switch {
	case errors.As(err, &host):
		return "the broker's certificate is for another name; use the name that it is for"
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &verify):
		return "the broker's certificate is not trusted; name its authority with tls-ca="
	case errors.As(err, &record):
		return "the broker does not speak TLS at that port; leave tls=true out, or name another port"
	case errors.As(err, &network) && network.Op == "remote error": // a TLS alert
		return "the broker refuses the TLS connection; it may want a client's certificate, with tls-cert= and tls-key="
	}
	return ""
}
