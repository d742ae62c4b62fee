package awscredentials

import (
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// ConfigError returns a Refused error that says why the SDK cannot load its configuration. It does
// not quote the SDK's own text, which may contain values from the environment and from the
// configuration files.
func ConfigError(err error) error {
	why := "a variable of the environment whose name begins with AWS_ has a value that cannot be used"
	switch {
	case errors.As(err, new(config.SharedConfigProfileNotExistError)):
		why = "the configuration files do not have the requested profile; check AWS_PROFILE, and option profile if there is one"
	case errors.As(err, new(config.SharedConfigLoadError)):
		why = "a configuration file cannot be read"
	case errors.As(err, new(config.SharedConfigAssumeRoleError)), errors.As(err, new(config.CredentialRequiresARNError)):
		why = "the profile lacks settings to assume its role"
	}
	return fault.Mark(fault.Refused, fmt.Errorf("read the AWS configuration of the environment: %s", why))
}
