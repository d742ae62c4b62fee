package eventhub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"
	"github.com/Azure/go-amqp"

	"github.com/shopmonkeyus/eds/internal/fault"
)

var errClosed = errors.New("the sink is closed")

// serviceError is an error that Event Hubs returned. Its text contains the condition's name and the
// tracking id for Azure support. It quotes nothing else from the service.
type serviceError struct {
	text  string
	cause error
}

func (e *serviceError) Error() string { return e.text }
func (e *serviceError) Unwrap() error { return e.cause }

const (
	hintUnauthorized = "Event Hubs refuses the credentials; check SharedAccessKeyName and SharedAccessKey, that the policy has the claim " +
		"Send and is one of this hub or of the namespace, and this machine's clock; with Entra ID, that the identity has the role Azure " +
		"Event Hubs Data Sender"
	hintMissing = "the hub does not exist; create it, or correct EntityPath="
)

// The map fatal has a hint for each condition that only the operator can fix.
var fatal = map[amqp.ErrCond]string{
	amqp.ErrCondUnauthorizedAccess:  hintUnauthorized,
	amqp.ErrCondNotFound:            hintMissing,
	amqp.ErrCondResourceDeleted:     "the hub was deleted; create it again, or correct EntityPath=",
	"com.microsoft:entity-disabled": "the hub is disabled; set its status to Active",
	amqp.ErrCondNotAllowed:          "the hub does not allow that; check that it is an event hub, and its status",
}

// The map poison has a hint for each condition that concerns the content of an event.
var poison = map[amqp.ErrCond]string{
	amqp.ErrCondMessageSizeExceeded:       hintTooLarge,
	"com.microsoft:argument-error":        "Event Hubs refuses the event",
	"com.microsoft:argument-out-of-range": "Event Hubs refuses the event",
	amqp.ErrCondInvalidField:              "Event Hubs refuses the event",
}

const hintTooLarge = "the event is larger than Event Hubs accepts in the namespace's tier; raise the tier, or the hub's maximum message " +
	"size, and start eds again"

// The constant busy is the condition of a throttled namespace. The service asks clients of such a
// namespace to wait some seconds, so eds waits for the time busyPause.
const (
	busy      = amqp.ErrCond("com.microsoft:server-busy")
	busyPause = 4 * time.Second
)

// The pattern quoted matches a condition in the text of a client error that does not wrap its
// cause. The client returns such an error for a condition that it does not know, and then
// reconnects.
var quoted = regexp.MustCompile(`^(?:\([a-z]+\): )?\*Error\{Condition: ([a-z0-9:._-]+),`)

// conditionOf returns the condition in the service's reply to a message, or "" if err is not such a
// reply.
func conditionOf(err error) amqp.ErrCond {
	var condition *amqp.Error
	var link *amqp.LinkError
	if errors.As(err, &link) {
		return "" // a link that ended is not a reply to a message
	}
	if errors.As(err, &condition) {
		return condition.Condition
	}
	if named := quoted.FindStringSubmatch(err.Error()); named != nil {
		return amqp.ErrCond(named[1])
	}
	return ""
}

// The pattern failed matches the status of a $cbs reply (the reply to a token) in the text of a
// client error that does not wrap its cause.
var failed = regexp.MustCompile(`^(?:\([a-z]+\): )?rpc: failed, status code ([0-9]{3}) `)

// statusOf returns the HTTP-like status of a $cbs reply, or 0 if err is not such a reply.
func statusOf(err error) int {
	var status interface{ RPCCode() int }
	if errors.As(err, &status) {
		return status.RPCCode()
	}
	if named := failed.FindStringSubmatch(err.Error()); named != nil {
		code, _ := strconv.Atoi(named[1]) // always valid: named[1] has three digits
		return code
	}
	return 0
}

// refused reports whether err means that Event Hubs rejected a single message and left
// the link open.
func refused(err error) bool {
	condition := conditionOf(err)
	return condition == busy || poison[condition] != "" || errors.Is(err, azeventhubs.ErrEventDataTooLarge)
}

// The function named missing reports whether err means that the hub does not exist.
func missing(err error) bool {
	var condition *amqp.Error
	return errors.As(err, &condition) && condition.Condition == amqp.ErrCondNotFound || err != nil && statusOf(err) == http.StatusNotFound
}

// classify converts an error of the client to an error that has a fault class and a text that says
// what to do. The text quotes nothing from the service except names, codes and the tracking id,
// because other parts of a reply could contain anything.
func (s *hubSession) classify(err error) error {
	if err == nil {
		return nil
	}
	if e := new(fault.Error); errors.As(err, &e) {
		return err
	}
	var (
		condition *amqp.Error
		coded     *azeventhubs.Error
		identity  *identityError
	)
	switch {
	case errors.Is(err, errClosed), errors.Is(err, errSilent), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, azeventhubs.ErrEventDataTooLarge):
		return fault.Mark(fault.Poison, &serviceError{hintTooLarge, err})
	case errors.As(err, &identity):
		return identity.classify()
	case errors.As(err, &condition):
		return classifyCondition(condition)
	case statusOf(err) != 0:
		return classifyStatus(err, statusOf(err))
	case poison[conditionOf(err)] != "":
		condition := conditionOf(err)
		return fault.Mark(fault.Poison, &serviceError{poison[condition] + " (" + string(condition) + tracking(err) + ")", err})
	case errors.As(err, &coded) && coded.Code == azeventhubs.ErrorCodeUnauthorizedAccess:
		return fault.Mark(fault.Refused, &serviceError{hintUnauthorized + " (" + string(amqp.ErrCondUnauthorizedAccess) + tracking(err) +
			")", err})
	}
	return s.classifyLoss(err)
}

func classifyCondition(e *amqp.Error) error {
	named := " (" + string(e.Condition) + tracking(e) + ")"
	if hint, ok := fatal[e.Condition]; ok {
		return fault.Mark(fault.Refused, &serviceError{hint + named, e})
	}
	if hint, ok := poison[e.Condition]; ok {
		return fault.Mark(fault.Poison, &serviceError{hint + named, e})
	}
	if e.Condition == busy {
		err := &serviceError{"the namespace is busy: it has reached its throughput units, or is being throttled" + named, e}
		return &fault.Error{Class: fault.Transient, RetryAfter: busyPause, Err: err}
	}
	return &serviceError{"Event Hubs answers " + string(e.Condition) + tracking(e), e}
}

// classifyStatus classifies the rejection of a token by the status code of the $cbs reply.
func classifyStatus(err error, code int) error {
	named := fmt.Sprintf(" (status %d%s)", code, tracking(err))
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Mark(fault.Refused, &serviceError{hintUnauthorized + named, err})
	case http.StatusNotFound, http.StatusGone:
		return fault.Mark(fault.Refused, &serviceError{hintMissing + named, err})
	}
	return &serviceError{"Event Hubs does not accept the token now" + named, err}
}

// classifyLoss describes a failed dial or a lost connection. It returns a Refused error if only the
// operator can fix the cause.
func (s *hubSession) classifyLoss(err error) error {
	cause := s.lastDialError()
	if cause == nil {
		if network := net.Error(nil); errors.As(err, &network) || errors.Is(err, io.EOF) {
			return fmt.Errorf("the connection to %s was lost: %w", s.host, err)
		}
		return &serviceError{"the connection to " + s.host + " was lost" + tracking(err), err}
	}
	if hint := tlsHint(cause); hint != "" {
		return fault.Mark(fault.Refused, fmt.Errorf("connect to %s: %s: %w", s.host, hint, cause))
	}
	if lookup := new(net.DNSError); errors.As(cause, &lookup) && lookup.IsNotFound {
		return fmt.Errorf("connect to %s: no such host; check the namespace's name: %w", s.host, cause)
	}
	return fmt.Errorf("connect to %s: %w", s.host, cause)
}

// tlsHint returns the remedy for a TLS error, or "" for any other error.
func tlsHint(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &host):
		return "the certificate is for another name; use the namespace's own"
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &verify):
		return "the certificate is not trusted; if a proxy or gateway has its own, name its authority with tls-ca="
	case errors.As(err, &record):
		return "the server does not speak TLS at that port"
	}
	return ""
}

var trackingID = regexp.MustCompile(`TrackingId:[A-Za-z0-9_-]{1,80}`)

// tracking returns a comma and the tracking id that err contains, or "" if err contains no tracking
// id. Azure support asks for the id.
func tracking(err error) string {
	if id := trackingID.FindString(err.Error()); id != "" {
		return ", " + id
	}
	return ""
}

// identityError is an error of an Entra ID credential. The wrapped error may quote the reply to a
// token request, so Error does not include it.
type identityError struct {
	err    error
	unmade bool // the credential could not be created
}

// NonRetriable makes the client return the error unchanged.
func (e *identityError) NonRetriable() {}
func (e *identityError) Error() string { return "Entra ID gives no token" }
func (e *identityError) Unwrap() error { return e.err }

var entraCode = regexp.MustCompile(`AADSTS[0-9]{2,10}`)

// classify adds the fault class to the error. If Entra ID refuses the identity, the operator has to
// act, so the class is Refused. An outage is retried.
func (e *identityError) classify() error {
	if e.unmade || errors.As(e.err, new(*fs.PathError)) { // it looks like a net.Error, too
		return fault.Mark(fault.Refused, &serviceError{"there is no credential to ask Entra ID with: " + firstLine(e.err), e.err})
	}
	if network := net.Error(nil); errors.As(e.err, &network) || errors.Is(e.err, context.Canceled) {
		return &serviceError{"Entra ID cannot be reached", e.err}
	}
	named := ""
	if code := entraCode.FindString(e.err.Error()); code != "" {
		named = " (" + code + ")"
	}
	refused := new(azidentity.AuthenticationFailedError)
	if !errors.As(e.err, &refused) {
		return fault.Mark(fault.Refused, &serviceError{"there is no credential to ask Entra ID with: " + firstLine(e.err), e.err})
	}
	if r := refused.RawResponse; r != nil && r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests &&
		r.StatusCode != http.StatusRequestTimeout {
		return fault.Mark(fault.Refused, &serviceError{fmt.Sprintf("Entra ID refuses the identity; check AZURE_TENANT_ID, AZURE_CLIENT_ID "+
			"and its secret or certificate%s", named), e.err})
	}
	return &serviceError{"Entra ID gives no token now" + named, e.err}
}

// firstLine returns the first line of an error's text. For a file system error, it leaves out the
// path.
func firstLine(err error) string {
	if e := new(fs.PathError); errors.As(err, &e) {
		err = e.Err
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
