package cli

import (
	"os"

	"golang.org/x/sys/windows"
)

// enableEscapes turns on escape sequences in a console, which Windows 10 and later support,
// and reports whether that worked.
func enableEscapes(f *os.File) bool {
	handle, mode := windows.Handle(f.Fd()), uint32(0)
	return windows.GetConsoleMode(handle, &mode) == nil &&
		windows.SetConsoleMode(handle, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
