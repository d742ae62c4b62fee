package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/shopmonkeyus/eds/internal/fault"
)

var errClosed = errors.New("the sink is closed")

// responseError is an error that the store returned. Its text does not include the store's message.
// The message may contain names of objects, and these contain keys of rows.
type responseError struct {
	status        int
	code, request string
	hint          string
}

func (e *responseError) Error() string {
	text := fmt.Sprintf("the store returned %d %s", e.status, e.code)
	if e.code == "" {
		text = fmt.Sprintf("the store returned %d %s", e.status, http.StatusText(e.status))
	}
	if e.hint != "" {
		text = e.hint + " (" + text + ")"
	}
	if e.request != "" {
		text += ", request " + e.request
	}
	return text
}

// regionError means that the bucket is in another region than the request assumed.
type regionError struct {
	region string // the bucket's region, or "" if the store did not name it
	err    error
}

func (e *regionError) Error() string { return e.err.Error() }
func (e *regionError) Unwrap() error { return e.err }

// The map fatal has a hint for each error code that only the operator can fix.
var fatal = map[string]string{
	"NoSuchBucket":      "the bucket does not exist; create it, or correct the url",
	"InvalidBucketName": "the store does not accept the bucket's name; correct the url",
	"AccessDenied": "access is denied; allow s3:PutObject on the bucket's prefix, and kms:GenerateDataKey on the key " +
		"that objects are encrypted with",
	"Forbidden": "access is denied; allow s3:PutObject on the bucket's prefix, and kms:GenerateDataKey on the key " +
		"that objects are encrypted with",
	"AllAccessDisabled":  "all access to the bucket is disabled",
	"AccountProblem":     "there is a problem with the account; ask its owner",
	"NotSignedUp":        "the account is not signed up for the store",
	"UserSuspended":      "the account is suspended",
	"UserProjectMissing": "the bucket lets the requester pay, which eds does not",
	"InvalidAccessKeyId": "the access key is not known; correct access-key-id=, or the keys that the AWS " +
		"SDK's own chain finds",
	"SignatureDoesNotMatch": "the secret key does not fit the access key; correct secret-access-key=, writing + as %2B and / as " +
		"%2F, or put it in the environment",
	"InvalidToken":         "the session token is not valid; correct session-token=, or leave it out",
	"TokenRefreshRequired": "the session token must be renewed",
	"MethodNotAllowed":     "the store does not allow that on the bucket",
	"NotImplemented": "the store does not support one of the options: check sse=, acl=, " +
		"storage-class= and checksums=",
	"InvalidArgument": "the store refuses one of the options: check sse=, kms-key=, acl=, " +
		"storage-class= and region=",
	"InvalidRequest": "the store refuses one of the options: check sse=, kms-key=, acl=, " +
		"storage-class= and checksums=",
	"InvalidStorageClass":                            "the store has no such storage class; correct storage-class=",
	"InvalidEncryptionAlgorithmError":                "the store does not know the encryption; correct sse=",
	"ServerSideEncryptionConfigurationNotFoundError": "the store has no server-side encryption; leave sse= out",
	"AccessControlListNotSupported":                  "the bucket accepts no ACLs; leave acl= out",
	"KMS.NotFoundException":                          "there is no such KMS key; correct kms-key=",
	"KMS.DisabledException":                          "the KMS key is disabled; enable it, or name another with kms-key=",
	"KMS.KMSInvalidStateException":                   "the KMS key cannot be used in its state; enable it, or name another with kms-key=",
	"KMS.InvalidKeyUsageException":                   "the KMS key does not encrypt; name another with kms-key=",
	"KMSNotConfigured":                               "the store has no key management; leave sse= and kms-key= out",
}

// refusals are those fatal codes that depend on keys, permissions and the bucket. Keys, permissions
// and the bucket may change while eds runs.
var refusals = map[string]bool{
	"NoSuchBucket": true, "AccessDenied": true, "Forbidden": true, "AllAccessDisabled": true, "AccountProblem": true, "NotSignedUp": true,
	"UserSuspended":      true,
	"InvalidAccessKeyId": true, "SignatureDoesNotMatch": true, "InvalidToken": true, "TokenRefreshRequired": true,
	"KMS.NotFoundException": true, "KMS.DisabledException": true, "KMS.KMSInvalidStateException": true,
}

// otherRegion holds the error codes with which stores report that the bucket is in another region.
var otherRegion = map[string]bool{
	"PermanentRedirect": true, "AuthorizationHeaderMalformed": true, "IllegalLocationConstraintException": true, "IncorrectEndpoint": true,
	"MovedPermanently": true,
}

// The map poison has a hint for each error code that concerns a single object.
var poison = map[string]string{
	"KeyTooLongError": "the object's name is too long for the store",
	"EntityTooLarge":  "the object is too large for the store",
}

// classify converts an error of the client to an error that has a fault class and a text that says
// what to do. The text does not contain the names of objects.
func (s *bucketStore) classify(err error) error {
	if err == nil {
		return nil
	}
	if e := new(fault.Error); errors.As(err, &e) { // the credentials provider has classified it
		return e
	}
	var api smithy.APIError
	var response *awshttp.ResponseError
	if errors.As(err, &api) || errors.As(err, &response) && response.HTTPStatusCode() > 0 {
		return s.classifyResponse(err)
	}
	// Errors of the HTTP client quote the URL, which contains the object's name.
	if e := new(url.Error); errors.As(err, &e) {
		err = e.Err
	}
	if hint := tlsHint(err); hint != "" {
		return fault.Mark(fault.Refused, fmt.Errorf("%s: %w", hint, err))
	}
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	if e := new(net.OpError); errors.As(err, &e) {
		return e
	}
	if e := new(net.DNSError); errors.As(err, &e) {
		return e
	}
	return fault.Innermost(err)
}

// classifyResponse adds a fault class and a hint to an error response.
func (s *bucketStore) classifyResponse(err error) error {
	answer := &responseError{}
	header := make(http.Header)
	var api smithy.APIError
	message := ""
	if errors.As(err, &api) {
		answer.code, message = api.ErrorCode(), api.ErrorMessage()
	}
	if response := new(awshttp.ResponseError); errors.As(err, &response) {
		answer.status, answer.request = response.HTTPStatusCode(), response.ServiceRequestID()
		if response.Response != nil {
			header = response.Response.Header
		}
	}
	switch {
	case otherRegion[answer.code] || answer.status == http.StatusMovedPermanently:
		moved := &regionError{region: regionOf(header, message), err: answer}
		answer.hint = "the bucket is in another region; name it with region="
		if moved.region != "" {
			answer.hint = "the bucket is in the region " + moved.region + "; write region=" + moved.region + " in the s3 url"
		}
		return fault.Mark(fault.Fatal, moved)
	case answer.code == "RequestTimeTooSkewed":
		answer.hint = "the clock of this machine or of the store is wrong; set it"
		return answer
	case answer.code == "ExpiredToken" && s.keys.token != "":
		answer.hint = "the session token has expired; renew session-token=, or leave the keys to the AWS SDK's own chain"
		return fault.Mark(fault.Refused, answer)
	}
	if hint, ok := fatal[answer.code]; ok {
		answer.hint = hint
		class := fault.Fatal
		if refusals[answer.code] {
			class = fault.Refused
		}
		return fault.Mark(class, answer)
	}
	if hint, ok := poison[answer.code]; ok {
		answer.hint = hint
		return fault.Mark(fault.Poison, answer)
	}
	if answer.status == http.StatusForbidden || answer.status == http.StatusUnauthorized {
		answer.hint = fatal["AccessDenied"]
		return fault.Mark(fault.Refused, answer)
	}
	return answer
}

var expectedRegion = regexp.MustCompile(`expecting ['"]([a-z0-9-]+)['"]`)

// regionOf returns the region that a response names as the bucket's region, or "" if the response
// names none.
func regionOf(header http.Header, message string) string {
	if region := header.Get("X-Amz-Bucket-Region"); regionName.MatchString(region) {
		return region
	}
	if m := expectedRegion.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return ""
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
		return "the store's certificate is for another name; with a bucket whose name has dots try path-style=true"
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &verify):
		return "the store's certificate is not trusted; name its authority in the environment variable AWS_CA_BUNDLE"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the store does not speak TLS at that port; add tls=false to the s3 url, or name another port"
	}
	return ""
}
