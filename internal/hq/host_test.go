package hq

import (
	"net/netip"
	"testing"
)

func TestBestAddress_PrefersPrivateIPv4(t *testing.T) {
	for want, all := range map[string][]string{
		"10.1.2.3":    {"127.0.0.1", "::1", "fe80::1", "8.8.8.8", "10.1.2.3", "192.168.0.1"},
		"192.168.0.1": {"2001:db8::1", "::ffff:192.168.0.1"},
		"8.8.8.8":     {"127.0.0.1", "2001:db8::1", "8.8.8.8", "9.9.9.9"},
		"2001:db8::1": {"::1", "fe80::1", "2001:db8::1"},
		"":            {"127.0.0.1", "169.254.1.1", "fe80::1"},
	} {
		var addresses []netip.Addr
		for _, a := range all {
			addresses = append(addresses, netip.MustParseAddr(a))
		}
		if got := bestAddress(addresses); got != want {
			t.Errorf("%v: %q, want %q", all, got, want)
		}
	}
}
