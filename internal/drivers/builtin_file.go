//go:build !use_custom_driver || use_file

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/file"

func init() { builtin = append(builtin, file.Driver()) }
