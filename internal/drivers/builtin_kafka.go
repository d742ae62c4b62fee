//go:build !use_custom_driver || use_kafka

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/kafka"

func init() { builtin = append(builtin, kafka.Driver()) }
