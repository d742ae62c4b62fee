package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// mask is the text that replaces a secret.
const mask = "***"

// Redact returns a handler that masks secrets in records before it passes them to next. It is
// the last line of defense: no code should log a secret.
//
// It masks text whose key names a secret (password, token, secret, seed, credential,
// authorization, ...). In all other text it masks passwords and secret options of URLs, JSON
// Web Tokens, NATS seeds, and the credentials of HTTP authorization headers. Values of types
// that it does not know are masked only if their key names a secret.
func Redact(next slog.Handler) slog.Handler { return redactor{next: next} }

type redactor struct {
	next   slog.Handler
	secret bool // an open group has a name that names a secret
}

func (h redactor) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h redactor) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, MaskText(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(redactAttr(a, h.secret))
		return true
	})
	return h.next.Handle(ctx, clean)
}

func (h redactor) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = redactAttr(a, h.secret)
	}
	return redactor{h.next.WithAttrs(clean), h.secret}
}

func (h redactor) WithGroup(name string) slog.Handler {
	return redactor{h.next.WithGroup(name), h.secret || secretKey.MatchString(name)}
}

var secretKey = regexp.MustCompile(`(?i)(pass(word|wd|phrase)?$|passw|secret|token|seed|credential|^creds?$|authorization|cookie|` +
	`api[-_]?key|private[-_]?key|access[-_]?key)`)

func redactAttr(a slog.Attr, secret bool) slog.Attr {
	secret = secret || secretKey.MatchString(a.Key)
	value := a.Value.Resolve()
	switch value.Kind() {
	case slog.KindGroup:
		members := make([]slog.Attr, len(value.Group()))
		for i, m := range value.Group() {
			members[i] = redactAttr(m, secret)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(members...)}
	case slog.KindString:
		return slog.String(a.Key, maskString(value.String(), secret))
	case slog.KindAny:
		return slog.Any(a.Key, maskAny(value.Any(), secret))
	default: // numbers, booleans and times are never secret
		return slog.Attr{Key: a.Key, Value: value}
	}
}

func maskString(text string, secret bool) string {
	if secret && text != "" {
		return mask
	}
	return MaskText(text)
}

func maskAny(value any, secret bool) any {
	switch value := value.(type) {
	case nil:
		return nil
	case error:
		return maskString(value.Error(), secret)
	case *url.URL:
		return maskString(value.String(), secret)
	case []string:
		clean := make([]string, len(value))
		for i, s := range value {
			clean[i] = maskString(s, secret)
		}
		return clean
	case map[string]string:
		clean := make(map[string]string, len(value))
		for k, s := range value {
			clean[k] = maskString(s, secret || secretKey.MatchString(k))
		}
		return clean
	case map[string]any:
		clean := make(map[string]any, len(value))
		for k, v := range value {
			clean[k] = maskAny(v, secret || secretKey.MatchString(k))
		}
		return clean
	case string:
		return maskString(value, secret)
	case http.Header:
		clean := make(map[string]any, len(value))
		for k, s := range value {
			clean[k] = maskAny(s, secret || secretKey.MatchString(k))
		}
		return clean
	}
	if secret {
		return mask
	}
	return value
}

var (
	// userInfo matches from :// to the last @ before a space or quote, because a password may
	// contain unescaped characters.
	userInfo = regexp.MustCompile("://[^\\s\"'`<>]*@")
	option   = regexp.MustCompile("(?i)([?&;][^=&;?\\s\"'`]*(?:pass|secret|token|key|credential|sas|sig)[^=&;\\s\"'`]*=)[^&;\\s\"'`]+")
	jwt      = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?`)
	natsSeed = regexp.MustCompile(`\bS[UAOCNX][A-Z2-7]{50,}\b`)
	bearer   = regexp.MustCompile(`(?i)\b(bearer|basic) +[A-Za-z0-9+/=._~-]{8,}`)
)

// MaskText returns text in which all secrets of a known form are masked.
func MaskText(text string) string {
	if strings.Contains(text, "://") {
		text = userInfo.ReplaceAllStringFunc(text, func(match string) string {
			user, _, hasPassword := strings.Cut(match[3:len(match)-1], ":")
			if !hasPassword {
				return match
			}
			return "://" + user + ":" + mask + "@"
		})
		text = option.ReplaceAllString(text, "${1}"+mask)
	}
	if strings.Contains(text, "eyJ") {
		text = jwt.ReplaceAllString(text, mask)
	}
	if len(text) >= 52 {
		text = natsSeed.ReplaceAllString(text, mask)
	}
	if strings.Contains(text, "earer ") || strings.Contains(text, "asic ") {
		text = bearer.ReplaceAllString(text, "${1} "+mask)
	}
	return text
}
