package supervisor

import (
	"bytes"
	"os"
	"strconv"
)

// memoryKills returns the number of processes that the system has killed since its start
// because memory ran out, of the machine or of a control group. It is 0 if the system does
// not report it; only Linux does.
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
