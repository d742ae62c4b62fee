package sink

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// JoinIdentity builds the result of Driver.Identity. The parameter host is a result of
// HostIdentity or HostsIdentity, and options are the options that identify the destination.
// JoinIdentity omits options without a value.
func JoinIdentity(scheme, host, path string, options url.Values) string {
	given := make(url.Values)
	for name, values := range options {
		if values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" }); len(values) > 0 {
			given[name] = values
		}
	}
	u := url.URL{Scheme: scheme, Host: host, RawQuery: given.Encode()}
	if path = strings.Trim(path, "/"); path != "" {
		u.Path = "/" + path
	}
	return u.String()
}

// HostIdentity returns the canonical spelling of a host and its port. If port is empty, the
// argument standard is used instead. If both are empty, the result has no port.
func HostIdentity(host, port, standard string) string {
	if !strings.HasPrefix(host, "/") { // the directory of a socket
		host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	}
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.String()
	}
	if port == "" {
		port = standard
	}
	if port == "" {
		return host
	}
	return net.JoinHostPort(host, port)
}

// HostsIdentity returns the canonical spelling of a comma-separated list of hosts: sorted and
// without duplicates. The argument standard is the default port of each host.
func HostsIdentity(list, standard string) string {
	var hosts []string
	for one := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(one)
		if err != nil {
			host, port = one, ""
		}
		hosts = append(hosts, HostIdentity(host, port, standard))
	}
	slices.Sort(hosts)
	return strings.Join(slices.Compact(hosts), ",")
}

// PickOptions returns the options of query that have one of the given names.
func PickOptions(query url.Values, names ...string) url.Values {
	picked := make(url.Values)
	for _, name := range names {
		if query.Has(name) {
			picked[name] = query[name]
		}
	}
	return picked
}

// Spelling returns the part of a URL that earlier versions used to identify a destination in the
// data directory. The URL may be masked. Spelling is not a reliable identity: two URLs of one
// destination may give different results, and two destinations may give the same result.
func Spelling(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return "***://"
	}
	rest, query, _ := strings.Cut(rest, "?")
	rest = maskHead(rest)
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	spelling := scheme + "://" + strings.TrimRight(rest, "/")
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(pair, "="); name == "schema" && value != "" {
			spelling += "?" + pair
		}
	}
	return spelling
}
