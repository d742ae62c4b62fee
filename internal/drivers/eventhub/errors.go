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

// refusal is an error that Event Hubs answered, by its own words no more than its
// name and what support asks for.
type refusal struct {
	text  string
	cause error
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.cause }

const (
	hintUnauthorized = "Event Hubs refuse the credentials; check SharedAccessKeyName and SharedAccessKey, that the policy has the claim Send and is one of this hub or of the namespace, and this machine's clock; with Entra ID, that the identity has the role Azure Event Hubs Data Sender"
	hintMissing      = "the hub does not exist; make it, or correct EntityPath="
)

// fatal are the conditions that only a person can do something about.
var fatal = map[amqp.ErrCond]string{
	amqp.ErrCondUnauthorizedAccess:  hintUnauthorized,
	amqp.ErrCondNotFound:            hintMissing,
	amqp.ErrCondResourceDeleted:     "the hub was deleted; make it again, or correct EntityPath=",
	"com.microsoft:entity-disabled": "the hub is disabled; set its status to Active",
	amqp.ErrCondNotAllowed:          "the hub does not allow that; check that it is an event hub, and its status",
}

// poison are the conditions that are about what is in an event.
var poison = map[amqp.ErrCond]string{
	amqp.ErrCondMessageSizeExceeded:       hintTooLarge,
	"com.microsoft:argument-error":        "Event Hubs refuse the event",
	"com.microsoft:argument-out-of-range": "Event Hubs refuse the event",
	amqp.ErrCondInvalidField:              "Event Hubs refuse the event",
}

const hintTooLarge = "the event is larger than Event Hubs take in the namespace's tier; raise the tier, or the hub's maximum message size, and start eds again"

// busy is what a throttled namespace answers: it asks for some seconds of quiet.
const (
	busy      = amqp.ErrCond("com.microsoft:server-busy")
	busyPause = 4 * time.Second
)

// quoted is how the client tells, in the text of an error that hides its cause,
// what the service has answered. It does so where it does not know the answer's
// condition, and connects anew.
var quoted = regexp.MustCompile(`^(?:\([a-z]+\): )?\*Error\{Condition: ([a-z0-9:._-]+),`)

// conditionOf returns the condition that the service has named in an answer to a
// message, or "".
func conditionOf(err error) amqp.ErrCond {
	var condition *amqp.Error
	var link *amqp.LinkError
	if errors.As(err, &link) {
		return "" // the link's end is no answer
	}
	if errors.As(err, &condition) {
		return condition.Condition
	}
	if named := quoted.FindStringSubmatch(err.Error()); named != nil {
		return amqp.ErrCond(named[1])
	}
	return ""
}

// failed is how the client tells, in the same way, what $cbs has answered.
var failed = regexp.MustCompile(`^(?:\([a-z]+\): )?rpc: failed, status code ([0-9]{3}) `)

// statusOf returns the status that $cbs has answered, or 0.
func statusOf(err error) int {
	var status interface{ RPCCode() int }
	if errors.As(err, &status) {
		return status.RPCCode()
	}
	if named := failed.FindStringSubmatch(err.Error()); named != nil {
		code, _ := strconv.Atoi(named[1]) // three digits
		return code
	}
	return 0
}

// refused reports whether err is about one message, and leaves its link as it is.
func refused(err error) bool {
	condition := conditionOf(err)
	return condition == busy || poison[condition] != "" || errors.Is(err, azeventhubs.ErrEventDataTooLarge)
}

// missing reports whether err says that there is no such hub.
func missing(err error) bool {
	var condition *amqp.Error
	return errors.As(err, &condition) && condition.Condition == amqp.ErrCondNotFound || err != nil && statusOf(err) == http.StatusNotFound
}

// explain gives an error of the client its class, and a text that says what to
// do. Texts of the service are left out: they may say anything.
func (s *session) explain(err error) error {
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
		return fault.Mark(fault.Poison, &refusal{hintTooLarge, err})
	case errors.As(err, &identity):
		return identity.explain()
	case errors.As(err, &condition):
		return explainCondition(condition)
	case statusOf(err) != 0:
		return explainStatus(err, statusOf(err))
	case poison[conditionOf(err)] != "":
		condition := conditionOf(err)
		return fault.Mark(fault.Poison, &refusal{poison[condition] + " (" + string(condition) + tracking(err) + ")", err})
	case errors.As(err, &coded) && coded.Code == azeventhubs.ErrorCodeUnauthorizedAccess:
		return fault.Mark(fault.Refused, &refusal{hintUnauthorized + " (" + string(amqp.ErrCondUnauthorizedAccess) + tracking(err) + ")", err})
	}
	return s.explainLoss(err)
}

func explainCondition(e *amqp.Error) error {
	named := " (" + string(e.Condition) + tracking(e) + ")"
	if hint, ok := fatal[e.Condition]; ok {
		return fault.Mark(fault.Refused, &refusal{hint + named, e})
	}
	if hint, ok := poison[e.Condition]; ok {
		return fault.Mark(fault.Poison, &refusal{hint + named, e})
	}
	if e.Condition == busy {
		err := &refusal{"the namespace is busy: it has reached its throughput units, or is being throttled" + named, e}
		return &fault.Error{Class: fault.Transient, RetryAfter: busyPause, Err: err}
	}
	return &refusal{"Event Hubs answer " + string(e.Condition) + tracking(e), e}
}

// explainStatus explains what $cbs answers to a token.
func explainStatus(err error, code int) error {
	named := fmt.Sprintf(" (status %d%s)", code, tracking(err))
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Mark(fault.Refused, &refusal{hintUnauthorized + named, err})
	case http.StatusNotFound, http.StatusGone:
		return fault.Mark(fault.Refused, &refusal{hintMissing + named, err})
	}
	return &refusal{"Event Hubs do not take the token now" + named, err}
}

// explainLoss explains that there is no connection, or none any more.
func (s *session) explainLoss(err error) error {
	cause := s.lastFailure()
	if cause == nil {
		if network := net.Error(nil); errors.As(err, &network) || errors.Is(err, io.EOF) {
			return fmt.Errorf("the connection to %s was lost: %w", s.host, err)
		}
		return &refusal{"the connection to " + s.host + " was lost" + tracking(err), err}
	}
	if hint := misconfigured(cause); hint != "" {
		return fault.Mark(fault.Refused, fmt.Errorf("connect to %s: %s: %w", s.host, hint, cause))
	}
	if lookup := new(net.DNSError); errors.As(cause, &lookup) && lookup.IsNotFound {
		return fmt.Errorf("connect to %s: no such host; check the namespace's name: %w", s.host, cause)
	}
	return fmt.Errorf("connect to %s: %w", s.host, cause)
}

// misconfigured tells what is wrong with encryption, where that is it.
func misconfigured(err error) string {
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
		return "the certificate is not trusted; where a proxy or gateway has its own, name its authority by tls-ca="
	case errors.As(err, &record):
		return "the other side does not speak TLS at that port"
	}
	return ""
}

var trackingID = regexp.MustCompile(`TrackingId:[A-Za-z0-9_-]{1,80}`)

// tracking returns the id by which support finds an answer, where it has one.
func tracking(err error) string {
	if id := trackingID.FindString(err.Error()); id != "" {
		return ", " + id
	}
	return ""
}

// identityError is an error of a credential of Entra ID. Its own text may hold
// the answer to a request for a token, so nobody sees it.
type identityError struct {
	err    error
	unmade bool // there is no credential to ask with
}

// NonRetriable tells the client to hand the error on as it is.
func (e *identityError) NonRetriable() {}
func (e *identityError) Error() string { return "Entra ID gives no token" }
func (e *identityError) Unwrap() error { return e.err }

var entraCode = regexp.MustCompile(`AADSTS[0-9]{2,10}`)

// explain gives the error its class: what Entra ID answers is for a person, that
// it does not is to be waited for.
func (e *identityError) explain() error {
	if e.unmade || errors.As(e.err, new(*fs.PathError)) { // whose cause looks like a network's
		return fault.Mark(fault.Refused, &refusal{"there is no credential to ask Entra ID with: " + firstLine(e.err), e.err})
	}
	if network := net.Error(nil); errors.As(e.err, &network) || errors.Is(e.err, context.Canceled) {
		return &refusal{"Entra ID can not be reached", e.err}
	}
	named := ""
	if code := entraCode.FindString(e.err.Error()); code != "" {
		named = " (" + code + ")"
	}
	refused := new(azidentity.AuthenticationFailedError)
	if !errors.As(e.err, &refused) {
		return fault.Mark(fault.Refused, &refusal{"there is no credential to ask Entra ID with: " + firstLine(e.err), e.err})
	}
	if r := refused.RawResponse; r != nil && r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout {
		return fault.Mark(fault.Refused, &refusal{fmt.Sprintf("Entra ID refuses the identity; check AZURE_TENANT_ID, AZURE_CLIENT_ID and its secret or certificate%s", named), e.err})
	}
	return &refusal{"Entra ID gives no token now" + named, e.err}
}

// firstLine returns the first line of an error's text, without the path if it is
// the file system's.
func firstLine(err error) string {
	if e := new(fs.PathError); errors.As(err, &e) {
		err = e.Err
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
