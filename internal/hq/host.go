package hq

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/denisbrodbeck/machineid"
	"github.com/shirou/gopsutil/v4/host"
)

// OSInfo describes the machine to HQ.
type OSInfo struct {
	Host      *host.InfoStat `json:"host"`
	NumCPU    int            `json:"num_cpu"`
	GoVersion string         `json:"go_version"`
}

// DescribeHost fills in what HQ is told of this machine. What the machine does
// not tell stays empty; nothing here keeps a server from starting.
func DescribeHost(ctx context.Context, start *SessionStart) {
	start.MachineID = machineID()
	start.OSInfo = OSInfo{Host: &host.InfoStat{}, NumCPU: runtime.NumCPU(), GoVersion: runtime.Version()}
	if stat, err := host.InfoWithContext(ctx); err == nil && stat != nil {
		// The raw id of the machine stays on the machine.
		stat.HostID = start.MachineID
		start.OSInfo.Host = stat
	}
	if start.Hostname, _ = os.Hostname(); start.Hostname == "" {
		start.Hostname = start.OSInfo.Host.Hostname
	}
	start.IPAddress = address()
}

// machineID returns a hash of the machine's id that is ours alone, or "" on a
// machine that has no id, as some containers.
func machineID() string {
	if raw, err := machineid.ID(); err != nil || raw == "" {
		return ""
	}
	id, err := machineid.ProtectedID("eds")
	if err != nil {
		return ""
	}
	return id
}

// address returns this machine's address.
func address() string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var found []netip.Addr
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			found = append(found, prefix.Addr())
		}
	}
	return bestAddress(found)
}

// bestAddress returns the first private IPv4 address, else the first other IPv4
// address that reaches beyond the machine, else any such address, else "".
func bestAddress(all []netip.Addr) string {
	var any4, any6 string
	for _, a := range all {
		switch a = a.Unmap(); {
		case a.IsLoopback() || a.IsLinkLocalUnicast() || !a.IsValid():
		case a.Is4() && a.IsPrivate():
			return a.String()
		case a.Is4() && any4 == "":
			any4 = a.String()
		case a.Is6() && any6 == "":
			any6 = a.String()
		}
	}
	if any4 != "" {
		return any4
	}
	return any6
}
