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

// DescribeHost fills in the fields of start that describe this machine. Fields that it cannot
// determine stay empty; errors are ignored.
func DescribeHost(ctx context.Context, start *SessionStart) {
	start.MachineID = machineID()
	start.OSInfo = OSInfo{Host: &host.InfoStat{}, NumCPU: runtime.NumCPU(), GoVersion: runtime.Version()}
	if stat, err := host.InfoWithContext(ctx); err == nil && stat != nil {
		// The machine's raw id is not sent.
		stat.HostID = start.MachineID
		start.OSInfo.Host = stat
	}
	if start.Hostname, _ = os.Hostname(); start.Hostname == "" {
		start.Hostname = start.OSInfo.Host.Hostname
	}
	start.IPAddress = address()
}

// machineID returns a hash of the machine's id. Only eds uses this hash. On a machine without an
// id, such as in some containers, machineID returns "".
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

// address returns the IP address of this machine that bestAddress prefers, or "" if there is none.
func address() string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	var all []netip.Addr
	for _, a := range addresses {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, prefix.Addr())
		}
	}
	return bestAddress(all)
}

// bestAddress returns the first private IPv4 address in the list. If there is none, it returns the
// first other IPv4 address, and otherwise the first IPv6 address. It ignores loopback and
// link-local addresses. If no address is left, it returns "".
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
