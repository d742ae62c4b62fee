//go:build !use_custom_driver || use_s3

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/s3"

func init() { builtin = append(builtin, s3.Driver()) }
