package sink

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Form is the values that a user gave the fields of a driver, and what is wrong
// with them.
type Form struct {
	values map[string]string
	Wrong  []FieldError
}

// NewForm refuses required fields that have no value.
func NewForm(fields []Field, values map[string]string) *Form {
	f := &Form{values: values}
	for _, field := range fields {
		if field.Required && f.Get(field.Name) == "" && (field.Format == "" || values[field.Name] == "") { // a password may be blanks
			f.Refuse(field.Name, "a value is needed")
		}
	}
	return f
}

// Get returns the value of a field without blanks around it.
func (f *Form) Get(name string) string { return strings.TrimSpace(f.values[name]) }

// Refuse says what is wrong with the value of a field.
func (f *Form) Refuse(field, why string) {
	f.Wrong = append(f.Wrong, FieldError{Field: field, Error: why})
}

// Port returns the field Port, or standard where it is empty.
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

// HostPort returns the host of a URL, of the fields Hostname and Port.
func (f *Form) HostPort(standard string) string {
	host := strings.Trim(f.Get("Hostname"), "[]")
	if !Host(host) {
		f.Refuse("Hostname", "it should be a host name or an address, without a port or a scheme")
	}
	return net.JoinHostPort(host, f.Port(standard))
}

// Host reports whether text can be a host name or an address in a URL.
func Host(text string) bool {
	if _, err := netip.ParseAddr(text); err != nil && strings.Contains(text, ":") {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || strings.ContainsRune("/@?#%\\\"'<>[]^`{|}$\x7f", r) })
}
