//go:build !use_custom_driver || use_postgres

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/postgres"

func init() { builtin = append(builtin, postgres.Driver()) }
