//go:build !use_custom_driver || use_sqlite

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/sqlite"

func init() { builtin = append(builtin, sqlite.Driver()) }
