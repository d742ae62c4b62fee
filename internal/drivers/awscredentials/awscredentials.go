// Package awscredentials explains why the AWS SDK cannot find or use credentials.
package awscredentials

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os/exec"

	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/smithy-go"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// ChainError converts an error of the AWS SDK's credential chain to an error that has a fault class
// and a text that says what to do. Network failures are transient, with one exception: if the EC2
// metadata service cannot be reached, ChainError returns NotFound, because a machine outside AWS
// never has an instance role. The parameter remedy is an imperative that names another way to give
// credentials. The text does not quote the responses of services, because responses may contain
// secrets.
func ChainError(err error, remedy string) error {
	var operation *smithy.OperationError
	var api smithy.APIError
	var network net.Error
	switch {
	case errors.As(err, &operation) && operation.ServiceID == "ec2imds":
		return NotFound(remedy)
	case errors.As(err, &api):
		return fault.Mark(fault.Refused, fmt.Errorf("find AWS credentials: %s answers %s; "+
			"correct the profile, the role, or the role's trust policy", serviceOf(operation), api.ErrorCode()))
	case errors.As(err, new(*fs.PathError)): // it looks like a net.Error, too
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		cause := fault.Innermost(err)
		if e := new(url.Error); errors.As(err, &e) {
			cause = e.Err
		}
		return fmt.Errorf("find AWS credentials: %w", cause)
	}
	return fault.Mark(fault.Refused, fmt.Errorf("find AWS credentials: %s; %s, or correct the environment, profile or role",
		reason(err), remedy))
}

// reason returns a description of the source of credentials that the SDK cannot use. It does not
// quote the SDK's text, which may contain values from the environment, from a profile or from the
// URL.
func reason(err error) string {
	var file *fs.PathError
	var exit *exec.ExitError
	switch {
	case errors.As(err, &file):
		return "a file that the environment or a profile names cannot be read: " + file.Err.Error()
	case errors.As(err, &exit):
		return "credential_process failed: " + exit.Error()
	case errors.As(err, new(*ssocreds.InvalidTokenError)):
		return "the SSO session has expired; run: aws sso login"
	}
	return "a value of the environment, a profile or the url cannot be used"
}

// NotFound returns a Refused error for a machine that has no AWS credentials. The parameter remedy
// is as in ChainError.
func NotFound(remedy string) error {
	return fault.Mark(fault.Refused, fmt.Errorf("there are no AWS credentials: %s, "+
		"or give the AWS SDK some in the environment, a profile or a role", remedy))
}

func serviceOf(operation *smithy.OperationError) string {
	if operation == nil {
		return "the service"
	}
	return operation.ServiceID
}
