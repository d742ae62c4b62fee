// Package awscredentials describes why the AWS SDK finds no credentials.
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

// ChainError returns an error of the SDK's chain of credentials with its class and a text that
// says what to do. A failure of the network is transient; a machine outside AWS never has an
// instance's role. remedy says how to give credentials otherwise, as an imperative. The error
// leaves out texts of services, which may hold secrets.
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
	case errors.As(err, new(*fs.PathError)): // its cause looks like a network's
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

// reason returns the reason why the SDK cannot use a source of credentials. Its own texts may
// quote values of the environment, a profile or the URL.
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

// NotFound returns the error if there are no credentials at all.
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
