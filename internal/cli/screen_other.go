//go:build !windows

package cli

import "os"

// enableEscapes reports whether a terminal understands escape sequences.
func enableEscapes(*os.File) bool { return true }
