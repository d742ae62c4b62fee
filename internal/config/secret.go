package config

import (
	"fmt"
	"log/slog"
)

// redacted stands where a secret would.
const redacted = "[redacted]"

// Secret is text that shows itself to nobody who does not ask for it by name:
// formatted, marshalled or logged in any way it reads "[redacted]". The zero
// Secret is empty and reads "".
type Secret struct {
	// A pointer, because fmt prints the fields of a Secret that is itself an
	// unexported field without calling its methods: so it prints an address.
	text *string
}

// NewSecret returns a Secret that holds text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the Secret is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal reports whether both hold the same text.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString redacts %#v.
func (s Secret) GoString() string { return fmt.Sprintf("config.Secret(%q)", s.String()) }

// Format redacts every other verb.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	// A writer that fails here fails for its owner too.
	_, _ = f.Write([]byte(text))
}

// MarshalText redacts text encodings, JSON among them.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue redacts structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
