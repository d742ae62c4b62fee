package cli

import (
	"os"

	"golang.org/x/sys/windows"
)

// enableEscapes enables escape sequences in a console, and reports whether that succeeded.
// Windows 10 and later versions support them.
func enableEscapes(f *os.File) bool {
	handle, mode := windows.Handle(f.Fd()), uint32(0)
	return windows.GetConsoleMode(handle, &mode) == nil &&
		windows.SetConsoleMode(handle, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
