package cli

import (
	"os"

	"golang.org/x/sys/windows"
)

// enableEscapes makes a console understand escape sequences, which those of Windows 10
// and later can, and reports whether it does.
func enableEscapes(f *os.File) bool {
	handle, mode := windows.Handle(f.Fd()), uint32(0)
	return windows.GetConsoleMode(handle, &mode) == nil &&
		windows.SetConsoleMode(handle, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
