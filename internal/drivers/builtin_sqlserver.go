//go:build !use_custom_driver || use_sqlserver

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/sqlserver"

func init() { builtin = append(builtin, sqlserver.Driver()) }
