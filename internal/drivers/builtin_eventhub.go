//go:build !use_custom_driver || use_eventhub

package drivers

import "github.com/shopmonkeyus/eds/internal/drivers/eventhub"

func init() { builtin = append(builtin, eventhub.Driver()) }
