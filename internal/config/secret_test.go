package config_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/config"
)

const hidden = "hunter2"

func TestSecret_IsShownByRevealOnly(t *testing.T) {
	secret := config.NewSecret(hidden)
	type private struct{ inner config.Secret }
	type public struct{ Inner config.Secret }
	var shown []string
	for _, value := range []any{
		secret, &secret,
		private{secret},
		&private{secret},
		public{secret},
		[]config.Secret{secret},
		map[string]config.Secret{"a": secret},
		map[config.Secret]int{secret: 1},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%t", "%20s", "%-5v", "%c"} {
			shown = append(shown, fmt.Sprintf(verb, value))
		}
		if b, err := json.Marshal(value); err == nil {
			shown = append(shown, string(b))
		}
		if b, err := xml.Marshal(value); err == nil {
			shown = append(shown, string(b))
		}
		var b bytes.Buffer
		if toml.NewEncoder(&b).Encode(value) == nil {
			shown = append(shown, b.String())
		}
		if template.Must(template.New("").Parse("{{.}}")).Execute(&b, value) == nil {
			shown = append(shown, b.String())
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
			slog.New(h).Info("message", "key", value, slog.Group("group", "key", value))
		}
		shown = append(shown, b.String())
	}
	for _, s := range shown {
		if strings.Contains(s, hidden) || strings.Contains(s, fmt.Sprintf("%x", hidden)) || strings.Contains(s, fmt.Sprintf("%X", hidden)) {
			t.Errorf("shown: %s", s)
		}
	}
	if secret.Reveal() != hidden {
		t.Errorf("revealed: %q", secret.Reveal())
	}
}

func TestSecret_PrintsTheSameEverywhere(t *testing.T) {
	type shown struct{ V, S, Sharp, JSON, Text string }
	show := func(s config.Secret) shown {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		return shown{fmt.Sprintf("%v", s), s.String(), fmt.Sprintf("%#v", s), string(b), string(text)}
	}
	if diff := cmp.Diff(shown{"[redacted]", "[redacted]", `config.Secret("[redacted]")`, `"[redacted]"`, "[redacted]"},
		show(config.NewSecret(hidden))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(shown{"", "", `config.Secret("")`, `""`, ""}, show(config.Secret{})); diff != "" {
		t.Error(diff)
	}
}

func TestSecret_ComparesByText(t *testing.T) {
	if !config.NewSecret("a").Equal(config.NewSecret("a")) || config.NewSecret("a").Equal(config.NewSecret("b")) ||
		!config.NewSecret("").IsZero() || config.NewSecret("a").IsZero() {
		t.Error("secrets don't compare")
	}
}
