// Package awscredentials says why the AWS SDK finds no credentials.
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

// Explain gives an error of the SDK's chain of credentials its class, and a text
// that says what to do. Where the network is at fault that passes; a machine that
// is no instance of AWS has no instance's role, now or later. The remedy says how
// to give credentials otherwise, as an imperative. Texts of services are left
// out: they may say anything.
func Explain(err error, remedy string) error {
	var operation *smithy.OperationError
	var api smithy.APIError
	var network net.Error
	switch {
	case errors.As(err, &operation) && operation.ServiceID == "ec2imds":
		return None(remedy)
	case errors.As(err, &api):
		return fault.Mark(fault.Refused, fmt.Errorf("find AWS credentials: %s answers %s; correct the profile or the role, or what the role trusts", serviceOf(operation), api.ErrorCode()))
	case errors.As(err, new(*fs.PathError)): // whose cause looks like a network's
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		cause := fault.Innermost(err)
		if e := new(url.Error); errors.As(err, &e) {
			cause = e.Err
		}
		return fmt.Errorf("find AWS credentials: %w", cause)
	}
	return fault.Mark(fault.Refused, fmt.Errorf("find AWS credentials: %s; %s, or correct the environment, profile or role", reason(err), remedy))
}

// reason says what is wrong with a way to credentials. Other texts than these may
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

// None is the error where there are no credentials at all.
func None(remedy string) error {
	return fault.Mark(fault.Refused, fmt.Errorf("there are no AWS credentials: %s, or give the AWS SDK some in the environment, a profile or a role", remedy))
}

func serviceOf(operation *smithy.OperationError) string {
	if operation == nil {
		return "the service"
	}
	return operation.ServiceID
}
