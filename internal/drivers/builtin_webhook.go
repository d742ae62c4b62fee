//go:build !use_custom_driver || use_webhook

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/webhook"

func init() { builtin = append(builtin, webhook.Driver()) }
