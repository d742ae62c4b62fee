//go:build !use_custom_driver || use_snowflake

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/snowflake"

func init() { builtin = append(builtin, snowflake.Driver(), snowflake.KeyPair()) }
