package config

import (
	"fmt"
	"log/slog"
)

// redacted is the text shown in place of a secret.
const redacted = "[redacted]"

// Secret is a text that only Reveal returns. Formatting, marshaling or logging a Secret gives
// "[redacted]". The zero Secret is empty and gives "".
type Secret struct {
	// text is a pointer because fmt does not call the methods of a Secret in an unexported field.
	// For such a Secret, fmt prints an address instead of the secret.
	text *string
}

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the secret text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the Secret is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal reports whether s and other have the same text.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString implements fmt.GoStringer. It redacts the secret for %#v.
func (s Secret) GoString() string { return fmt.Sprintf("config.Secret(%q)", s.String()) }

// Format implements fmt.Formatter. It redacts the secret for all other verbs.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	// The caller of fmt gets the same error from the writer.
	_, _ = f.Write([]byte(text))
}

// MarshalText implements encoding.TextMarshaler. It redacts the secret in all text encodings,
// including JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue implements slog.LogValuer. It redacts the secret in structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
