//go:build !use_custom_driver || use_mysql

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/mysql"

func init() { builtin = append(builtin, mysql.Driver()) }
