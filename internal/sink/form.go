package sink

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Form holds the values that the operator entered at HQ for the fields of a driver, and the errors
// found in these values.
type Form struct {
	fields []Field
	values map[string]string
	Wrong  []FieldError
}

// NewForm returns a Form with an error for each required field that has no value.
func NewForm(fields []Field, values map[string]string) *Form {
	f := &Form{fields: fields, values: values}
	for _, field := range fields {
		given := f.Get(field.Name)
		if field.Format != "" {
			given = values[field.Name] // a password may consist of blanks
		}
		if field.Required && given == "" {
			f.Refuse(field.Name, "a value is needed")
		}
	}
	return f
}

// Get returns the value of a field, without leading and trailing white space.
func (f *Form) Get(name string) string { return strings.TrimSpace(f.values[name]) }

// Refuse adds an error about the value of a field.
func (f *Form) Refuse(field, why string) {
	f.Wrong = append(f.Wrong, FieldError{Field: field, Error: why})
}

// Query returns the URL options of the fields that have both an Option and a value.
func (f *Form) Query() url.Values {
	query := make(url.Values)
	for _, field := range f.fields {
		if value := f.Get(field.Name); field.Option != "" && value != "" {
			query.Set(field.Option, value)
		}
	}
	return query
}

// Port returns the value of the field Port, or the argument standard if the field is empty. If the
// value is not a port number, Port also adds an error.
func (f *Form) Port(standard string) string {
	port := f.Get("Port")
	if port == "" {
		return standard
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		f.Refuse("Port", "it should be a number from 1 to 65535")
	}
	return port
}

// HostPort returns the host part of a URL, built from the fields Hostname and Port. If the field
// Port is empty, HostPort uses the argument standard instead. HostPort adds an error for an
// invalid host or port.
func (f *Form) HostPort(standard string) string {
	host := strings.Trim(f.Get("Hostname"), "[]")
	if !Host(host) {
		f.Refuse("Hostname", "it should be a host name or an address, without a port or a scheme")
	}
	return net.JoinHostPort(host, f.Port(standard))
}

// Loopback reports whether host refers to this machine. The parameter host must not include a
// port.
func Loopback(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// Host reports whether text can be a host name or an address in a URL.
func Host(text string) bool {
	if _, err := netip.ParseAddr(text); err != nil && strings.Contains(text, ":") {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || strings.ContainsRune("/@?#%\\\"'<>[]^`{|}$\x7f", r)
	})
}
