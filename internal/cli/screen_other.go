//go:build !windows

package cli

import "os"

// enableEscapes returns true, because terminals support escape sequences on all systems except
// Windows.
func enableEscapes(*os.File) bool { return true }
