package supervisor

import (
	"bytes"
	"os"
	"strconv"
)

// memoryKills returns how many processes the system has killed because the machine or a control
// group ran out of memory. The count begins at the start of the system. It is 0 on systems other
// than Linux, which do not report the number.
func memoryKills() int64 {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	return memoryKillsIn(text)
}

func memoryKillsIn(vmstat []byte) int64 {
	for line := range bytes.Lines(vmstat) {
		if value, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
