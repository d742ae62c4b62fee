//go:build !windows

package cli

import "os"

// enableEscapes reports whether a terminal supports escape sequences, and returns true.
func enableEscapes(*os.File) bool { return true }
